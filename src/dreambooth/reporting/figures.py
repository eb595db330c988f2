"""Draws a study's figures: losses, score curves and trade-offs. Image grids are in grids.py.

Each cell has one colour, marker and line style in all figures, so that cells can be distinguished
without colour. Figures without data are not drawn.
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
from dreambooth.reporting.costs import trained_parameters
from dreambooth.reporting.frontier_plot import frontiers_plot
from dreambooth.reporting.look import (
    INK,
    MUTED,
    STYLE,
    WIDTH,
    Look,
    Looks,
    heading,
    in_short,
    join_words,
    looks,
    panels,
)
from dreambooth.reporting.plot import Plot
from dreambooth.reporting.scores import ScoreReader, uniform_parts
from dreambooth.reporting.statistics import Estimate
from dreambooth.reporting.study import Study
from dreambooth.runs.files import write_atomically

if TYPE_CHECKING:  # matplotlib takes a second
    from matplotlib.axes import Axes


Line = list[tuple[float, float]]
"""(step, value), in order."""


_OVER = " (over subjects; of one subject over its trainings, of one training over its prompts)"


@dataclass(frozen=True)
class Figure:
    """A figure that was written, with a caption that describes it."""

    key: str  # its file name without .svg or .png
    title: str
    caption: str  # what is drawn, and how to read it
    svg: str


def write_figures(study: Study, folder: Path) -> list[Figure]:
    """Write KEY.svg and KEY.png of every figure that the study has data for.

    Scores that were measured differently are in separate figures.
    """
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]  # its keys are a Literal
        return [_write(plot, folder) for plot in _plots(study)]


def _plots(study: Study) -> Iterator[Plot]:
    styles = looks(study)
    yield from grids.plots(study)
    for number, part in enumerate(uniform_parts(study), start=1):
        for draw in (trade_offs, frontiers_plot, pareto, per_subject, copying, curves):
            for plot in draw(part.study, styles):
                if part.words:
                    key, title = f"{plot.key}_{number}", f"{plot.title} ({part.words})"
                    plot = replace(plot, key=key, title=title)
                yield plot
    yield from losses(study, styles)


def losses(study: Study, styles: Looks) -> Iterator[Plot]:
    """Draw both terms of the loss over training, a figure per stage."""
    for prefix, stage in (("", ""), ("sr/", " of the super-resolution stage")):
        names = {f"{prefix}loss/subject": "subject term", f"{prefix}loss/prior": "prior term"}
        terms = [(title, _means(study, name)) for name, title in names.items()]
        terms = [(title, lines) for title, lines in terms if lines]
        if not terms:
            continue
        canvas, all_axes = panels(len(terms), study, styles, height=2.5, lines=True)
        for axes, (title, lines) in zip(all_axes, terms, strict=True):
            smooth = {key: _smoothed(line) for key, line in lines.items()}
            _draw_lines(axes, smooth, styles)
            axes.set(title=title, xlabel="step")
        top = max(axes.get_ylim()[1] for axes in all_axes)
        for axes in all_axes:
            axes.set_ylim(0, 1.03 * top)
        all_axes[0].set_ylabel("loss")
        caption = (
            "Both terms of the loss, not weighted by lambda: running means over a tenth of the "
            "steps, averaged over the runs of a cell. Cells without a prior term have no line in "
            "its panel."
        )
        key = "losses" + ("_sr" if prefix else "")
        yield Plot(key, f"Losses{stage} over training", caption, canvas)


def curves(study: Study, styles: Looks) -> Iterator[Plot]:
    """Draw scores over training, and mark the step from which fidelity no longer rises."""
    order = ("dino", "identity", "clip_t", "context_accuracy", "copy", "pres", "drift", "diversity")
    lines_of = {name: _means(study, f"curves/{name}") for name in order}
    lines_of = {name: lines for name, lines in lines_of.items() if lines}
    fidelity = next((name for name in ("dino", "identity") if name in lines_of), None)
    if fidelity is None:
        return
    canvas, all_axes = panels(len(lines_of), study, styles, height=1.9, lines=True)
    sufficient = {key: _sufficient_step(line) for key, line in lines_of[fidelity].items()}
    for axes, (name, lines) in zip(all_axes, lines_of.items(), strict=True):
        _draw_lines(axes, lines, styles)
        axes.set(title=heading(name), xlabel="step")
        for key, step in sufficient.items():
            value = dict(lines.get(key, [])).get(step)
            if value is not None:
                colour = styles[key].colour
                axes.plot(step, value, "o", ms=10, mfc="none", mec=colour, mew=1, clip_on=False)
    caption = (
        "The same few images, generated from the same noise and scored during training. The ring "
        f"marks the first step at which {heading(fidelity)} is within 0.01 of its highest value; "
        "more steps do not increase fidelity. A run overfits where the prompt is followed less or "
        "the copy score rises."
    )
    yield Plot("curves", "Scores over training", caption, canvas)


def trade_offs(study: Study, styles: Looks) -> Iterator[Plot]:
    """Draw fidelity to the subject against fidelity to the prompt and against diversity."""
    fidelity, others = "dino", {"clip_t": "how well the prompt is followed"}
    others |= {"div": "how varied the images of a prompt are"}
    if not _estimates(study, fidelity):
        fidelity, others = "identity", {"context_accuracy": "whether the context is as prompted"}
        others |= {"diversity": "how varied the class prompt's images are"}
    x = _estimates(study, fidelity)
    y_of = {name: _estimates(study, name) for name in others}
    y_of = {name: y for name, y in y_of.items() if len(y.keys() & x.keys()) > 1}
    if not y_of:
        return
    canvas, all_axes = panels(len(y_of), study, styles, height=2.9)
    for axes, (name, y) in zip(all_axes, y_of.items(), strict=True):
        for key in (key for key in x if key in y):  # a set has no fixed order
            _cross(axes, x[key], y[key], styles[key])
        axes.set(xlabel=f"{heading(fidelity)} (fidelity)", ylabel=heading(name))
    against = join_words([f"{others[name]} ({heading(name)})" for name in y_of])
    caption = (
        f"Fidelity to the subject ({heading(fidelity)}) against {against}: means of the cells with "
        f"95 % intervals{_OVER}. Up and to the right is better."
    )
    if "clip_t" in y_of and "class" in study.axes:
        caption += " CLIP-T also depends on the class noun: compare cells with the same noun only."
    yield Plot("trade_off", "What fidelity costs", caption, canvas)


def pareto(study: Study, styles: Looks) -> Iterator[Plot]:
    """Draw fidelity (DINO, else identity) against forgetting (PRES, else drift).

    The points grow with the number of trained parameters.
    """
    parameters = trained_parameters(study)
    fidelity, forgotten = ("dino", "pres") if _estimates(study, "dino") else ("identity", "drift")
    x, y = (_estimates(study, name) for name in (forgotten, fidelity))
    drawn = parameters.keys() & x.keys() & y.keys()
    labels = {
        cell.key: f"{cell.label}: {in_short(parameters[cell.key])}"
        for cell in study.cells
        if cell.key in drawn
    }
    if len(labels) < 2:
        return
    styles = {key: replace(styles[key], opacity=0.35) for key in labels}  # points may coincide
    height = max(3.6, 0.5 + 0.16 * len(labels))
    canvas, (axes,) = panels(1, study, styles, height, labels=labels)
    canvas.legends[0].set_title("trained parameters")
    orders = {key: math.log10(max(1, parameters[key])) for key in labels}
    for key in sorted(labels, key=lambda key: -orders[key]):  # small points on top
        size = 5 + 4 * (orders[key] - min(orders.values())) ** 0.5
        _cross(axes, x[key], y[key], styles[key], size)
    best = [
        (x[key].mean, y[key].mean) for key in labels
        if not any(_dominates((x[k], y[k]), (x[key], y[key])) for k in labels)
    ]  # fmt: skip
    axes.plot(*zip(*sorted(best), strict=True), color=MUTED, lw=0.8, dashes=(4, 3), zorder=1)
    axes.set(xlabel=f"{heading(forgotten)} (lower is better)", ylabel=heading(fidelity))
    caption = (
        f"{heading(fidelity)} against {heading(forgotten)}: means of the cells with 95 % intervals"
        f"{_OVER}. Up and to the left is better; the broken line joins the cells that no other "
        "cell beats in both. A larger point has more trained parameters; the legend gives their "
        "number."
    )
    yield Plot("pareto", "What each setting trains, and what it keeps", caption, canvas)


def _dominates(a: tuple[Estimate, Estimate], b: tuple[Estimate, Estimate]) -> bool:
    """Whether (drift, identity) of a is as good as that of b, and better in one."""
    (drift_a, kept_a), (drift_b, kept_b) = ([e.mean for e in pair] for pair in (a, b))
    return drift_a <= drift_b and kept_a >= kept_b and (drift_a, kept_a) != (drift_b, kept_b)


def per_subject(study: Study, styles: Looks) -> Iterator[Plot]:
    """Draw a dot for each subject, if the study has several."""
    if len(study.subjects) < 2:
        return
    values = {m: _by_subject(study, m) for m in ("dino", "clip_t", "pres", "div")}
    if not any(values["dino"].values()):
        values = {
            m: _by_subject(study, m) for m in ("identity", "context_accuracy", "drift", "diversity")
        }
    values = {name: by_cell for name, by_cell in values.items() if any(by_cell.values())}
    if not values:
        return
    import numpy as np
    from matplotlib.figure import Figure as Canvas

    heights = np.linspace(-0.22, 0.22, len(study.subjects))
    height_of = dict(zip(study.subjects, heights, strict=True))
    cells = study.cells[::-1]
    canvas = Canvas(figsize=(WIDTH, 0.7 + 0.3 * len(cells)), layout="constrained")
    all_axes = canvas.subplots(1, len(values), sharey=True, squeeze=False)[0]
    for axes, (name, by_cell) in zip(all_axes, values.items(), strict=True):
        estimates = _estimates(study, name)
        for y, cell in enumerate(cells):
            look, dots, estimate = styles[cell.key], by_cell[cell.key], estimates.get(cell.key)
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
        f"Each dot is one of {len(study.subjects)} subjects (the mean over its runs), at the same "
        "height in all panels. The large marker and the line are the mean and its 95 % interval"
        f"{_OVER}."
    )
    yield Plot("per_subject", "Every subject", caption, canvas)


def copying(study: Study, styles: Looks) -> Iterator[Plot]:
    """Draw the copy score against DINO, a dot for each run."""
    dots = {
        cell.key: [
            (trial.metrics["dino"].value, trial.metrics["copy"].value)
            for trial in cell.finished
            if {"dino", "copy"} <= trial.metrics.keys()
        ]
        for cell in study.cells
    }
    dots = {key: [(x, y) for x, y in runs if math.isfinite(x + y)] for key, runs in dots.items()}
    if not any(dots.values()):
        return
    canvas, (axes,) = panels(1, study, styles, height=3.0)
    for key, runs in dots.items():
        look = styles[key]
        if len(runs) > 1:
            x, y = zip(*runs, strict=True)
            axes.scatter(x, y, s=9, color=look.colour, alpha=0.4, linewidths=0)
        if runs:
            mean = [fmean(values) for values in zip(*runs, strict=True)]
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
        "A run that copies the photos has a high DINO, too. The copy score is the cosine to the "
        "nearest photo, so it is never below the mean over all photos. The further a point is "
        "above the line, the nearer its images are to a single photo. Large markers are means of "
        "the cells, small ones are runs."
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
        start = number * every // max(1, len(lines))  # markers of overlapping lines stay visible
        steps, values = zip(*line, strict=True)
        look = styles[key]
        axes.plot(steps, values, markevery=(start, every), ms=4, **look.line)


def _cross(axes: Axes, x: Estimate, y: Estimate, look: Look, size: float = 6.5) -> None:
    """Draw a point with its horizontal and vertical interval."""
    for estimate, horizontal in ((x, True), (y, False)):
        if math.isfinite(estimate.low):
            ends = [estimate.low, estimate.high]
            across = [y.mean, y.mean] if horizontal else [x.mean, x.mean]
            line = (ends, across) if horizontal else (across, ends)
            axes.plot(*line, color=look.colour, lw=0.9, alpha=0.8, zorder=2)
    axes.plot(x.mean, y.mean, zorder=4, ms=size, **look.point)


def _means(study: Study, name: str) -> dict[str, Line]:
    """Return Cell.key -> the line of a column of history.csv, averaged over the cell's runs."""
    lines = {}
    for cell in study.cells:
        values: dict[float, list[float]] = defaultdict(list)
        for trial in cell.trials:
            for row in trial.history:
                value = row.get(name)
                if isinstance(value, int | float) and math.isfinite(value):
                    values[row["step"]].append(value)
        if len(values) > 1:
            lines[cell.key] = [(step, fmean(v)) for step, v in sorted(values.items())]
    return lines


def _smoothed(line: Line) -> Line:
    """Return the running mean over a tenth of the line."""
    reach = len(line) // 20
    values = [value for _, value in line]
    return [
        (step, fmean(values[max(0, i - reach) : i + reach + 1])) for i, (step, _) in enumerate(line)
    ]


def _sufficient_step(line: Line) -> float:
    """Return the first step whose value is within 0.01 of the highest."""
    best = max(value for _, value in line)
    return next(step for step, value in line if value >= best - 0.01)


def _estimates(study: Study, metric: str) -> dict[str, Estimate]:
    """Return Cell.key -> estimate, as in the tables, for the cells that have the metric."""
    reader = ScoreReader()
    estimates = {cell.key: reader.estimate(cell.finished, metric) for cell in study.cells}
    return {key: estimate for key, estimate in estimates.items() if estimate is not None}


def _by_subject(study: Study, metric: str) -> dict[str, dict[str, float]]:
    """Return Cell.key -> subject -> the mean over its runs."""
    means: dict[str, dict[str, float]] = {}
    for cell in study.cells:
        values: dict[str, list[float]] = defaultdict(list)
        for trial in cell.finished:
            result = trial.metrics.get(metric)
            if result and math.isfinite(result.value):
                values[trial.subject].append(result.value)
        means[cell.key] = {subject: fmean(of_runs) for subject, of_runs in values.items()}
    return means
