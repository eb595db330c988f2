"""The faces of the animals, and the accessories that they wear.

Eyes and mouths are large, so that an expression covers several pixels of the base stage's 32 x 32.
"""

import numpy as np

from dreambooth.miniature.appearance import Look
from dreambooth.miniature.canvas import CREAM, GOLD, INK, Canvas, Colour, curve, ellipse

WHITE: Colour = (255, 255, 255)
FLUSHED: Colour = (255, 150, 130)
BLACK: Colour = (58, 54, 68)
RED: Colour = (206, 44, 66)
TEAL: Colour = (40, 168, 160)


def draw_eye(c: Canvas, look: Look, x: float, y: float, r: float, inner: float) -> None:
    """Draw one eye; `inner` is +1 if the nose is to the right of the eye, -1 if to the left."""
    if look.expression == "sleeping":
        lid = [(x - 1.15 * r, y), (x, y + 0.75 * r), (x + 1.15 * r, y)]
        c.line(curve(lid, closed=False), 0.1)
        return
    white = FLUSHED if look.expression == "angry" else WHITE
    c.fill(ellipse(x, y, r, 1.1 * r, n=16), white, outline=0.04)
    c.fill(ellipse(x + 0.15 * r * inner, y + 0.1 * r, 0.5 * r, 0.6 * r, n=12), INK, outline=0)
    if look.expression == "angry":
        c.line([(x - 1.5 * r * inner, y - 1.55 * r), (x + 1.2 * r * inner, y - 0.4 * r)], 0.15)


def draw_mouth(c: Canvas, look: Look, x: float, y: float, w: float) -> None:
    """Draw a mouth around (x, y) of half width `w`."""
    if look.expression == "happy":
        grin = [(x - w, y - 0.15), (x, y - 0.1), (x + w, y - 0.15), (x, y + 0.22)]
        c.fill(curve(grin), RED, outline=0.05)
    elif look.expression == "angry":
        bow = [(x - w, y + 0.12), (x, y - 0.08), (x + w, y + 0.12)]
        c.line(curve(bow, closed=False), 0.13)
    elif look.expression == "sleeping":
        c.fill(ellipse(x, y + 0.02, 0.08, 0.1, n=10), INK, outline=0)
    else:
        c.line([(x - 0.6 * w, y), (x + 0.6 * w, y)], 0.08)


def draw_accessory(
    c: Canvas,
    look: Look,
    head: tuple[float, float, float],
    neck: tuple[float, float, float],
    eyes: list[tuple[float, float]],
) -> None:
    """Draw the accessory that the individual wears, if any.

    A hat or crown sits at `head`, a scarf at `neck`; each is (x, y, half width).
    """
    hx, hy, hw = head
    nx, ny, nw = neck
    if look.accessory == "hat":
        size, place = (hw, 0.6), (hx, hy)
        crown = [(-0.66, 0.0), (-0.7, -0.9), (0.7, -0.9), (0.66, 0.0)]
        c.fill(np.array(crown) * size + place, BLACK)
        band = [(-0.66, -0.05), (-0.68, -0.38), (0.68, -0.38), (0.66, -0.05)]
        c.fill(np.array(band) * size + place, RED, outline=0)
        c.fill(ellipse(hx, hy, 1.2 * hw, 0.12), BLACK)
    elif look.accessory == "crown":
        teeth = [(-1, 0), (-1.1, -1), (-0.5, -0.45), (0, -1.1), (0.5, -0.45), (1.1, -1), (1, 0)]
        c.fill(np.array(teeth) * (0.8 * hw, 0.42) + (hx, hy + 0.08), GOLD)
    elif look.accessory == "scarf":
        c.fill(ellipse(nx, ny, nw, 0.16), TEAL)
        side = 0.45 * nw
        tail = [(side - 0.15, 0.05), (side + 0.17, 0.05), (side + 0.22, 0.55), (side - 0.13, 0.58)]
        c.fill(np.array(tail) + (nx, ny), TEAL)
        c.line([(nx + side - 0.08, ny + 0.34), (nx + side + 0.15, ny + 0.34)], 0.1, CREAM)
    elif look.accessory == "glasses":
        for x, y in eyes:
            c.fill(ellipse(x, y, 0.25, 0.25, n=18), WHITE, outline=0)
            draw_eye(c, look, x, y, 0.14, 1.0 if x <= 0 else -1.0)
            ring = ellipse(x, y, 0.25, 0.25, n=18)
            c.line(np.concatenate([ring, ring[:1]]), 0.11, BLACK)
        if len(eyes) == 2:
            (left, y), (right, _) = eyes
            c.line([(left + 0.25, y), (right - 0.25, y)], 0.1, BLACK)
