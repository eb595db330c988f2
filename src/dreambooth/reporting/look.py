"""The look of the report's figures: their style, and each cell's colour, marker and line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dreambooth.reporting.scores import HEADINGS
from dreambooth.reporting.study import Study

if TYPE_CHECKING:  # matplotlib takes a second
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

INK, MUTED, RULE, PAPER = "#1b1d21", "#5b6068", "#d8d5cf", "#fefefe"
# After Okabe and Ito; light colours are darkened for contrast on white.
SERIES = ("#0072b2", "#d55e00", "#00875f", "#a8418b", "#8a6a00", "#2b93c9", "#5b4bb5")
MARKERS = "osD^vPX*"
DASHES = ("-", (0, (4, 1.6)), (0, (1, 1.4)), (0, (5, 1.4, 1, 1.4)))
WIDTH = 7.0  # inches: the text width of a page
STYLE = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.labelsize": 8,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.formatter.useoffset": False,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "dreambooth",  # the same figure always gives the same file
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.04,
}


@dataclass(frozen=True)
class Look:
    """How a cell is drawn in every figure."""

    colour: str
    marker: str
    dash: Any
    filled: bool = True  # with its colour; otherwise with that of the paper
    opacity: float = 1  # of the filling

    @property
    def point(self) -> dict[str, Any]:
        """The arguments of `Axes.plot` for a marker."""
        face = (self.colour if self.filled else PAPER, self.opacity)
        marker = {"marker": self.marker, "markeredgecolor": self.colour, "markerfacecolor": face}
        return marker | {"linestyle": ""}

    @property
    def line(self) -> dict[str, Any]:
        """The arguments of `Axes.plot` for a line with markers."""
        return self.point | {"color": self.colour, "linestyle": self.dash}


Looks = Mapping[str, Look]
"""Cell.key -> look."""


def looks(study: Study) -> Looks:
    """Return a look for every cell.

    If the study has two axes, one of them with two values, then the axis with more values sets
    colour and marker, and the other axis sets dashes and filling. Otherwise every cell has its own
    colour, marker and dashes.
    """
    values = [list(dict.fromkeys(cell.settings[a] for cell in study.cells)) for a in study.axes]
    if len(values) == 2 and min(map(len, values)) == 2 and max(map(len, values)) <= len(SERIES):
        longer = int(len(values[1]) >= len(values[0]))
        by_key = {}
        for cell in study.cells:
            i = values[longer].index(cell.settings[study.axes[longer]])
            last = cell.settings[study.axes[1 - longer]] == values[1 - longer][-1]
            by_key[cell.key] = Look(SERIES[i], MARKERS[i], DASHES[int(not last)], last)
        return by_key
    return {
        cell.key: Look(
            SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)], DASHES[i // len(SERIES) % 4]
        )
        for i, cell in enumerate(study.cells)
    }


def panels(
    number: int,
    study: Study,
    styles: Looks,
    height: float,
    lines: bool = False,
    labels: Mapping[str, str] | None = None,
) -> tuple[Canvas, list[Axes]]:
    """Create panels of `height` inches, at most three in a row, and a legend of the cells.

    The legend is below rows of three panels, otherwise to the right. It shows lines if `lines` is
    set, and markers otherwise. `labels` are its cells and their labels; by default, all cells that
    have results.
    """
    from matplotlib.figure import Figure as Canvas
    from matplotlib.lines import Line2D

    columns = min(number, 3)
    rows = math.ceil(number / columns)
    below = columns == 3
    legend = 0.2 * math.ceil(len(study.cells) / 3) if below else 0
    width = WIDTH if number > 1 else 5.2
    canvas = Canvas(figsize=(width, height * rows + legend), layout="constrained")
    grid = canvas.subplots(rows, columns, squeeze=False)
    all_axes = [axes for line in grid for axes in line]
    for axes in all_axes[number:]:
        axes.remove()
    if labels is None:
        labels = {
            c.key: c.label
            for c in study.cells
            if c.finished or (lines and any(t.history for t in c.trials))
        }
    handles = [
        Line2D([], [], label=label, ms=4.5, **styles[key].line)
        if lines
        else Line2D([], [], label=label, ms=6, **styles[key].point)
        for key, label in labels.items()
    ]
    length = 3.4 if lines else 1
    if below:
        canvas.legend(handles=handles, handlelength=length, loc="outside lower center", ncols=3)
    else:
        canvas.legend(handles=handles, handlelength=length, loc="outside right upper")
    return canvas, all_axes[:number]


def heading(metric: str) -> str:
    """Return a metric's heading in the tables or, if it has none, its name in words."""
    return HEADINGS[metric].text if metric in HEADINGS else metric.replace("_", " ")


def in_short(count: int) -> str:
    """ "860 M", "36 k", "500": a count in two or three digits."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 0.9995 * size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def wrapped(text: str, width: int) -> str:
    """Wrap text to lines of at most `width` characters, at commas first and never within words."""
    import textwrap

    parts = text.split(", ") if len(text) > width else [text]
    parts = [*(f"{part}," for part in parts[:-1]), parts[-1]]
    return "\n".join(
        line
        for part in parts
        for line in textwrap.wrap(part, width, break_long_words=False, break_on_hyphens=False)
    )


def join_words(names: Sequence[str]) -> str:
    """ "a, b and c"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
