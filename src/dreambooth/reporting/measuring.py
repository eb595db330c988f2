"""A study as the paper's tables, along each of its axes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from dreambooth.reporting.families import applications, limitations
from dreambooth.reporting.paper import (
    PAPER_TABLES,
    PaperTable,
    as_in_paper,
    claimed,
    paper_difference,
    paper_value,
)
from dreambooth.reporting.scores import (
    HEADINGS,
    STEPS,
    Heading,
    Measured,
    Part,
    image_set_of,
    shared_protocol,
    uniform_parts,
)
from dreambooth.reporting.settings import ABSENT, key_of, label_of, order_of, told
from dreambooth.reporting.statistics import Difference, Estimate, difference, holm
from dreambooth.reporting.study import Cell, Study
from dreambooth.reporting.tables import Column, Comparison, Entry, Table, TableRow


def tables_of(study: Study) -> list[Table]:
    """The tables whose axis the study has, then those that need none.

    Runs that were not measured alike are in tables of their own. Comparisons hold all settings but
    one; a claim of the paper is looked for where the others are as in the paper.
    """
    known = {table.axis: table for table in PAPER_TABLES}
    others = [axis for axis in study.axes if axis not in known]
    plans = [table for table in PAPER_TABLES if table.axis in study.axes]
    plans += [_other(axis) for axis in others]
    measured, tables = Measured(), list[Table]()
    for plan in plans:
        parts = uniform_parts(study, by_steps=plan.axis not in STEPS)
        made = [_along(plan, part, measured) for part in parts]
        tables += [table for table in made if table is not None]
    for part in uniform_parts(study):
        made = [applications(part, measured), limitations(part, measured)]
        tables += [table for table in made if table is not None]
    return _with_keys_of_their_own(tables)


def _other(axis: str) -> PaperTable:
    """A table of an axis that the paper does not have."""
    metrics = ("dino", "identity", "clip_i", "clip_t", "pres", "drift", "div", "diversity")
    return PaperTable(key_of(axis), axis, axis, "", (*metrics, "context_accuracy"))


def _along(plan: PaperTable, part: Part, measured: Measured) -> Table | None:
    """A table along one axis: all cells that have it; None where no score of it is there."""
    study = part.study
    cells = [cell for cell in study.cells if plan.axis in cell.settings]
    columns = _columns(plan.metrics, cells)
    if not columns or len({cell.settings[plan.axis] for cell in cells}) < 2:
        return None
    rows = [_row(plan, cell, study, columns, measured) for cell in cells]
    if any(as_in_paper(cell, study, plan.axis) for cell in cells):
        rows += [
            TableRow("", f"{label}, the paper", _paper_only(columns, values))
            for label, values in plan.others.items()
        ]
    comparisons = [
        found
        for a, b in _pairs(plan, cells, study)
        for column in columns
        if (found := _compared(plan, study, column, a, b, measured)) is not None
    ]
    notes = [plan.note] if plan.note else []
    notes += [part.note] if part.note else []
    if plan.source and not any(as_in_paper(cell, study, plan.axis) for cell in cells):
        notes.append("Without the paper's values and claims: no row is known to have its settings.")
    return Table(
        plan.key,
        f"{plan.title} ({part.words})" if part.words else plan.title,
        plan.source,
        columns,
        rows,
        _judged(comparisons),
        [*notes, *_notes(cells, columns, rows)],
        part.words,
    )


def _columns(metrics: Sequence[str], cells: Sequence[Cell]) -> list[Column]:
    """Those that some run has, each with its protocol."""
    found = []
    for metric in metrics:
        own = [t.metrics[metric] for cell in cells for t in cell.finished if metric in t.metrics]
        if any(not math.isnan(one.value) for one in own):
            protocol = shared_protocol(own[0].protocol)
            heading = HEADINGS.get(metric, Heading(metric))
            found.append(Column(metric, heading.text, heading.better, protocol))
    return found


def _row(
    plan: PaperTable, cell: Cell, study: Study, columns: Sequence[Column], measured: Measured
) -> TableRow:
    like_paper = as_in_paper(cell, study, plan.axis)
    entries = {}
    for column in columns:
        value = cell.settings[plan.axis]
        paper = paper_value(plan, column.key, value) if like_paper else None
        estimate = measured.estimate(cell.finished, column.key)
        entries[column.key] = Entry(estimate, paper, remark(cell, column.key, estimate))
    return TableRow(cell.key, cell.label, entries)


def remark(cell: Cell, metric: str, estimate: Estimate | None) -> str:
    """Why a cell has no estimate, or what to know of the one it has."""
    if estimate is None:
        states = Counter(trial.status.state for trial in cell.trials)
        if not states["finished"]:
            return ", ".join(f"{count} {state}" for state, count in states.items())
        return "not measured"
    if _of_another_class(cell, metric):
        return "another class"
    return "no interval" if math.isnan(estimate.low) else ""


def _of_another_class(cell: Cell, metric: str) -> bool:
    """With a wrong class noun, the class prompt is another one."""
    return image_set_of(metric) == "class" and cell.settings.get("class") not in (
        *(None, ABSENT, "none", "correct"),
    )


def _paper_only(columns: Sequence[Column], values: Mapping[str, float]) -> dict[str, Entry]:
    return {column.key: Entry(None, values.get(column.key)) for column in columns}


def _pairs(plan: PaperTable, cells: Sequence[Cell], study: Study) -> list[tuple[Cell, Cell]]:
    """Cells that differ in the axis only, the paper's choice first; of more than four values each
    with the last, but the lowest noise level, which is the paper's choice, with each other.

    Other methods, which may have no lambda or class noun, with DreamBooth as in the paper.
    """
    if plan.axis == "method":
        ours = [c for c in cells if c.settings["method"] == "dreambooth"]
        ours = [c for c in ours if as_in_paper(c, study, plan.axis)] or ours
        return [(a, b) for b in cells if b.settings["method"] != "dreambooth" for a in ours]
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        at = tuple(v for axis, v in cell.settings.items() if axis != plan.axis)
        groups.setdefault(at, []).append(cell)
    pairs: list[tuple[Cell, Cell]] = []
    for group in groups.values():
        ordered = sorted(group, key=lambda cell: order_of(plan.axis, cell.settings[plan.axis]))
        ordered = ordered if plan.best_first else ordered[::-1]
        if len(ordered) <= 4:
            pairs += combinations(ordered, 2)
        elif plan.axis == "sr":
            pairs += [(ordered[0], cell) for cell in ordered[1:]]
        else:
            pairs += [(cell, ordered[-1]) for cell in ordered[:-1]]
    return pairs


def _compared(
    plan: PaperTable, study: Study, column: Column, a: Cell, b: Cell, measured: Measured
) -> tuple[Comparison, int] | None:
    """The comparison, not judged yet, and the sign that the paper claims; 0: none."""
    one_class = a.settings.get("class") == b.settings.get("class")
    if not one_class and any(_of_another_class(cell, column.key) for cell in (a, b)):
        return None
    found = difference(*(measured.scores(cell.finished, column.key) for cell in (a, b)))
    if found is None or math.isnan(found.low):
        return None
    values = [cell.settings[plan.axis] for cell in (a, b)]
    claim, sign, paper = "", 0, None
    if as_in_paper(a, study, plan.axis) and as_in_paper(b, study, plan.axis):
        claim, sign = claimed(plan, column.key, *values)
        paper = paper_difference(plan, column.key, *values)
    rest = label_of({axis: v for axis, v in a.settings.items() if axis != plan.axis})
    names = " - ".join(told(plan.axis, value) for value in values)
    sentence = f"{names}{f', {rest}' if rest else ''}: {column.heading} {in_words(found)}"
    return Comparison(column.key, a.key, b.key, found, paper, claim, None, sentence), sign


def in_words(found: Difference) -> str:
    """ "+0.934 (+0.903, +0.951)"."""
    return f"{found.mean:+.3f} ({found.low:+.3f}, {found.high:+.3f})"


def _judged(comparisons: Sequence[tuple[Comparison, int]]) -> list[Comparison]:
    """With p corrected for all of which the paper says something, and apart for all others, and
    whether what is then settled agrees with the paper."""
    said = iter(holm([one.difference for one, sign in comparisons if sign]))
    others = iter(holm([one.difference for one, sign in comparisons if not sign]))
    found = []
    for comparison, sign in comparisons:
        d = next(said if sign else others)
        settled = sign and d.p_holm < 0.05 and not d.low <= 0 <= d.high
        agrees = (d.mean > 0) == (sign > 0) if settled else None
        found.append(replace(comparison, difference=d, agrees=agrees))
    return found


def _notes(cells: Sequence[Cell], columns: Sequence[Column], rows: Sequence[TableRow]) -> list[str]:
    """How to read a table."""
    finished = [trial for cell in cells for trial in cell.finished]
    subjects = dict.fromkeys(trial.subject for trial in finished)
    seeds = dict.fromkeys(trial.seed for trial in finished if trial.seed)
    notes = []
    if len(subjects) == 1:
        more = " seeds are averaged," if len(seeds) > 1 else ""
        notes.append(
            f"One subject ({next(iter(subjects))}):{more} intervals and tests are over its prompts "
            "and pictures, and say nothing of other subjects."
        )
    else:
        notes.append(f"Intervals and tests are over {len(subjects)} subjects.")
    if any(_of_another_class(cell, c.key) for cell in cells for c in columns):
        notes.append(
            "Another class: with a wrong class noun the class prompt has the wrong noun too. Its "
            "scores are not compared with those of other nouns."
        )
    if any(entry.text == "no interval" for row in rows for entry in row.entries.values()):
        notes.append("No interval: a single number, of runs that keep no score of each picture.")
    for cell in cells:
        unfinished = Counter(t.status.state for t in cell.trials if t.status.state != "finished")
        if cell.finished and unfinished:
            states = ", ".join(f"{count} {state}" for state, count in unfinished.items())
            notes.append(f"{cell.label}: without {states} of its {len(cell.trials)} runs.")
    return notes


def _with_keys_of_their_own(tables: Sequence[Table]) -> list[Table]:
    seen: Counter[str] = Counter()
    found = []
    for table in tables:
        seen[table.key] += 1
        number = seen[table.key]
        found.append(table if number == 1 else replace(table, key=f"{table.key}-{number}"))
    return found
