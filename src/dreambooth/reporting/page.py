"""Writes the report as one self-contained HTML file: it needs no network, server or other file.

Text from runs reaches the page in two ways only: through the template, which escapes it, and as
JSON that page.js reads. The page's content security policy allows no other script.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from dreambooth.reporting import look
from dreambooth.reporting.costs import costs
from dreambooth.reporting.export import counted
from dreambooth.reporting.figures import Figure
from dreambooth.reporting.findings import by_verdict
from dreambooth.reporting.gallery import gallery_of
from dreambooth.reporting.look import join_words
from dreambooth.reporting.settings import leaves, setting_in_words
from dreambooth.reporting.statistics import Estimate
from dreambooth.reporting.study import Study, Trial
from dreambooth.reporting.tables import OVER, VERDICTS, Comparison, Finding, Table
from dreambooth.runs.files import write_atomically
from dreambooth.runs.status import describe


def write_page(
    study: Study,
    tables: Sequence[Table],
    findings: Sequence[Finding],
    figures: Sequence[Figure],
    folder: Path,
) -> Path:
    """Write `folder`/index.html, which links to the images in their run folders."""
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
        shared_size=shared_sample_sizes(tables),
        verdicts=by_verdict(findings),
        verdict_titles=VERDICTS,
        figures=[(figure, Markup(inlined(figure))) for figure in figures],
        gallery=gallery,
        pictures=Markup(as_json(gallery.data)),
        ran=what_was_run(study),
        sample_size=sample_size,
        over=OVER,
        split_by_claim=split_by_claim,
        headings={(t.key, column.key): column.heading for t in tables for column in t.columns},
        gaps=[(cell, t, describe(t.status)) for cell in study.cells for t in cell.trials
              if t.status.state != "finished"],
        provenance=provenance_table(study.trials),
        css=Markup((parts / "page.css").read_text()),
        js=Markup(script),
        js_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip
    path = folder / "index.html"
    write_atomically(path, html.encode())
    return path


def as_json(data: Any) -> str:
    """Return JSON that is safe inside a <script> element: <, > and & are escaped."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def number(value: float) -> str:
    """Format a number with three decimals, or one if it is at least 10; NaN is a dash."""
    if math.isnan(value):
        return "–"
    return (f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}").replace("-", "−")


def signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)


def p_value(value: float) -> str:
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def what_was_run(study: Study) -> str:
    """Say how many runs there are, how they ended and which settings vary."""
    states = Counter(trial.status.state for trial in study.trials)
    seeds = {trial.seed for trial in study.trials if trial.seed}
    parts = {"cell": study.cells, "subject": study.subjects, "seed": seeds}
    design = join_words([counted(len(items), noun) for noun, items in parts.items()])
    ended = join_words([f"{count} {state}" for state, count in states.most_common()])
    varied = []
    for axis in study.axes:
        values = dict.fromkeys(cell.settings[axis] for cell in study.cells)
        varied.append(", ".join(setting_in_words(axis, value) or "none" for value in values))
    text = f"{counted(len(study.trials), 'run')}: {design} ({ended})."
    return text + (f" What was varied: {'; '.join(varied)}." if varied else "")


def shared_sample_sizes(tables: Sequence[Table]) -> dict[tuple[str, str], str]:
    """Return (Table.key, Column.key) -> "n = 5 / 5 / 250" for columns with one n in all rows."""
    shared = {}
    for table in tables:
        for column in table.columns:
            sizes = {
                sample_size(entry.estimate)
                for row in table.rows
                if (entry := row.entries.get(column.key)) and entry.estimate
            }
            if len(sizes) == 1:
                shared[table.key, column.key] = sizes.pop()
    return shared


def sample_size(estimate: Estimate) -> str:
    """ "n = SUBJECTS / TRAININGS / PICTURES"."""
    return f"n = {estimate.num_subjects} / {estimate.num_trainings} / {estimate.num_images}"


def split_by_claim(
    comparisons: Sequence[Comparison],
) -> tuple[list[Comparison], list[Comparison]]:
    """Separate comparisons that bear on a claim or have the paper's value from the others."""
    with_claim = [c for c in comparisons if c.claim or c.paper is not None]
    return with_claim, [c for c in comparisons if not c.claim and c.paper is None]


def provenance_table(trials: Sequence[Trial]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Return what the runs recorded, then what they cost: (name, [(value, number of runs)]).

    The most common value of a name comes first.
    """
    counts: dict[str, Counter[str]] = {}
    for trial in trials:
        for key, value in leaves(trial.provenance):
            name = re.sub(r"[._]", " ", key)
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            if not name.startswith(("seconds ", "peak ", "costs ")):
                counts.setdefault(name, Counter())[text] += 1
    totals = [(name, [(text, len(trials))]) for name, text in costs(trials)]
    return [(name, values.most_common()) for name, values in counts.items()] + totals


def inlined(figure: Figure) -> str:
    """Return a figure's SVG for inclusion in the page.

    Its colours become the page's CSS variables, so that they follow the light or dark scheme; its
    ids get the figure's key as prefix; its images become WebP.
    """
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


def _as_webp(png: re.Match[str]) -> str:
    from PIL import Image

    content = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(png[1]))) as image:
        image.convert("RGB").save(content, "WEBP", quality=88)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
