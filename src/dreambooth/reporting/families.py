"""Tables of what is asked for rather than of an axis: the paper's applications and limitations."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from dreambooth.reporting.paper import as_in_paper
from dreambooth.reporting.scores import HEADINGS, Measured, Part, shared_protocol
from dreambooth.reporting.study import Cell
from dreambooth.reporting.tables import Column, Entry, Table, TableRow

_FAMILIES = {  # of the paper's section 4.4, told by a prompt's template
    "art rendition": r"(painting|sketch|mosaic|statue|drawing) of",
    "expression": r"\b(happy|sad|angry|sleeping|barking|screaming|laughing|crying)\b",
    "novel view": r"\bfrom (the )?(front|side|behind|back|below|above|top|bottom)\b",
    "accessorization": r"\bwearing\b|\boutfit\b",
    "property modification": r"\b(red|purple|green|blue|yellow|shiny|wet|cube shaped|cross of a)"
    r" \{\}",
    "recontextualization": r"\{\}.* (in|on|under|with|floating|at|near)\b",
}
_ASKED = "share that is clean and shows everything the prompt asks for but its class, oracle"


def family_of(template: str) -> str:
    """The application that a prompt belongs to; "" for none ("a {}")."""
    text = re.sub(r" in the style of .*", "", template)
    found = [name for name, pattern in _FAMILIES.items() if re.search(pattern, text)]
    if found[:1] in (["accessorization"], ["property modification"]) and " with a city" not in text:
        words = re.sub(r"(wearing|in) a[n]? .*?( on | in the | under |$)", r"\2", text)
        found = [n for n in found if n != "recontextualization" or _is_context(words)]
    return found[0] if len(found) == 1 else "several at once" if found else ""


def _is_context(text: str) -> bool:
    return bool(re.search(_FAMILIES["recontextualization"], text))


def applications(part: Part, measured: Measured) -> Table | None:
    """A row for each kind of prompt, of the cells that are as in the paper, or of all if none is;
    None without kinds."""
    finished = [cell for cell in part.study.cells if cell.finished]
    cells = [cell for cell in finished if as_in_paper(cell, part.study, "method")] or finished
    templates = {str(r["template"]) for c in cells for t in c.finished for r in t.rows}
    kinds = [*_FAMILIES, "several at once"]
    present = {family_of(template) for template in templates}
    families = [name for name in kinds if name in present]
    columns = _columns(cells, ("dino", "identity", "clip_i", "clip_t", "clean", "class_accuracy"))
    if len(families) < 2 or not columns:
        return None
    if any(measured.scores(cell.finished, "asked") for cell in cells):
        columns.append(Column("asked", HEADINGS["asked"].text, "higher", _ASKED))
    rows = []
    for cell in cells:
        for family in families:
            of = _only(family)
            entries = {c.key: _entry(cell, c.key, of, measured) for c in columns}
            label = family if len(cells) == 1 else f"{family}: {cell.label}"
            rows.append(TableRow(cell.key, label, entries))
    notes = ["The paper shows its applications as pictures only."]
    if len(cells) == 1 < len(part.study.cells):
        notes.append(f"Of {cells[0].label}.")
    return _table(
        "applications", "Applications", "section 4.4 of the paper", part, columns, rows, notes
    )


def limitations(part: Part, measured: Measured) -> Table | None:
    """Whether the context comes out, what it does to the subject, and whether photos are copied.

    The paper's claims stand beside the cells that are as in the paper.
    """
    cells = [cell for cell in part.study.cells if cell.finished]
    columns = _columns(cells, ("context_accuracy", "copied", "copy"))
    if any(measured.scores(cell.finished, "identity") for cell in cells):
        protocol = "identity, of the prompts with a context only"
        columns.insert(1, Column("identity", "identity in contexts", "higher", protocol))
    if not columns:
        return None
    rows = []
    for cell in cells:
        entries = {}
        for column in columns:
            of = _only("recontextualization") if column.key == "identity" else None
            entries[column.key] = _entry(cell, column.key, of, measured)
            if as_in_paper(cell, part.study, "method"):
                entries[column.key] = _with_claim(column.key, entries[column.key])
        if "context_accuracy" in entries and entries["context_accuracy"].estimate:
            weakest = _weakest(cell, measured)
            entries["context_accuracy"] = replace(entries["context_accuracy"], text=weakest)
        rows.append(TableRow(cell.key, cell.label, entries))
    notes = [
        "The paper names three: a context that does not come out (context), looks of the subject "
        "that change with it (identity in contexts), pictures like the training set (copied: share "
        "nearer to a photo than any two photos are to each other). It gives no values."
    ]
    source = "figure on limitations of the paper (pictures only)"
    return _table("limitations", "Limitations", source, part, columns, rows, notes)


def _with_claim(metric: str, entry: Entry) -> Entry:
    """The paper's words on limitations, where they are of a value and not of a difference."""
    e = entry.estimate
    if e is None or metric not in ("context_accuracy", "copied"):
        return entry
    if metric == "context_accuracy":
        return replace(
            entry,
            claim="the prompted context does not always come out",
            agrees=True if e.high < 1 else None,
        )
    return replace(
        entry,
        claim="some pictures are like the training photos",
        agrees=True if e.low > 0.01 else None,
    )


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
    found = []
    for metric in metrics:
        own = [t.metrics[metric] for cell in cells for t in cell.finished if metric in t.metrics]
        if any(one.count for one in own):
            heading = HEADINGS[metric]
            found.append(
                Column(metric, heading.text, heading.better, shared_protocol(own[0].protocol))
            )
    return found


def _only(family: str) -> Callable[[str], bool]:
    return lambda template: family_of(template) == family


def _entry(cell: Cell, metric: str, of: Callable[[str], bool] | None, measured: Measured) -> Entry:
    found = measured.estimate(cell.finished, metric, of)
    return Entry(found, None, "" if found else "no such pictures")


def _weakest(cell: Cell, measured: Measured) -> str:
    """The template whose context comes out least, if one does not always."""
    shares: dict[str, list[float]] = {}
    for pictures in measured.scores(cell.finished, "context_accuracy").values():
        for (template, _), right in pictures.items():
            shares.setdefault(template, []).append(right)
    means = {template: sum(some) / len(some) for template, some in shares.items() if template}
    if not means or min(means.values()) == 1:
        return ""
    least = min(means, key=lambda template: means[template])
    return f"least: {least.format('...')}, {means[least]:.2f}"
