"""A figure that is drawn but not yet written to files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # matplotlib takes a second
    from matplotlib.figure import Figure as Canvas


@dataclass(frozen=True)
class Plot:
    """A drawn figure; its fields are those of `figures.Figure`."""

    key: str
    title: str
    caption: str
    canvas: Canvas
