"""Tables by kind of prompt instead of by axis: the paper's applications and limitations."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from dreambooth.reporting.notes import remark, units_in_words
from dreambooth.reporting.paper import as_in_paper
from dreambooth.reporting.scores import HEADINGS, Heading, Part, ScoreReader, shared_protocol
from dreambooth.reporting.study import Cell
from dreambooth.reporting.tables import Column, Entry, Table, TableRow

_FAMILIES = {  # the applications of section 4.4 -> the templates that ask for them
    "art rendition": r"(painting|sketch|mosaic|statue|drawing) of",
    "expression": r"\b(happy|sad|angry|sleeping|barking|screaming|laughing|crying)\b",
    "novel view": r"\bfrom (the )?(front|side|behind|back|below|above|top|bottom)\b",
    "accessorization": r"\bwearing\b|\boutfit\b",
    "property modification": r"\b(red|purple|green|blue|yellow|shiny|wet|cube shaped|cross of a)"
    r" \{\}",
    "recontextualization": r"\{\}.* (in|on|under|with|floating|at|near)\b",
}
_FINDINGS = {  # the limitation -> what the summary says of the estimate
    "context_accuracy": "the share of pictures in the prompted context",
    "copied_excess": "the share of pictures that resemble a training photo, above that of unseen "
    "photos of the subject",
}
_EXCESS = "copied, less the share of copied of unseen photos of the same subject"
_ASKED = "share that is clean and shows everything the prompt asks for but its class, oracle"


def family_of(template: str) -> str:
    """Return the application that a prompt belongs to; "" for none ("a {}")."""
    text = re.sub(r" in the style of .*", "", template)
    families = [name for name, pattern in _FAMILIES.items() if re.search(pattern, text)]
    modified = families[:1] in (["accessorization"], ["property modification"])
    if modified and " with a city" not in text:  # "in a purple outfit" is no context
        rest = re.sub(r"(wearing|in) a[n]? .*?( on | in the | under |$)", r"\2", text)
        families = [n for n in families if n != "recontextualization" or _has_context(rest)]
    return families[0] if len(families) == 1 else "several at once" if families else ""


def _has_context(text: str) -> bool:
    return bool(re.search(_FAMILIES["recontextualization"], text))


def applications(part: Part, reader: ScoreReader) -> Table | None:
    """Return a table with a row per cell and application; None if there is only one application.

    Its cells are those with the paper's settings, or all cells if none has them.
    """
    finished = [cell for cell in part.study.cells if cell.finished]
    cells = [cell for cell in finished if as_in_paper(cell, part.study, "method")] or finished
    templates = {str(r["template"]) for c in cells for t in c.finished for r in t.rows}
    present = {family_of(template) for template in templates}
    families = [name for name in (*_FAMILIES, "several at once") if name in present]
    columns = _columns(cells, ("dino", "identity", "clip_i", "clip_t", "clean", "class_accuracy"))
    if len(families) < 2 or not columns:
        return None
    if any(reader.scores(cell.finished, "asked") for cell in cells):
        columns.append(Column("asked", HEADINGS["asked"].text, "higher", _ASKED))
    rows = []
    for cell in cells:
        for family in families:
            in_family = _only(family)
            entries = {c.key: _entry(cell, c.key, in_family, reader) for c in columns}
            label = family if len(cells) == 1 else f"{family}: {cell.label}"
            rows.append(TableRow(cell.key, label, entries))
    notes = ["The paper shows its applications as pictures only."]
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
    cells = [cell for cell in part.study.cells if cell.finished]
    columns = _columns(cells, ("context_accuracy", "copied", "copied_null", "copy"))
    has_excess = any(reader.scores(cell.finished, "copied_excess") for cell in cells)
    if has_excess:
        heading = HEADINGS["copied_excess"]
        columns.insert(-1, Column("copied_excess", heading.text, heading.better, _EXCESS))
    if any(reader.scores(cell.finished, "identity") for cell in cells):
        protocol = "identity, of the prompts with a context only"
        columns.insert(1, Column("identity", "identity in contexts", "higher", protocol))
    if not columns:
        return None
    rows = []
    for cell in cells:
        entries = {}
        for column in columns:
            prompts = _only("recontextualization") if column.key == "identity" else None
            entries[column.key] = _entry(cell, column.key, prompts, reader)
            if as_in_paper(cell, part.study, "method"):
                words = _FINDINGS.get(column.key, "")
                entries[column.key] = replace(entries[column.key], finding=words)
        if "context_accuracy" in entries and entries["context_accuracy"].estimate:
            text = _weakest_template(cell, reader)
            entries["context_accuracy"] = replace(entries["context_accuracy"], text=text)
        rows.append(TableRow(cell.key, cell.label, entries))
    notes = [
        "The paper names three limitations: the prompted context does not appear (context), the "
        "subject's appearance changes with the context (identity in contexts), and pictures "
        "resemble the training photos (copied: the share of pictures that are nearer to a photo "
        "than any two photos are to each other). It gives no values. Photos of the subject that no "
        "training saw are such too: only the excess over their share shows copying.",
        *units_in_words(cells, rows),
    ]
    if not has_excess and any(column.key == "copied" for column in columns):
        notes.append("These runs have no such share: python src/evaluate.py run=DIR measures it.")
    source = "figure on limitations of the paper (pictures only)"
    return _table("limitations", "Limitations", source, part, columns, rows, notes)


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


def _only(family: str) -> Callable[[str], bool]:
    return lambda template: family_of(template) == family


def _entry(
    cell: Cell, metric: str, prompts: Callable[[str], bool] | None, reader: ScoreReader
) -> Entry:
    estimate = reader.estimate(cell.finished, metric, prompts)
    return Entry(estimate, None, remark(cell, metric, estimate) if estimate else "no such pictures")


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
