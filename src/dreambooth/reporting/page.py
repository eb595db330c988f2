"""The report as one HTML file that needs nothing else: no network, no server, no folder beside it.

Text from runs reaches the page in two ways only: through the template, which escapes everything it
is given, and as JSON in a block that page.js reads. The page's policy lets no other script run.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from dreambooth.reporting import look
from dreambooth.reporting.costs import costs
from dreambooth.reporting.figures import Figure
from dreambooth.reporting.gallery import gallery_of
from dreambooth.reporting.look import mentioned
from dreambooth.reporting.settings import told
from dreambooth.reporting.study import Study, Trial
from dreambooth.reporting.tables import Comparison, Finding, Table
from dreambooth.runs.files import write_atomically
from dreambooth.runs.status import describe

VERDICTS = {True: "agrees", False: "opposite", None: "not settled"}


def write_page(
    study: Study,
    tables: Sequence[Table],
    findings: Sequence[Finding],
    figures: Sequence[Figure],
    folder: Path,
) -> Path:
    """`folder`/index.html, with links to the pictures where they are now."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    folder.mkdir(parents=True, exist_ok=True)
    parts = files("dreambooth.reporting") / "page"
    script = (parts / "page.js").read_text()
    gallery = gallery_of(study, folder)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "signed": signed, "p_value": p_value}
    html = environment.from_string((parts / "template.html").read_text()).render(
        study=study,
        tables=tables,
        labels={cell.key: cell.label for cell in study.cells},
        same_count=same_counts(tables),
        verdicts=[(v, [f for f in findings if f.agrees is v]) for v in VERDICTS],
        verdict=VERDICTS,
        figures=[(figure, Markup(inlined(figure))) for figure in figures],
        gallery=gallery,
        pictures=Markup(as_json(gallery.data)),
        ran=what_was_run(study),
        counted=counted,
        split=of_the_paper_first,
        headings={(t.key, column.key): column.heading for t in tables for column in t.columns},
        gaps=[(cell, t, describe(t.status)) for cell in study.cells for t in cell.trials
              if t.status.state != "finished"],
        provenance=provenance(study.trials),
        css=Markup((parts / "page.css").read_text()),
        js=Markup(script),
        js_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip
    path = folder / "index.html"
    write_atomically(path, html.encode())
    return path


def as_json(data: Any) -> str:
    """JSON that no text in it can end or open a tag of: <, > and & are escaped."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def number(value: float) -> str:
    """Three decimals, but for what is larger than scores are."""
    if value != value:
        return "–"
    return (f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}").replace("-", "−")


def signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)


def p_value(value: float) -> str:
    return "–" if value != value else "< 0.001" if value < 0.001 else f"{value:.3f}"


def what_was_run(study: Study) -> str:
    """In plain sentences: how many runs of what, and what differs between them."""
    states = Counter(trial.status.state for trial in study.trials)
    seeds = {trial.seed for trial in study.trials if trial.seed}
    parts = [
        _counting(len(study.cells), "cell"),
        _counting(len(study.subjects), "subject"),
        _counting(len(seeds), "seed"),
    ]
    ended = [f"{count} {state}" for state, count in states.most_common()]
    varied = []
    for axis in study.axes:
        values = dict.fromkeys(cell.settings[axis] for cell in study.cells)
        varied.append(", ".join(told(axis, value) or "none" for value in values))
    said = f"{_counting(len(study.trials), 'run')}: {mentioned(parts)} ({mentioned(ended)})."
    return said + (f" What was varied: {'; '.join(varied)}." if varied else "")


def _counting(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def same_counts(tables: Sequence[Table]) -> dict[tuple[str, str], str]:
    """(Table.key, Column.key) -> "n = 5 / 250", where all rows have the same."""
    said = {}
    for table in tables:
        for column in table.columns:
            found = {
                counted(entry.estimate)
                for row in table.rows
                if (entry := row.entries.get(column.key)) and entry.estimate
            }
            if len(found) == 1:
                said[table.key, column.key] = found.pop()
    return said


def counted(estimate: Any) -> str:
    return f"n = {estimate.num_subjects} / {estimate.num_images}"


def of_the_paper_first(
    comparisons: Sequence[Comparison],
) -> tuple[list[Comparison], list[Comparison]]:
    """Those of which the paper says something, and the others."""
    told = [c for c in comparisons if c.claim or c.paper is not None]
    return told, [c for c in comparisons if not c.claim and c.paper is None]


def provenance(trials: Sequence[Trial]) -> list[tuple[str, list[tuple[str, int]]]]:
    """What the runs recorded: (name, [(value, how many runs say it)]), the most common first; and
    what they cost together."""
    found: dict[str, Counter[str]] = {}
    for trial in trials:
        for name, value in _leaves(trial.provenance):
            if not name.startswith(("seconds ", "peak ")):
                found.setdefault(name, Counter())[value] += 1
    together = [(name, [(words, len(trials))]) for name, words in costs(trials)]
    return [(name, values.most_common()) for name, values in found.items()] + together


def inlined(figure: Figure) -> str:
    """The figure's SVG for the page: its colours follow the page's, light or dark, its names are
    its own, and its pictures are WebP."""
    from markupsafe import escape

    svg = figure.svg[figure.svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{figure.key}-", svg)
    for name in ("ink", "muted", "rule", "paper"):
        svg = svg.replace(getattr(look, name.upper()), f"var(--{name})")
    for i, colour in enumerate(look.SERIES):
        svg = svg.replace(colour, f"var(--series-{i})")
    svg = re.sub(r"data:image/png;base64,([^\"]+)", _as_webp, svg)
    size = re.search(r'<svg [^>]*?width="([\d.]+)pt" height="([\d.]+)pt"', svg)
    assert size, figure.key
    svg = svg.replace(f'width="{size[1]}pt" height="{size[2]}pt"', f'style="--wide: {size[1]}"', 1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(figure.title)}" ', 1)


def _as_webp(found: re.Match[str]) -> str:
    from PIL import Image

    content = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as image:
        image.convert("RGB").save(content, "WEBP", quality=88)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def _leaves(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    leaves = []
    for name, value in record.items():
        if isinstance(value, Mapping):
            leaves += _leaves(value, f"{prefix}{name} ")
        else:
            words = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            leaves.append((f"{prefix}{name}".replace("_", " "), words))
    return leaves
