"""What runs cost, by what they say of themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dreambooth.reporting.study import Trial


def costs(trials: Sequence[Trial]) -> list[tuple[str, str]]:
    """Name and words: the time of all runs and of its parts, and the most memory that one took."""
    known = [trial.provenance for trial in trials if trial.provenance]
    seconds: Counter[str] = Counter()
    for provenance in known:
        seconds.update(provenance.get("seconds", {}))
    found = []
    if seconds:
        parts = [f"{name.replace('_', ' ')} {_hours(s)}" for name, s in seconds.most_common()]
        all_of_it = f"{_hours(sum(seconds.values()))} ({', '.join(parts)})"
        found.append(("time of all runs", f"{all_of_it}; energy was not measured"))
    for key, name in (
        ("peak_memory_bytes", "peak memory of a run"),
        ("peak_gpu_memory_bytes", "peak GPU memory of a run"),
    ):
        if peaks := [provenance[key] for provenance in known if key in provenance]:
            found.append((name, f"{max(peaks) / 1e9:.2f} GB at most"))
    return found


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 36 else f"{seconds:.1f} s"
