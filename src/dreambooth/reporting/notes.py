"""What a table says about itself: what its intervals are over, its floor, and what it lacks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from dreambooth.metrics.applications import OUTCOMES
from dreambooth.metrics.columns import image_set_of
from dreambooth.reporting.floor import between_seeds, shipped, shipped_floor, tests_below
from dreambooth.reporting.scores import ScoreReader
from dreambooth.reporting.settings import ABSENT
from dreambooth.reporting.statistics import Estimate
from dreambooth.reporting.study import Cell, Study
from dreambooth.reporting.tables import Column, Entry, TableRow

_SHARES = ("clean", "class_accuracy", "context_accuracy", *OUTCOMES, "copied")
_FEW = 20  # units below which a strong skew costs coverage (benchmarks/coverage.py)


def remark(cell: Cell, metric: str, estimate: Estimate | None) -> str:
    """Say why a cell has no estimate, or what limits the estimate that it has."""
    if estimate is None:
        states = Counter(trial.status.state for trial in cell.trials)
        if not states["finished"]:
            return ", ".join(f"{count} {state}" for state, count in states.items())
        return "not measured"
    if has_wrong_class_prompt(cell, metric):
        return "another class"
    return "no interval" if math.isnan(estimate.low) else ""


def share_class_prompt(a: Cell, b: Cell, metric: str) -> bool:
    """Whether two cells can be compared by a metric: one of the class prompt needs the same."""
    if a.settings.get("class") == b.settings.get("class"):
        return True
    return not any(has_wrong_class_prompt(cell, metric) for cell in (a, b))


def has_wrong_class_prompt(cell: Cell, metric: str) -> bool:
    """Whether a metric of the class prompt is measured with a wrong class noun."""
    right_prompt = (None, ABSENT, "none", "correct")
    return image_set_of(metric) == "class" and cell.settings.get("class") not in right_prompt


def notes_on(
    study: Study,
    cells: Sequence[Cell],
    columns: Sequence[Column],
    rows: Sequence[TableRow],
    reader: ScoreReader,
) -> list[str]:
    """Return notes on how to read a table."""
    notes = [*units_in_words(cells, rows), *_floor_notes(study, cells, columns, reader)]
    if any(has_wrong_class_prompt(cell, c.key) for cell in cells for c in columns):
        notes.append(
            "Another class: with a wrong class noun, the class prompt has the wrong noun too. Its "
            "scores are not compared with those of other nouns."
        )
    if any(entry.text == "no interval" for row in rows for entry in row.entries.values()):
        notes.append("No interval: the runs recorded the mean only, no score for each image.")
    for cell in cells:
        unfinished = Counter(t.status.state for t in cell.trials if t.status.state != "finished")
        if cell.finished and unfinished:
            states = ", ".join(f"{count} {state}" for state, count in unfinished.items())
            notes.append(f"{cell.label}: without {states} of its {len(cell.trials)} runs.")
    return notes


def units_in_words(cells: Sequence[Cell], rows: Sequence[TableRow]) -> list[str]:
    """What the intervals are over, and what they say nothing about."""
    estimates = [e for row in rows for entry in row.entries.values() if (e := entry.estimate)]
    units = {estimate.unit for estimate in estimates}
    subjects = dict.fromkeys(trial.subject for cell in cells for trial in cell.finished)
    notes = []
    if "subjects" in units:
        least, most = _ends([e.num_subjects for e in estimates if e.unit == "subjects"])
        over = _counted(least, most, "subject")
        notes.append(f"Intervals and tests are over {over}.{_caveat(least)}")
    if "trainings" in units:
        least, most = _ends([e.num_trainings for e in estimates if e.unit == "trainings"])
        notes.append(
            f"One subject: intervals and tests are over {_counted(least, most, 'training')} and "
            f"are about {' or '.join(subjects)} only, not about other subjects.{_caveat(least)}"
        )
    if units & {"prompts", "images"}:
        notes.append(
            "One training run of a setting: its intervals are the spread over its prompts (over "
            "its images, if they share one prompt). They say nothing about another training of "
            "the same setting, nor about other subjects."
        )
    shares = [e for row in rows for key in _SHARES if (e := row.entries.get(key, Entry()).estimate)]
    if any(e.num_subjects < _FEW and min(e.mean, 1 - e.mean) < 0.1 for e in shares):
        notes.append(
            "For shares near 0 or 1 and few subjects, the intervals of means are too wide, and "
            "those of differences too narrow (docs/statistics.md)."
        )
    return notes


def _caveat(units: int) -> str:
    if units == 2:
        return (
            " With two, a 95 % interval contains the true mean in 95 % of studies only if the two "
            "vary normally: in fewer if their distribution is skewed, in far fewer for a "
            "difference of shares near 1. A test finds almost nothing."
        )
    if units < _FEW:
        return (
            " With so few, a 95 % interval contains the true mean in 95 % of studies if their "
            "distribution is symmetric, and in about 92 % if it is strongly skewed."
        )
    return ""


def floor_row(
    study: Study, cells: Sequence[Cell], columns: Sequence[Column], reader: ScoreReader
) -> list[TableRow]:
    """The standard deviation between seeds, beside each metric; no row where none is known."""
    own = {column.key: between_seeds(cells, column.key, reader) for column in columns}
    label = "SD between seeds of a setting"
    if not any(own.values()):
        model = _model(study, cells)
        own = {c.key: shipped_floor(model, c.key, c.protocol) for c in columns}
        label = f"SD between seeds, as measured for {model} before"
    if not any(own.values()):
        return []
    entries = {
        key: Entry(text=f"{floor.sd:.3f} ({floor.num_trainings} trainings)" if floor else "")
        for key, floor in own.items()
    }
    return [TableRow("", label, entries)]


def _floor_notes(
    study: Study, cells: Sequence[Cell], columns: Sequence[Column], reader: ScoreReader
) -> list[str]:
    metrics = [column.key for column in columns]
    if any(between_seeds(cells, metric, reader) for metric in metrics):
        below, count = tests_below(cells, metrics, reader)
        if not count:
            return [
                "A/A tests (a setting against itself under other seeds) need five pairs of seeds."
            ]
        return [
            f"A/A tests (a setting against itself under other seeds): {below} of {count} have "
            f"p < 0.05, {below / count:.0%}; about 5 % are to be expected."
        ]
    if known := shipped(_model(study, cells)):
        return [f"The SD between seeds is of another study: {known['command']}"]
    return [
        "How far two trainings of one setting differ by their seeds is unknown: no setting here "
        "has two seeds of a subject, and it was not measured for this model before."
    ]


def _model(study: Study, cells: Sequence[Cell]) -> str:
    """The model of all cells; "" if they differ."""
    models = {cell.settings.get("model", study.fixed.get("model", "")) for cell in cells}
    return models.pop() if len(models) == 1 else ""


def _ends(counts: Sequence[int]) -> tuple[int, int]:
    return min(counts), max(counts)


def _counted(few: int, most: int, noun: str) -> str:
    return f"{few if few == most else f'{few} to {most}'} {noun}{'' if most == 1 else 's'}"
