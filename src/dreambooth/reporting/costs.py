"""The time, memory, parameters and disk space that runs took, from their provenance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from dreambooth.reporting.study import Cell, Study, Trial
from dreambooth.reporting.tables import Column, Entry, Table, TableRow


def costs(trials: Sequence[Trial]) -> list[tuple[str, str]]:
    """Return (name, text) pairs: the time of all runs by phase, and the peak memory of a run."""
    known = [trial.provenance for trial in trials if trial.provenance]
    seconds: Counter[str] = Counter()
    for provenance in known:
        seconds.update(provenance.get("seconds", {}))
    found = []
    if seconds:
        parts = [f"{name.replace('_', ' ')} {_hours(s)}" for name, s in seconds.most_common()]
        total = f"{_hours(sum(seconds.values()))} ({', '.join(parts)})"
        found.append(("time of all runs", f"{total}; energy was not measured"))
    for key, name in (
        ("peak_memory_bytes", "peak memory of a run"),
        ("peak_gpu_memory_bytes", "peak GPU memory of a run"),
    ):
        if peaks := [provenance[key] for provenance in known if key in provenance]:
            found.append((name, f"{max(peaks) / 1e9:.2f} GB at most"))
    return found


def trained_parameters(study: Study) -> dict[str, int]:
    """Return Cell.key -> how many parameters a run of it trained, for the cells that recorded it.

    {} unless the cells differ.
    """
    counts = {cell.key: _recorded(cell, "trained_parameters", max) for cell in study.cells}
    known = {key: int(count) for key, count in counts.items() if count is not None}
    return known if len(set(known.values())) > 1 else {}


def costs_tables(study: Study) -> list[Table]:
    """Return a table of what each cell costs, if the cells differ in their trained parameters."""
    if not trained_parameters(study):
        return []
    columns = [column for column in _COLUMNS if any(_text(c, column.key) for c in study.cells)]
    rows = [
        TableRow(cell.key, cell.label, {c.key: Entry(text=_text(cell, c.key)) for c in columns})
        for cell in study.cells
        if cell.finished
    ]
    machines = {str(t.provenance.get("hardware")) for cell in study.cells for t in cell.finished}
    notes = ["Times are of several machines: do not compare them."] if len(machines) > 1 else []
    return [Table("costs", "What each setting costs", "", columns, rows, [], notes)]


_COLUMNS = [
    Column("trained_parameters", "trained parameters", "", "of all trained stages together"),
    Column("weights_bytes", "weights, MB", "lower", "the files in weights/; 1 MB is 10^6 bytes"),
    Column("step_ms", "step, ms", "lower", "median over the base stage's steps, and the runs"),
    Column(
        "peak_memory_bytes",
        "memory, GB",
        "lower",
        "most of a run with its images, over the runs",
    ),
    Column(
        "peak_gpu_memory_bytes",
        "GPU memory, GB",
        "lower",
        "most that was allocated in a run with its images, over the runs",
    ),
]
_MERGED: Mapping[str, tuple[Callable[[Iterable[float]], float], Callable[[float], str]]] = {
    "trained_parameters": (max, "{:.0f}".format),
    "weights_bytes": (max, lambda size: f"{size / 1e6:.3g}"),
    "step_ms": (median, "{:.0f}".format),
    "peak_memory_bytes": (max, lambda size: f"{size / 1e9:.2f}"),
    "peak_gpu_memory_bytes": (max, lambda size: f"{size / 1e9:.2f}"),
}


def _text(cell: Cell, key: str) -> str:
    merge, words = _MERGED[key]
    value = _recorded(cell, key, merge)
    return "" if value is None else words(value)


def _recorded(cell: Cell, key: str, merge: Callable[[Iterable[float]], float]) -> float | None:
    """What the finished runs of a cell recorded, as one number; None if they recorded nothing."""
    recorded: list[Mapping[str, Any]] = [
        {**trial.provenance, **trial.provenance.get("costs", {})} for trial in cell.finished
    ]
    values = [record[key] for record in recorded if key in record]
    return merge(values) if values else None


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 36 else f"{seconds:.1f} s"
