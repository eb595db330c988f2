"""Makes the tables of a study: one along each axis, as in the paper."""

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
    Part,
    ScoreReader,
    image_set_of,
    shared_protocol,
    uniform_parts,
)
from dreambooth.reporting.settings import ABSENT, key_of, label_of, order_of, setting_in_words
from dreambooth.reporting.statistics import Difference, Estimate, difference, holm
from dreambooth.reporting.study import Cell, Study
from dreambooth.reporting.tables import Column, Comparison, Entry, Table, TableRow


def tables_of(study: Study) -> list[Table]:
    """Return a table for each axis that varies, then applications and limitations.

    Runs that were measured differently are in separate tables. The cells of a comparison differ in
    one setting only. A comparison is checked against the paper's claims if all other settings are
    those of the paper.
    """
    paper_axes = [table.axis for table in PAPER_TABLES]
    plans = [table for table in PAPER_TABLES if table.axis in study.axes]
    plans += [_plan_without_paper(axis) for axis in study.axes if axis not in paper_axes]
    reader, tables = ScoreReader(), list[Table | None]()
    for plan in plans:
        for part in uniform_parts(study, by_steps=plan.axis not in STEPS):
            tables.append(_along(plan, part, reader))
    for part in uniform_parts(study):
        tables += [applications(part, reader), limitations(part, reader)]
    return _with_unique_keys([table for table in tables if table is not None])


def _plan_without_paper(axis: str) -> PaperTable:
    """Return the plan of a table along an axis that the paper does not vary."""
    metrics = ("dino", "identity", "clip_i", "clip_t", "pres", "drift", "div", "diversity")
    return PaperTable(key_of(axis), axis, axis, "", (*metrics, "context_accuracy"))


def _along(plan: PaperTable, part: Part, reader: ScoreReader) -> Table | None:
    """Return a table along one axis, of the cells that have it.

    None if no score was measured or the axis has fewer than two values.
    """
    study = part.study
    cells = [cell for cell in study.cells if plan.axis in cell.settings]
    columns = _columns(plan.metrics, cells)
    if not columns or len({cell.settings[plan.axis] for cell in cells}) < 2:
        return None
    rows = [_row(plan, cell, study, columns, reader) for cell in cells]
    if any(as_in_paper(cell, study, plan.axis) for cell in cells):
        rows += [
            TableRow("", f"{label}, the paper", _paper_only(columns, values))
            for label, values in plan.others.items()
        ]
    comparisons = [
        comparison
        for a, b in _pairs(plan, cells, study)
        for column in columns
        if (comparison := _compare(plan, study, column, a, b, reader)) is not None
    ]
    notes = [plan.note] if plan.note else []
    notes += [part.note] if part.note else []
    if plan.source and not any(as_in_paper(cell, study, plan.axis) for cell in cells):
        notes.append("The paper's values and claims are left out: no row has the paper's settings.")
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
    """Return a column for each metric that at least one run has."""
    columns = []
    for metric in metrics:
        results = [
            t.metrics[metric] for cell in cells for t in cell.finished if metric in t.metrics
        ]
        if any(not math.isnan(result.value) for result in results):
            protocol = shared_protocol(results[0].protocol)
            heading = HEADINGS.get(metric, Heading(metric))
            columns.append(Column(metric, heading.text, heading.better, protocol))
    return columns


def _row(
    plan: PaperTable, cell: Cell, study: Study, columns: Sequence[Column], reader: ScoreReader
) -> TableRow:
    like_paper = as_in_paper(cell, study, plan.axis)
    entries = {}
    for column in columns:
        value = cell.settings[plan.axis]
        paper = paper_value(plan, column.key, value) if like_paper else None
        estimate = reader.estimate(cell.finished, column.key)
        entries[column.key] = Entry(estimate, paper, remark(cell, column.key, estimate))
    return TableRow(cell.key, cell.label, entries)


def remark(cell: Cell, metric: str, estimate: Estimate | None) -> str:
    """Say why a cell has no estimate, or what limits the estimate that it has."""
    if estimate is None:
        states = Counter(trial.status.state for trial in cell.trials)
        if not states["finished"]:
            return ", ".join(f"{count} {state}" for state, count in states.items())
        return "not measured"
    if _has_wrong_class_prompt(cell, metric):
        return "another class"
    return "no interval" if math.isnan(estimate.low) else ""


def _has_wrong_class_prompt(cell: Cell, metric: str) -> bool:
    """Whether a metric of the class prompt is measured with a wrong class noun."""
    right_prompt = (None, ABSENT, "none", "correct")
    return image_set_of(metric) == "class" and cell.settings.get("class") not in right_prompt


def _paper_only(columns: Sequence[Column], values: Mapping[str, float]) -> dict[str, Entry]:
    return {column.key: Entry(None, values.get(column.key)) for column in columns}


def _pairs(plan: PaperTable, cells: Sequence[Cell], study: Study) -> list[tuple[Cell, Cell]]:
    """Return pairs of cells that differ in the axis only, the paper's choice first.

    Up to four values are compared with one another. Of more, each is compared with the last, but
    noise levels are compared with the lowest, which is the paper's choice. Other methods may have
    no lambda or class noun; they are compared with DreamBooth at the paper's settings.
    """
    if plan.axis == "method":
        dreambooth = [c for c in cells if c.settings["method"] == "dreambooth"]
        dreambooth = [c for c in dreambooth if as_in_paper(c, study, plan.axis)] or dreambooth
        return [(a, b) for b in cells if b.settings["method"] != "dreambooth" for a in dreambooth]
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        other_settings = tuple(v for axis, v in cell.settings.items() if axis != plan.axis)
        groups.setdefault(other_settings, []).append(cell)
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


def _compare(
    plan: PaperTable, study: Study, column: Column, a: Cell, b: Cell, reader: ScoreReader
) -> tuple[Comparison, int] | None:
    """Return the comparison, not yet judged, and the sign that the paper claims; 0 for no claim."""
    same_class = a.settings.get("class") == b.settings.get("class")
    if not same_class and any(_has_wrong_class_prompt(cell, column.key) for cell in (a, b)):
        return None
    result = difference(*(reader.scores(cell.finished, column.key) for cell in (a, b)))
    if result is None or math.isnan(result.low):
        return None
    values = [cell.settings[plan.axis] for cell in (a, b)]
    claim, sign, paper = "", 0, None
    if as_in_paper(a, study, plan.axis) and as_in_paper(b, study, plan.axis):
        claim, sign = claimed(plan, column.key, *values)
        paper = paper_difference(plan, column.key, *values)
    rest = label_of({axis: v for axis, v in a.settings.items() if axis != plan.axis})
    names = " - ".join(setting_in_words(plan.axis, value) for value in values)
    sentence = f"{names}{f', {rest}' if rest else ''}: {column.heading} {_with_interval(result)}"
    return Comparison(column.key, a.key, b.key, result, paper, claim, None, sentence), sign


def _with_interval(d: Difference) -> str:
    """ "+0.934 (+0.903, +0.951)"."""
    return f"{d.mean:+.3f} ({d.low:+.3f}, {d.high:+.3f})"


def _judged(comparisons: Sequence[tuple[Comparison, int]]) -> list[Comparison]:
    """Correct p, and judge whether each settled comparison agrees with the paper.

    p is corrected for all comparisons that the paper makes a claim about, and separately for the
    others.
    """
    with_claim = iter(holm([comparison.difference for comparison, sign in comparisons if sign]))
    without_claim = iter(
        holm([comparison.difference for comparison, sign in comparisons if not sign])
    )
    judged = []
    for comparison, sign in comparisons:
        d = next(with_claim if sign else without_claim)
        settled = sign and d.p_holm < 0.05 and not d.low <= 0 <= d.high
        agrees = (d.mean > 0) == (sign > 0) if settled else None
        judged.append(replace(comparison, difference=d, agrees=agrees))
    return judged


def _notes(cells: Sequence[Cell], columns: Sequence[Column], rows: Sequence[TableRow]) -> list[str]:
    """Return notes on how to read a table."""
    finished = [trial for cell in cells for trial in cell.finished]
    subjects = dict.fromkeys(trial.subject for trial in finished)
    seeds = dict.fromkeys(trial.seed for trial in finished if trial.seed)
    notes = []
    if len(subjects) == 1:
        more = " seeds are averaged," if len(seeds) > 1 else ""
        notes.append(
            f"One subject ({next(iter(subjects))}):{more} intervals and tests are over its prompts "
            "and pictures and do not generalize to other subjects."
        )
    else:
        notes.append(f"Intervals and tests are over {len(subjects)} subjects.")
    if any(_has_wrong_class_prompt(cell, c.key) for cell in cells for c in columns):
        notes.append(
            "Another class: with a wrong class noun, the class prompt has the wrong noun too. Its "
            "scores are not compared with those of other nouns."
        )
    if any(entry.text == "no interval" for row in rows for entry in row.entries.values()):
        notes.append("No interval: the runs recorded the mean only, no score for each picture.")
    for cell in cells:
        unfinished = Counter(t.status.state for t in cell.trials if t.status.state != "finished")
        if cell.finished and unfinished:
            states = ", ".join(f"{count} {state}" for state, count in unfinished.items())
            notes.append(f"{cell.label}: without {states} of its {len(cell.trials)} runs.")
    return notes


def _with_unique_keys(tables: Sequence[Table]) -> list[Table]:
    """Number tables of the same key: prior, prior-2, prior-3."""
    seen: Counter[str] = Counter()
    unique = []
    for table in tables:
        seen[table.key] += 1
        number = seen[table.key]
        unique.append(table if number == 1 else replace(table, key=f"{table.key}-{number}"))
    return unique
