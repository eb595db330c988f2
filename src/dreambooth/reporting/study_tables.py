"""Makes the tables of a study: one along each axis, as in the paper."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from dreambooth.reporting.claims import judge
from dreambooth.reporting.families import applications, limitations, limitations_by_context
from dreambooth.reporting.frontiers import frontier_table
from dreambooth.reporting.notes import floor_row, notes_on, remark, share_class_prompt
from dreambooth.reporting.paper import (
    PAPER_TABLES,
    PaperTable,
    as_in_paper,
    claimed,
    num_chosen,
    paper_difference,
    paper_value,
)
from dreambooth.reporting.scores import (
    HEADINGS,
    STEPS,
    Heading,
    Part,
    ScoreReader,
    shared_protocol,
    uniform_parts,
)
from dreambooth.reporting.settings import key_of, label_of, order_of
from dreambooth.reporting.statistics import difference, with_interval
from dreambooth.reporting.study import Cell, Study
from dreambooth.reporting.tables import Column, Comparison, Entry, Table, TableRow


def tables_of(study: Study) -> list[Table]:
    """Return a table for each axis that varies, then applications, limitations and frontiers.

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
        tables += [limitations_by_context(part, reader), frontier_table(part)]
    return judge(_with_unique_keys([table for table in tables if table is not None]))


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
            TableRow("", label, _paper_only(columns, values))
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
        [*rows, *floor_row(study, cells, columns, reader)],
        comparisons,
        [*notes, *notes_on(study, cells, columns, rows, reader)],
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
) -> Comparison | None:
    """Return the comparison, not yet judged."""
    if not share_class_prompt(a, b, column.key):
        return None
    result = difference(*(reader.scores(cell.finished, column.key) for cell in (a, b)))
    if result is None or math.isnan(result.low):
        return None
    values = [cell.settings[plan.axis] for cell in (a, b)]
    shared = dict(a.settings.items() & b.settings.items())
    names = " - ".join(
        label_of({k: v for k, v in cell.settings.items() if k not in shared}) for cell in (a, b)
    )
    rest = label_of({k: v for k, v in a.settings.items() if k in shared})
    sentence = f"{names}{f', {rest}' if rest else ''}: {column.heading} {with_interval(result)}"
    comparison = Comparison(column.key, a.key, b.key, result, None, "", sentence)
    if not all(as_in_paper(cell, study, plan.axis) for cell in (a, b)):
        return comparison
    paper = paper_difference(plan, column.key, *values)
    claim, sign = claimed(plan, column.key, *values)
    if claim is None:
        return replace(comparison, paper=paper)
    decides = 1 + num_chosen(plan, *values) if column.key == claim.metric else 0
    return replace(comparison, paper=paper, claim=claim.words, sign=sign, decides=decides)


def _with_unique_keys(tables: Sequence[Table]) -> list[Table]:
    """Number tables of the same key: prior, prior-2, prior-3."""
    seen: Counter[str] = Counter()
    unique = []
    for table in tables:
        seen[table.key] += 1
        number = seen[table.key]
        unique.append(table if number == 1 else replace(table, key=f"{table.key}-{number}"))
    return unique
