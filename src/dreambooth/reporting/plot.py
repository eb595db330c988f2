"""A figure as it is drawn, between the code that draws it and the code that writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # matplotlib takes a second
    from matplotlib.figure import Figure as Canvas


@dataclass(frozen=True)
class Plot:
    """A figure before it is written."""

    key: str
    title: str
    caption: str
    canvas: Canvas
