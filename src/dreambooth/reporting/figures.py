"""A study as figures: what training did, and what it cost and bought. Pictures are in grids.py.

Every cell has a colour, a marker and a line style of its own, the same in all figures, so that they
can be told apart without colour. A figure is there only where its data is.
"""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from dreambooth.reporting import grids
from dreambooth.reporting.look import (
    INK,
    MUTED,
    STYLE,
    WIDTH,
    Look,
    Looks,
    heading,
    looks,
    mentioned,
    panels,
)
from dreambooth.reporting.plot import Plot
from dreambooth.reporting.scores import Measured, uniform_parts
from dreambooth.reporting.statistics import Estimate
from dreambooth.reporting.study import Study
from dreambooth.runs.files import write_atomically

if TYPE_CHECKING:  # matplotlib takes a second
    from matplotlib.axes import Axes


Line = list[tuple[float, float]]
"""(step, value), in order."""


@dataclass(frozen=True)
class Figure:
    """A figure as it was written, in words for those who do not see it."""

    key: str  # its file name, without .svg and .png
    title: str
    caption: str  # what is drawn, and how to read it
    svg: str


def write_figures(study: Study, folder: Path) -> list[Figure]:
    """KEY.svg and KEY.png of every figure that the study has the data for.

    Scores that were measured differently are never in one figure.
    """
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]  # its keys are a Literal
        return [_write(plot, folder) for plot in _plots(study)]


def _plots(study: Study) -> Iterator[Plot]:
    styles = looks(study)
    yield from grids.plots(study)
    for number, part in enumerate(uniform_parts(study), start=1):
        for maker in (trade_offs, per_subject, copying, curves):
            for plot in maker(part.study, styles):
                if part.words:
                    key, title = f"{plot.key}_{number}", f"{plot.title} ({part.words})"
                    plot = replace(plot, key=key, title=title)
                yield plot
    yield from losses(study, styles)


def losses(study: Study, styles: Looks) -> Iterator[Plot]:
    for prefix, stage in (("", ""), ("sr/", " of the super-resolution stage")):
        names = {f"{prefix}loss/subject": "subject term", f"{prefix}loss/prior": "prior term"}
        chosen = [(title, _means(study, name)) for name, title in names.items()]
        chosen = [(title, lines) for title, lines in chosen if lines]
        if not chosen:
            continue
        canvas, rows = panels(len(chosen), study, styles, height=2.5, lines=True)
        for axes, (title, lines) in zip(rows, chosen, strict=True):
            smooth = {key: _smoothed(line) for key, line in lines.items()}
            _draw_lines(axes, smooth, styles)
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


def curves(study: Study, styles: Looks) -> Iterator[Plot]:
    """Scores over steps; the point where more steps stop to buy fidelity is marked."""
    order = ("dino", "identity", "clip_t", "context_accuracy", "copy", "pres", "drift", "diversity")
    found = {name: _means(study, f"curves/{name}") for name in order}
    chosen = {name: lines for name, lines in found.items() if lines}
    fidelity = next((name for name in ("dino", "identity") if name in chosen), None)
    if fidelity is None:
        return
    canvas, all_axes = panels(len(chosen), study, styles, height=1.9, lines=True)
    enough = {key: _enough(line) for key, line in chosen[fidelity].items()}
    for axes, (name, lines) in zip(all_axes, chosen.items(), strict=True):
        _draw_lines(axes, lines, styles)
        axes.set(title=heading(name), xlabel="step")
        for key, step in enough.items():
            value = dict(lines.get(key, [])).get(step)
            if value is not None:
                colour = styles[key].colour
                axes.plot(step, value, "o", ms=10, mfc="none", mec=colour, mew=1, clip_on=False)
    caption = (
        "The same few pictures from the same noise, scored while training goes on. The ring: the "
        f"first step at which {heading(fidelity)} is within 0.01 of its highest. Beyond it, more "
        "steps buy no likeness; where the prompt is followed less or the copy score rises, the run "
        "overfits."
    )
    yield Plot("curves", "Scores over training", caption, canvas)


def trade_offs(study: Study, styles: Looks) -> Iterator[Plot]:
    fidelity, others = "dino", {"clip_t": "how well the prompt is followed"}
    others |= {"div": "how varied the pictures of a prompt are"}
    if not _estimates(study, fidelity):
        fidelity, others = "identity", {"context_accuracy": "whether the context is as prompted"}
        others |= {"diversity": "how varied the class prompt's pictures are"}
    x = _estimates(study, fidelity)
    found = {name: _estimates(study, name) for name in others}
    found = {name: y for name, y in found.items() if len(y.keys() & x.keys()) > 1}
    if not found:
        return
    canvas, all_axes = panels(len(found), study, styles, height=2.9)
    for axes, (name, y) in zip(all_axes, found.items(), strict=True):
        for key in (key for key in x if key in y):  # a set's order is another each time
            _cross(axes, x[key], y[key], styles[key])
        axes.set(xlabel=f"{heading(fidelity)} (fidelity)", ylabel=heading(name))
    against = mentioned([f"{others[name]} ({heading(name)})" for name in found])
    caption = (
        f"Fidelity to the subject ({heading(fidelity)}) against {against}: means of the cells with "
        "95 % intervals. Up and to the right is better."
    )
    if "clip_t" in found and "class" in study.axes:
        caption += " CLIP-T reads the noun as well: compare it between cells of the same noun."
    yield Plot("trade_off", "What fidelity costs", caption, canvas)


def per_subject(study: Study, styles: Looks) -> Iterator[Plot]:
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

    heights = np.linspace(-0.22, 0.22, len(study.subjects))
    height_of = dict(zip(study.subjects, heights, strict=True))
    cells = study.cells[::-1]
    canvas = Canvas(figsize=(WIDTH, 0.7 + 0.3 * len(cells)), layout="constrained")
    all_axes = canvas.subplots(1, len(chosen), sharey=True, squeeze=False)[0]
    for axes, (name, by_cell) in zip(all_axes, chosen.items(), strict=True):
        found = _estimates(study, name)
        for y, cell in enumerate(cells):
            look, dots, estimate = styles[cell.key], by_cell[cell.key], found.get(cell.key)
            ys = [y + height_of[subject] for subject in dots]
            axes.scatter(list(dots.values()), ys, s=9, color=look.colour, alpha=0.45, linewidths=0)
            if estimate and math.isfinite(estimate.low):
                ends = [estimate.low, estimate.high]
                axes.plot(ends, [y, y], color=INK, lw=1.1, marker="|", ms=4, zorder=5)
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


def copying(study: Study, styles: Looks) -> Iterator[Plot]:
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
    canvas, (axes,) = panels(1, study, styles, height=3.0)
    for key, found in dots.items():
        many = len(found) > 1
        look = styles[key]
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


def _draw_lines(axes: Axes, lines: Mapping[str, Line], styles: Looks) -> None:
    for number, (key, line) in enumerate(lines.items()):
        every = max(1, len(line) // 6)
        start = number * every // max(1, len(lines))  # markers of lines on each other stay visible
        steps, values = zip(*line, strict=True)
        look = styles[key]
        axes.plot(steps, values, markevery=(start, every), ms=4, **look.line)


def _cross(axes: Axes, x: Estimate, y: Estimate, look: Look) -> None:
    for estimate, horizontal in ((x, True), (y, False)):
        if math.isfinite(estimate.low):
            ends = [estimate.low, estimate.high]
            across = [y.mean, y.mean] if horizontal else [x.mean, x.mean]
            line = (ends, across) if horizontal else (across, ends)
            axes.plot(*line, color=look.colour, lw=0.9, alpha=0.8, zorder=2)
    axes.plot(x.mean, y.mean, zorder=4, ms=6.5, **look.point)


def _means(study: Study, name: str) -> dict[str, Line]:
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


def _smoothed(line: Line) -> Line:
    reach = len(line) // 20
    values = [value for _, value in line]
    return [
        (step, fmean(values[max(0, i - reach) : i + reach + 1])) for i, (step, _) in enumerate(line)
    ]


def _enough(line: Line) -> float:
    best = max(value for _, value in line)
    return next(step for step, value in line if value >= best - 0.01)


def _estimates(study: Study, metric: str) -> dict[str, Estimate]:
    """Of the cells that have the metric, by Cell.key: the same as in the tables."""
    measured = Measured()
    found = {cell.key: measured.estimate(cell.finished, metric) for cell in study.cells}
    return {key: estimate for key, estimate in found.items() if estimate is not None}


def _by_subject(study: Study, metric: str) -> dict[str, dict[str, float]]:
    """Cell.key -> subject -> the mean of its runs."""
    found: dict[str, dict[str, float]] = {}
    for cell in study.cells:
        values: dict[str, list[float]] = defaultdict(list)
        for trial in cell.finished:
            measured = trial.metrics.get(metric)
            if measured and math.isfinite(measured.value):
                values[trial.subject].append(measured.value)
        found[cell.key] = {subject: fmean(some) for subject, some in values.items()}
    return found
