"""The faces of the animals, and the accessories that they wear."""

import numpy as np

from dreambooth.miniature.appearance import Look
from dreambooth.miniature.canvas import CREAM, GOLD, INK, Canvas, Colour, curve, ellipse

WHITE: Colour = (255, 255, 255)
FLUSHED: Colour = (255, 176, 160)
BLACK: Colour = (48, 46, 56)
RED: Colour = (196, 40, 52)
TEAL: Colour = (40, 168, 160)


def draw_eye(c: Canvas, look: Look, x: float, y: float, r: float, inner: float) -> None:
    """One eye; `inner` is +1 if the nose is to its right, -1 if to its left."""
    if look.expression == "sleeping":
        lid = [(x - 1.2 * r, y - 0.1 * r), (x, y + 0.75 * r), (x + 1.2 * r, y - 0.1 * r)]
        c.line(curve(lid, closed=False), 0.075)
        return
    white = FLUSHED if look.expression == "angry" else WHITE
    c.fill(ellipse(x, y, r, 1.15 * r, n=14), white, outline=0.03)
    c.fill(ellipse(x + 0.15 * r * inner, y + 0.1 * r, 0.46 * r, 0.58 * r, n=10), INK, outline=0)
    if look.expression == "angry":
        c.line([(x - 1.6 * r * inner, y - 1.9 * r), (x + 1.3 * r * inner, y - 0.5 * r)], 0.13)


def draw_mouth(c: Canvas, look: Look, x: float, y: float, w: float) -> None:
    """A mouth around (x, y), `w` its half width."""
    if look.expression in ("happy", "angry"):
        w *= 1.35
    if look.expression == "happy":
        grin = [(x - w, y - 0.3 * w), (x, y - 0.05 * w), (x + w, y - 0.3 * w), (x, y + 0.95 * w)]
        c.fill(curve(grin), (206, 44, 66), outline=0.05)
    elif look.expression == "angry":
        bow = [(x - w, y + 0.45 * w), (x, y - 0.3 * w), (x + w, y + 0.45 * w)]
        c.line(curve(bow, closed=False), 0.1)
    elif look.expression == "sleeping":
        c.fill(ellipse(x, y + 0.1 * w, 0.28 * w, 0.28 * w, n=8), INK, outline=0)
    else:
        c.line([(x - 0.55 * w, y), (x + 0.55 * w, y)], 0.06)


def draw_accessory(
    c: Canvas,
    look: Look,
    head: tuple[float, float, float],
    neck: tuple[float, float, float],
    eyes: list[tuple[float, float]],
) -> None:
    """What the scene's individual wears, if anything.

    `head` (x, y, half width) is where a hat or crown sits, `neck` (x, y, half width) a scarf.
    """
    hx, hy, hw = head
    nx, ny, nw = neck
    if look.accessory == "hat":
        size, place = (hw, 0.62), (hx, hy)
        crown = [(-0.62, 0.0), (-0.68, -0.95), (0.68, -0.95), (0.62, 0.0)]
        c.fill(np.array(crown) * size + place, BLACK)
        band = [(-0.63, -0.05), (-0.65, -0.32), (0.65, -0.32), (0.63, -0.05)]
        c.fill(np.array(band) * size + place, RED, outline=0)
        c.fill(ellipse(hx, hy, 1.15 * hw, 0.1), BLACK)
    elif look.accessory == "crown":
        teeth = [(-1, 0), (-1.1, -1), (-0.5, -0.5), (0, -1.2), (0.5, -0.5), (1.1, -1), (1, 0)]
        c.fill(np.array(teeth) * (0.75 * hw, 0.36) + (hx, hy + 0.06), GOLD)
    elif look.accessory == "scarf":
        c.fill(ellipse(nx, ny, nw, 0.13), TEAL)
        side = 0.45 * nw
        tail = [(side - 0.12, 0.05), (side + 0.14, 0.05), (side + 0.2, 0.55), (side - 0.1, 0.58)]
        c.fill(np.array(tail) + (nx, ny), TEAL)
        for stripe in (0.22, 0.42):
            c.line([(nx + side - 0.08, ny + stripe), (nx + side + 0.15, ny + stripe)], 0.07, CREAM)
    elif look.accessory == "glasses":
        for x, y in eyes:
            c.fill(ellipse(x, y, 0.23, 0.23, n=16), WHITE, outline=0)
            draw_eye(c, look, x, y, 0.12, 1.0 if x <= 0 else -1.0)
            ring = ellipse(x, y, 0.23, 0.23, n=16)
            c.line(np.concatenate([ring, ring[:1]]), 0.085, (30, 30, 36))
        if len(eyes) == 2:
            (left, y), (right, _) = eyes
            c.line([(left + 0.2, y), (right - 0.2, y)], 0.08)
