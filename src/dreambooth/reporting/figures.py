"""A study as figures: what training did, and what it cost and bought. Pictures are in grids.py.

Every cell has a colour, a marker and a line style of its own, the same in all figures, so that they
can be told apart without colour. A figure is there only where its data is.
"""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from dreambooth.files import write_atomically
from dreambooth.reporting.look import INK, MUTED, STYLE, WIDTH, Look, heading, looks, panels
from dreambooth.reporting.statistics import Estimate
from dreambooth.reporting.study import Study
from dreambooth.reporting.tables import Table

if TYPE_CHECKING:  # matplotlib takes a second
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas


@dataclass(frozen=True)
class Figure:
    """A figure as it was written, in words for those who do not see it."""

    key: str  # its file name, without .svg and .png
    title: str
    caption: str  # what is drawn, and how to read it
    svg: str


@dataclass(frozen=True)
class Plot:
    """A figure before it is written."""

    key: str
    title: str
    caption: str
    canvas: Canvas


def write_figures(study: Study, tables: Sequence[Table], folder: Path) -> list[Figure]:
    """KEY.svg and KEY.png of every figure that the study has the data for."""
    import matplotlib

    from dreambooth.reporting import grids

    folder.mkdir(parents=True, exist_ok=True)
    makers: tuple[Callable[[Study, Sequence[Table]], Iterator[Plot]], ...] = (
        grids.plots,
        trade_offs,
        per_subject,
        copying,
        curves,
        losses,
    )
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]  # its keys are a Literal
        return [_write(p, folder) for maker in makers for p in maker(study, tables)]


def losses(study: Study, _: Sequence[Table]) -> Iterator[Plot]:
    for prefix, stage in (("", ""), ("sr/", " of the super-resolution stage")):
        names = {f"{prefix}loss/subject": "subject term", f"{prefix}loss/prior": "prior term"}
        chosen = [(title, _means(study, name)) for name, title in names.items()]
        chosen = [(title, lines) for title, lines in chosen if lines]
        if not chosen:
            continue
        canvas, rows = panels(len(chosen), study, height=2.5, lines=True)
        for axes, (title, lines) in zip(rows, chosen, strict=True):
            smooth = {key: _smoothed(line) for key, line in lines.items()}
            _draw_lines(axes, smooth, study)
            axes.set(title=title, xlabel="step")
        top = max(axes.get_ylim()[1] for axes in rows)
        for axes in rows:
            axes.set_ylim(0, 1.03 * top)
        rows[0].set_ylabel("loss")
        caption = (
            "Both terms of the loss, before lambda; running means over a tenth of the steps, and "
            "means over the runs of a cell. Cells without a prior term have no second line."
        )
        key = "losses" + ("_sr" if prefix else "")
        yield Plot(key, f"Losses{stage} over training", caption, canvas)


def curves(study: Study, _: Sequence[Table]) -> Iterator[Plot]:
    """Scores over steps; the point where more steps stop to buy fidelity is marked."""
    order = ("dino", "identity", "clip_t", "context_accuracy", "copy", "pres", "drift", "diversity")
    found = {name: _means(study, f"curves/{name}") for name in order}
    chosen = {name: lines for name, lines in found.items() if lines}
    fidelity = next((name for name in ("dino", "identity") if name in chosen), None)
    if fidelity is None:
        return
    canvas, all_axes = panels(len(chosen), study, height=1.9, lines=True)
    enough = {key: _enough(line) for key, line in chosen[fidelity].items()}
    for axes, (name, lines) in zip(all_axes, chosen.items(), strict=True):
        _draw_lines(axes, lines, study)
        axes.set(title=heading(name), xlabel="step")
        for key, step in enough.items():
            value = dict(lines.get(key, [])).get(step)
            if value is not None:
                colour = looks(study)[key].colour
                axes.plot(step, value, "o", ms=10, mfc="none", mec=colour, mew=1, clip_on=False)
    caption = (
        "The same few pictures from the same noise, scored while training goes on. The ring: the "
        f"first step at which {heading(fidelity)} is within 0.01 of its highest. Beyond it, more "
        "steps buy no likeness; where the prompt is followed less or the copy score rises, the run "
        "overfits."
    )
    yield Plot("curves", "Scores over training", caption, canvas)


def trade_offs(study: Study, tables: Sequence[Table]) -> Iterator[Plot]:
    found = _estimates(study, tables)
    x, others = "dino", ("clip_t", "div")
    if not any(found.get(x, {})):
        x, others = "identity", ("context_accuracy", "diversity")
    chosen = [y for y in others if len(found.get(y, {}).keys() & found.get(x, {}).keys()) > 1]
    if not chosen:
        return
    canvas, all_axes = panels(len(chosen), study, height=2.9)
    for axes, y in zip(all_axes, chosen, strict=True):
        for cell in study.cells:
            a, b = found[x].get(cell.key), found[y].get(cell.key)
            if a and b:
                _cross(axes, a, b, looks(study)[cell.key])
        axes.set(xlabel=f"{heading(x)} (fidelity)", ylabel=heading(y))
    follow, varied = heading(others[0]), heading(others[1])
    caption = (
        f"Fidelity to the subject ({heading(x)}) against how well the prompt is followed "
        f"({follow}) and how varied the pictures are ({varied}): means of the cells with 95 % "
        "intervals. Up and to the right is better."
    )
    yield Plot("trade_off", "What fidelity costs", caption, canvas)


def per_subject(study: Study, tables: Sequence[Table]) -> Iterator[Plot]:
    """A dot for each subject, where there are several."""
    if len(study.subjects) < 2:
        return
    values = {m: _by_subject(study, m) for m in ("dino", "clip_t", "pres", "div")}
    if not any(values["dino"].values()):
        values = {
            m: _by_subject(study, m) for m in ("identity", "context_accuracy", "drift", "diversity")
        }
    chosen = {name: cells for name, cells in values.items() if any(cells.values())}
    if not chosen:
        return
    import numpy as np
    from matplotlib.figure import Figure as Canvas

    found = _estimates(study, tables)
    cells = study.cells[::-1]
    canvas = Canvas(figsize=(WIDTH, 0.7 + 0.3 * len(cells)), layout="constrained")
    all_axes = canvas.subplots(1, len(chosen), sharey=True, squeeze=False)[0]
    for axes, (name, by_cell) in zip(all_axes, chosen.items(), strict=True):
        for y, cell in enumerate(cells):
            look, dots = looks(study)[cell.key], by_cell[cell.key]
            jitter = np.linspace(-0.22, 0.22, len(dots)) if len(dots) > 1 else np.zeros(len(dots))
            axes.scatter(dots, y + jitter, s=9, color=look.colour, alpha=0.45, linewidths=0)
            estimate = found.get(name, {}).get(cell.key)
            if estimate and math.isfinite(estimate.low):
                axes.plot([estimate.low, estimate.high], [y, y], color=INK, lw=1.2, zorder=3)
            if estimate:
                axes.plot(estimate.mean, y, zorder=4, ms=6.5, **look.point)
        axes.set(title=heading(name), ylim=(-0.6, len(cells) - 0.4))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    all_axes[0].set_yticks(range(len(cells)), [cell.label for cell in cells])
    caption = (
        f"Each dot is one of {len(study.subjects)} subjects (mean over its runs), at its own "
        "height, the same in all panels; the large marker and the line are the mean and its 95 % "
        "interval."
    )
    yield Plot("per_subject", "Every subject", caption, canvas)


def copying(study: Study, _: Sequence[Table]) -> Iterator[Plot]:
    dots = {
        cell.key: [
            (trial.metrics["dino"].value, trial.metrics["copy"].value)
            for trial in cell.finished
            if {"dino", "copy"} <= trial.metrics.keys()
        ]
        for cell in study.cells
    }
    dots = {key: [(a, b) for a, b in found if math.isfinite(a + b)] for key, found in dots.items()}
    if not any(dots.values()):
        return
    canvas, (axes,) = panels(1, study, height=3.0)
    for key, found in dots.items():
        many = len(found) > 1
        look = looks(study)[key]
        if many:
            x, y = zip(*found, strict=True)
            axes.scatter(x, y, s=9, color=look.colour, alpha=0.4, linewidths=0)
        if found:
            mean = [fmean(values) for values in zip(*found, strict=True)]
            axes.plot(*mean, zorder=4, ms=6.5, **look.point)
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], color=MUTED, lw=0.8, dashes=(4, 3), zorder=1)
    axes.set_xlim(low, high)
    axes.annotate(
        "copy score = DINO", (low, low), xytext=(16, 4), textcoords="offset points",
        color=MUTED, fontsize=7,
    )  # fmt: skip
    axes.set(xlabel="DINO: likeness to all photos", ylabel="copy score: likeness to the nearest")
    caption = (
        "A high DINO can be had by copying the photos. The copy score is the cosine to the nearest "
        "photo, and so never below the mean over all of them; the further above the line, the "
        "nearer the pictures are to one single photo. Large: means of the cells; small: runs."
    )
    yield Plot("copying", "Likeness or copying?", caption, canvas)


def _write(plot: Plot, folder: Path) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    svg, png = io.BytesIO(), io.BytesIO()
    plot.canvas.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    FigureCanvasAgg(plot.canvas)
    plot.canvas.savefig(png, format="png", dpi=220, facecolor="white", metadata={"Software": None})
    write_atomically(folder / f"{plot.key}.svg", svg.getvalue())
    write_atomically(folder / f"{plot.key}.png", png.getvalue())
    return Figure(plot.key, plot.title, plot.caption, svg.getvalue().decode())


def _draw_lines(axes: Axes, lines: Mapping[str, list[tuple[float, float]]], study: Study) -> None:
    for number, (key, line) in enumerate(lines.items()):
        every = max(1, len(line) // 6)
        start = number * every // max(1, len(lines))  # markers of lines on each other stay visible
        steps, values = zip(*line, strict=True)
        look = looks(study)[key]
        axes.plot(steps, values, markevery=(start, every), ms=4, **look.line)


def _cross(axes: Axes, x: Estimate, y: Estimate, look: Look) -> None:
    for estimate, horizontal in ((x, True), (y, False)):
        if math.isfinite(estimate.low):
            ends = [estimate.low, estimate.high]
            across = [y.mean, y.mean] if horizontal else [x.mean, x.mean]
            line = (ends, across) if horizontal else (across, ends)
            axes.plot(*line, color=look.colour, lw=0.9, alpha=0.8, zorder=2)
    axes.plot(x.mean, y.mean, zorder=4, ms=6.5, **look.point)


def _means(study: Study, name: str) -> dict[str, list[tuple[float, float]]]:
    """(step, mean over a cell's runs) by Cell.key, of what history.csv has under a name."""
    found = {}
    for cell in study.cells:
        values: dict[float, list[float]] = defaultdict(list)
        for trial in cell.trials:
            for row in trial.history:
                value = row.get(name)
                if isinstance(value, int | float) and math.isfinite(value):
                    values[row["step"]].append(value)
        if len(values) > 1:
            found[cell.key] = [(step, fmean(v)) for step, v in sorted(values.items())]
    return found


def _smoothed(line: list[tuple[float, float]]) -> list[tuple[float, float]]:
    reach = len(line) // 20
    values = [value for _, value in line]
    return [
        (step, fmean(values[max(0, i - reach) : i + reach + 1])) for i, (step, _) in enumerate(line)
    ]


def _enough(line: list[tuple[float, float]]) -> float:
    best = max(value for _, value in line)
    return next(step for step, value in line if value >= best - 0.01)


def _estimates(study: Study, tables: Sequence[Table]) -> dict[str, dict[str, Estimate]]:
    """Metric -> Cell.key -> its estimate, from whichever table has it."""
    found: dict[str, dict[str, Estimate]] = defaultdict(dict)
    for table in tables:
        for row in table.rows:
            for key, entry in row.entries.items():
                if row.cell and entry.estimate:
                    found[key].setdefault(row.cell, entry.estimate)
    return found


def _by_subject(study: Study, metric: str) -> dict[str, list[float]]:
    """Cell.key -> a mean for each subject, in the study's order."""
    found: dict[str, list[float]] = {}
    for cell in study.cells:
        values: dict[str, list[float]] = {subject: [] for subject in study.subjects}
        for trial in cell.finished:
            measured = trial.metrics.get(metric)
            if measured and math.isfinite(measured.value):
                values[trial.subject].append(measured.value)
        found[cell.key] = [fmean(v) for v in values.values() if v]
    return found
