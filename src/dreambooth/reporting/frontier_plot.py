"""The figure of frontiers: identity against what it costs, along the strengths of the training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dreambooth.metrics.columns import Range, range_of
from dreambooth.reporting.frontiers import Frontiers
from dreambooth.reporting.look import MUTED, Looks, heading, join_words, panels
from dreambooth.reporting.plot import Plot
from dreambooth.reporting.scores import HEADINGS
from dreambooth.reporting.study import Study

_MOST_AREAS = 6  # cells whose areas are written into a panel


def frontiers_plot(study: Study, styles: Looks) -> Iterator[Plot]:
    """Draw a line per cell: means over its runs, at the strengths that all of them have."""
    found = Frontiers.of(study)
    if found is None:
        return
    cells = [cell for cell in study.cells if found.of_cells[cell.key]]
    canvas, all_axes = panels(len(found.against), study, styles, height=2.9, lines=True)
    for axes, metric in zip(all_axes, found.against, strict=True):
        for cell in cells:
            runs = list(found.of_cells[cell.key].values())
            shared = sorted(set.intersection(*(set(run.strengths.tolist()) for run in runs)))
            x, y = (
                np.mean([np.interp(shared, r.strengths, r.means[name]) for r in runs], axis=0)
                for name in (found.fidelity, metric)
            )
            look = styles[cell.key]
            axes.plot(x, y, **look.line)
            if 1.0 in shared:
                trained = shared.index(1.0)
                axes.plot(x[trained], y[trained], "o", ms=10, mfc="none", mec=look.colour, mew=1)
        axes.axvline(found.level, color=MUTED, lw=0.8, dashes=(4, 3), zorder=1)
        axes.set(xlabel=heading(found.fidelity), ylabel=heading(metric))
        for name, set_limits in ((found.fidelity, axes.set_xlim), (metric, axes.set_ylim)):
            if range_of(name) == Range(0, 1):
                set_limits(-0.04, 1.04)
        # Where the lines of good runs are not: above if a low score is better, else below.
        above = HEADINGS[metric].better == "lower"
        if len(cells) <= _MOST_AREAS:
            for i, cell in enumerate(cells):
                area = found.estimate(cell.key, f"area {metric}")
                assert area is not None, "the cell has runs"
                place = -4 - 9 * i if above else 4 + 9 * (len(cells) - 1 - i)
                text = f"area {area.mean:.2f} ({area.low:.2f}, {area.high:.2f})"
                axes.annotate(
                    text, (0, float(above)), (4, place), xycoords="axes fraction", fontsize=7,
                    textcoords="offset points", va="top" if above else "bottom",
                    color=styles[cell.key].colour,
                )  # fmt: skip
    caption = (
        f"{heading(found.fidelity)} against {join_words([heading(m) for m in found.against])} at "
        "several strengths of the training, from the pretrained model on; the ring is the model as "
        "it was trained. The dashed line is the fidelity that all runs reach, at which the table "
        "compares them. The area of a frontier (95 % interval) is the best score that is reached "
        "with a fidelity of f or more, averaged over f: 1 is perfect."
    )
    yield Plot("frontier", "Frontiers", caption, canvas)
