"""The time and memory that runs took, from their provenance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dreambooth.reporting.study import Trial


def costs(trials: Sequence[Trial]) -> list[tuple[str, str]]:
    """Return (name, text) pairs: the time of all runs by phase, and the peak memory of a run."""
    known = [trial.provenance for trial in trials if trial.provenance]
    seconds: Counter[str] = Counter()
    for provenance in known:
        seconds.update(provenance.get("seconds", {}))
    costs = []
    if seconds:
        parts = [f"{name.replace('_', ' ')} {_hours(s)}" for name, s in seconds.most_common()]
        total = f"{_hours(sum(seconds.values()))} ({', '.join(parts)})"
        costs.append(("time of all runs", f"{total}; energy was not measured"))
    for key, name in (
        ("peak_memory_bytes", "peak memory of a run"),
        ("peak_gpu_memory_bytes", "peak GPU memory of a run"),
    ):
        if peaks := [provenance[key] for provenance in known if key in provenance]:
            costs.append((name, f"{max(peaks) / 1e9:.2f} GB at most"))
    return costs


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 36 else f"{seconds:.1f} s"
