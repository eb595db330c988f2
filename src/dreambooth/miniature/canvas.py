"""Anti-aliased drawing in local coordinates, with OpenCV."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Colour = tuple[int, int, int]  # RGB, 0..255
Points = np.ndarray | Sequence[tuple[float, float]]  # (n, 2), in local units, y down

INK: Colour = (44, 34, 48)  # pupils, noses, mouths
GOLD: Colour = (246, 196, 44)
GLASS: Colour = (176, 222, 240)
STEEL: Colour = (176, 180, 190)
RUBBER: Colour = (62, 60, 68)
CREAM: Colour = (252, 246, 230)
EDGE = 0.68  # the brightness of an outline, relative to the colour inside it
_FRACTION_BITS = 4  # points are passed to cv2 in units of 1/16 px


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0, n: int = 22) -> np.ndarray:
    """Return n points (n, 2) on an ellipse around (x, y), turned by `turn` radians."""
    t = np.arange(n) * (2 * np.pi / n)
    u, v = rx * np.cos(t), ry * np.sin(t)
    c, s = np.cos(turn), np.sin(turn)
    return np.stack([x + c * u - s * v, y + s * u + c * v], 1)


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Return the corners (4, 2) of an upright rectangle."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float)


def curve(points: Points, closed: bool = True, steps: int = 5) -> np.ndarray:
    """Return a smooth (uniform Catmull-Rom) curve through n points, `steps` points for each span.

    Its shape is (n * steps, 2) if closed, else ((n - 1) * steps + 1, 2).
    """
    p = np.asarray(points, float)
    if closed:
        p = np.concatenate([p[-1:], p, p[:2]])
    else:
        p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = (np.arange(steps) / steps)[None, :, None]
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    out = 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )
    out = out.reshape(-1, 2)
    return out if closed else np.concatenate([out, p[-2:-1]])


def mirrored(points: np.ndarray) -> np.ndarray:
    """Return the points (n, 2) mirrored at the line x = 0."""
    return points * np.array([-1.0, 1.0])


def shade(colour: Colour, factor: float) -> Colour:
    """Darken (factor < 1) or lighten (factor > 1) a colour."""
    r, g, b = (min(255, round(c * factor)) for c in colour)
    return (r, g, b)


@dataclass(frozen=True)
class Texture:
    """A filling for a shape, in place of a colour."""

    pixels: np.ndarray  # uint8, of the canvas's shape
    edge: Colour  # of the shape's outline


class Canvas:
    """An RGB image (size_px, size_px, 3), uint8, and a map from local units to its pixels.

    At first one unit is the image's side: (0, 0) is its top left corner, (1, 1) its bottom right.
    """

    def __init__(self, size_px: int):
        self.size_px = size_px
        self.pixels = np.empty((size_px, size_px, 3), np.uint8)
        self.place(1.0)

    def place(
        self,
        unit: float,
        x: float = 0.0,
        y: float = 0.0,
        rotation: float = 0.0,
        flip: bool = False,
    ) -> None:
        """Set the map: local (0, 0) is at (x, y), and 1 local unit is `unit` long, in image sizes.

        `rotation` is in degrees, clockwise; `flip` mirrors left and right before the rotation.
        """
        a = np.deg2rad(rotation)
        turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
        if flip:
            turn = turn @ np.diag([-1.0, 1.0])
        self._matrix = turn.T * (unit * self.size_px)
        self._origin = np.array([x, y]) * self.size_px
        self._unit_px = unit * self.size_px

    def blank(self, colour: Colour) -> "Canvas":
        """Return another canvas of the same size and map, filled with one colour."""
        other = copy.copy(self)
        other.pixels = np.empty_like(self.pixels)
        other.pixels[:] = colour
        return other

    def fill(self, points: Points, colour: "Colour | Texture", outline: float = 0.06) -> None:
        """Draw a polygon in a colour or a texture.

        Its outline, `outline` units wide (0: none), is a darker shade of the filling, because small
        models smear near-black lines that are one pixel wide.
        """
        px = self._px(points)
        if isinstance(colour, Texture):
            mask = np.zeros(self.pixels.shape[:2], np.uint8)
            cv2.fillPoly(mask, [px], 255, cv2.LINE_8, _FRACTION_BITS)
            cv2.copyTo(colour.pixels, mask, self.pixels)
            edge = colour.edge
        else:
            cv2.fillPoly(self.pixels, [px], colour, cv2.LINE_AA, _FRACTION_BITS)
            edge = shade(colour, EDGE)
        if outline:
            self._stroke(px, outline, edge, closed=True)

    def line(
        self, points: Points, width: float, colour: Colour = INK, outline: float = 0.0
    ) -> None:
        """Draw an open line, `width` units wide, and an edge of `outline` units on both sides."""
        px = self._px(points)
        if outline:
            self._stroke(px, width + 2 * outline, shade(colour, EDGE), closed=False)
        self._stroke(px, width, colour, closed=False)

    def _px(self, points: Points) -> np.ndarray:
        """Points in local units to points for cv2, int32."""
        px = np.asarray(points, float) @ self._matrix + self._origin - 0.5
        return np.rint(px * (1 << _FRACTION_BITS)).astype(np.int32)

    def _stroke(self, px: np.ndarray, width: float, colour: Colour, closed: bool) -> None:
        thickness = max(1, round(width * self._unit_px))
        cv2.polylines(self.pixels, [px], closed, colour, thickness, cv2.LINE_AA, _FRACTION_BITS)
