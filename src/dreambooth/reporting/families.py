"""Tables by kind of prompt instead of by axis: the paper's applications and limitations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dreambooth.metrics.applications import OUTCOMES
from dreambooth.reporting.notes import remark, units_in_words
from dreambooth.reporting.paper import as_in_paper
from dreambooth.reporting.scores import HEADINGS, Heading, Part, ScoreReader, shared_protocol
from dreambooth.reporting.study import Cell
from dreambooth.reporting.tables import Column, Entry, Table, TableRow
from dreambooth.subjects.prompt_sets import APPLICATIONS, LIMITATIONS, SEVERAL

_FINDINGS = {  # the limitation -> what the summary says of the estimate
    "context_accuracy": "the share of images in the prompted context",
    "copied_excess": "the share of images that resemble a training photo, above that of unseen "
    "photos of the subject",
}
_EXCESS = "copied, less the share of copied of unseen photos of the same subject"


def applications(part: Part, reader: ScoreReader) -> Table | None:
    """Return a table with a row per cell and application; None if there is only one application.

    Its cells are those with the paper's settings, or all cells if none has them.
    """
    finished = [cell for cell in part.study.cells if cell.finished]
    cells = [cell for cell in finished if as_in_paper(cell, part.study, "method")] or finished
    families = _present(cells, (*APPLICATIONS, SEVERAL))
    columns = _columns(cells, ("dino", "identity", "clip_i", "clip_t", "clean", "class_accuracy"))
    if len(families) < 2 or not columns:
        return None
    columns += [
        Column(name, HEADINGS[name].text, "higher", protocol)
        for name, protocol in OUTCOMES.items()
        if any(reader.scores(cell.finished, name) for cell in cells)
    ]
    rows = [_row(c, family, columns, reader, len(cells) > 1) for c in cells for family in families]
    notes = ["The paper shows its applications as images only."]
    if len(cells) == 1 < len(part.study.cells):
        notes.append(f"All rows belong to one cell: {cells[0].label}.")
    notes += units_in_words(cells, rows)
    return _table(
        "applications", "Applications", "section 4.4 of the paper", part, columns, rows, notes
    )


def limitations(part: Part, reader: ScoreReader) -> Table | None:
    """Return a table of the paper's three limitations.

    They are contexts that do not appear, subjects that change with the context, and copied photos.
    The summary has findings on the cells with the paper's settings, and no verdict: the paper gives
    no values, and no threshold of ours is its claim.
    """
    cells = [cell for cell in part.study.cells if cell.finished and not _by_context([cell])]
    columns = _columns(cells, ("context_accuracy", "copied", "copied_null", "copy"))
    has_excess = any(reader.scores(cell.finished, "copied_excess") for cell in cells)
    if has_excess:
        heading = HEADINGS["copied_excess"]
        columns.insert(-1, Column("copied_excess", heading.text, heading.better, _EXCESS))
    if any(reader.scores(cell.finished, "identity") for cell in cells):
        protocol = "identity, of the prompts that ask for a context and nothing else"
        columns.insert(1, Column("identity", "identity in contexts", "higher", protocol))
    if not columns:
        return None
    rows = []
    for cell in cells:
        entries = {}
        for column in columns:
            family = "recontextualization" if column.key == "identity" else ""
            entries[column.key] = _entry(cell, column.key, family, reader)
            if as_in_paper(cell, part.study, "method"):
                words = _FINDINGS.get(column.key, "")
                entries[column.key] = replace(entries[column.key], finding=words)
        if "context_accuracy" in entries and entries["context_accuracy"].estimate:
            text = _weakest_template(cell, reader)
            entries["context_accuracy"] = replace(entries["context_accuracy"], text=text)
        rows.append(TableRow(cell.key, cell.label, entries))
    notes = [
        "The paper names three limitations: the prompted context does not appear (context), the "
        "subject's appearance changes with the context (identity in contexts), and images "
        "resemble the training photos (copied: the share of images that are nearer to a photo "
        "than any two photos are to each other). It gives no values. Unseen photos of the subject "
        "resemble the training photos too, so only a share above theirs shows copying.",
        *units_in_words(cells, rows),
    ]
    if not has_excess and any(column.key == "copied" for column in columns):
        notes.append("These runs have no such share: python src/evaluate.py run=DIR measures it.")
    source = "the paper's figure of limitations (images only)"
    return _table("limitations", "Limitations", source, part, columns, rows, notes)


def limitations_by_context(part: Part, reader: ScoreReader) -> Table | None:
    """Return a table with a row per cell and context asked for; None without such prompts.

    The runs are those of `experiment=limitations`.
    """
    cells = [cell for cell in part.study.cells if _by_context([cell])]
    columns = _columns(cells, ("context_accuracy", "identity", "dino", "clip_t", "copied", "copy"))
    if not columns:
        return None
    if any(reader.scores(cell.finished, "copied_excess") for cell in cells):
        heading = HEADINGS["copied_excess"]
        columns.insert(-1, Column("copied_excess", heading.text, heading.better, _EXCESS))
    rows = [
        _row(cell, group, columns, reader, len(cells) > 1)
        for cell in cells
        for group in _by_context([cell])
    ]
    notes = [
        "A context that does not appear: rare against frequent (context). An appearance that "
        "changes with the context: none against the others (identity, DINO). Overfitting: images "
        "resemble the photos where the prompt is near to their scenes (none, and the context of "
        "the photos) more than where it is not (copied, copy). In the drawn world a rare context "
        "is asked for together with a style and from behind, which costs identity and DINO too.",
        *units_in_words(cells, rows),
    ]
    source = "the paper's figure of limitations (images only)"
    title = "Limitations, by the context that is asked for"
    return _table("limitations_by_context", title, source, part, columns, rows, notes)


def _by_context(cells: Sequence[Cell]) -> list[str]:
    return _present(cells, LIMITATIONS)


def _table(
    key: str,
    title: str,
    source: str,
    part: Part,
    columns: Sequence[Column],
    rows: Sequence[TableRow],
    notes: Sequence[str],
) -> Table:
    title = f"{title} ({part.words})" if part.words else title
    notes = [*notes, *filter(None, [part.note])]
    return Table(key, title, source, columns, rows, [], notes, part.words)


def _columns(cells: Sequence[Cell], metrics: Sequence[str]) -> list[Column]:
    columns = []
    for metric in metrics:
        results = [
            t.metrics[metric] for cell in cells for t in cell.finished if metric in t.metrics
        ]
        if any(result.count for result in results):
            heading = HEADINGS.get(metric, Heading(metric.replace("_", " ")))
            protocol = shared_protocol(results[0].protocol)
            columns.append(Column(metric, heading.text, heading.better, protocol))
    return columns


def _present(cells: Sequence[Cell], families: Sequence[str]) -> list[str]:
    """Those of `families` that a run of the cells has prompts of."""
    templates = {(t, str(r["template"])) for c in cells for t in c.finished for r in t.rows}
    present = {trial.family_of(template) for trial, template in templates}
    return [family for family in families if family in present]


def _row(
    cell: Cell, family: str, columns: Sequence[Column], reader: ScoreReader, named: bool
) -> TableRow:
    """The row of a cell's prompts that ask for `family`; `named`: with the cell's label."""
    entries = {c.key: _entry(cell, c.key, family, reader) for c in columns}
    words = family.replace("_", " ")
    return TableRow(cell.key, f"{words}: {cell.label}" if named else words, entries)


def _entry(cell: Cell, metric: str, family: str, reader: ScoreReader) -> Entry:
    estimate = reader.estimate(cell.finished, metric, family)
    return Entry(estimate, None, remark(cell, metric, estimate) if estimate else "no such images")


def _weakest_template(cell: Cell, reader: ScoreReader) -> str:
    """Name the template whose context appears least often; "" if all always appear."""
    shares: dict[str, list[float]] = {}
    for pictures in reader.scores(cell.finished, "context_accuracy").values():
        for (template, _), right in pictures.items():
            shares.setdefault(template, []).append(right)
    means = {template: sum(share) / len(share) for template, share in shares.items() if template}
    if not means or min(means.values()) == 1:
        return ""
    weakest = min(means, key=lambda template: means[template])
    return f"least: {weakest.format('...')}, {means[weakest]:.2f}"
