"""The objects: car, boat, clock, backpack and teapot.

1 unit is `figures.UNIT` of the image's side; (0, 0) is the figure's middle, and y points down.
Seen from the side, a figure faces right. Parts are drawn from back to front.
"""

import numpy as np

from dreambooth.miniature.appearance import Look, draw_emblem
from dreambooth.miniature.canvas import (
    CREAM,
    GLASS,
    GOLD,
    INK,
    RUBBER,
    STEEL,
    Canvas,
    Colour,
    box,
    curve,
    ellipse,
    mirrored,
)

TAIL_LAMP: Colour = (222, 40, 50)
WOOD: Colour = (128, 82, 50)


def draw_car(c: Canvas, look: Look) -> None:
    top = -0.56 - 0.16 * (look.who.extras - 1)  # of the cabin
    if look.view == "side":
        _car_from_side(c, look, top)
        return
    w, front = look.who.width, look.view == "front"
    for x in (-0.58, 0.58):
        c.fill(box(x - 0.16, 0.4, x + 0.16, 0.84), RUBBER)
    c.fill([(-0.66, 0.05), (-0.5, top), (0.5, top), (0.66, 0.05)], look.skin)
    c.fill([(-0.54, top + 0.14), (-0.5, top), (0.5, top), (0.54, top + 0.14)], look.second)
    pane = np.array([(-0.46, -0.02), (-0.36, top + 0.2), (0.36, top + 0.2), (0.46, -0.02)])
    c.fill(pane if front else pane * (0.7, 0.8) - (0, 0.04), GLASS, outline=0.04)
    bonnet = [(-0.8 * w, 0.12), (-0.66, 0.0), (0.66, 0.0), (0.8 * w, 0.12)]
    c.fill([*bonnet, (0.82 * w, 0.66), (-0.82 * w, 0.66)], look.skin)
    c.fill(box(-0.86 * w, 0.52, 0.86 * w, 0.66), look.second)  # the bumper
    lamp, size = (GOLD, 0.16) if front else (TAIL_LAMP, 0.15)
    for x in (-0.56, 0.56):
        c.fill(ellipse(x * w, 0.22, size, size, n=12), lamp, outline=0.04)
    if front:
        draw_emblem(c, look, 0, 0.22, 0.18)
    else:
        c.fill(box(-0.2, 0.2, 0.2, 0.36), CREAM, outline=0.04)  # the number plate


def _car_from_side(c: Canvas, look: Look, top: float) -> None:
    w, r = look.who.width, 0.25 * look.who.head
    c.fill([(-0.66, 0.05), (-0.46, top), (0.34, top), (0.68, 0.05)], look.skin)
    c.fill([(-0.52, top + 0.14), (-0.46, top), (0.34, top), (0.42, top + 0.14)], look.second)
    sill = top + 0.18
    for pane in (
        [(-0.44, -0.03), (-0.32, sill), (-0.14, sill), (-0.14, -0.03)],
        [(0.06, -0.03), (0.06, sill), (0.2, sill), (0.4, -0.03)],
    ):
        c.fill(pane, GLASS, outline=0.04)
    body = [(-0.98 * w, 0.1), (-0.6, -0.02), (0.6, -0.02), (0.98 * w, 0.16)]
    c.fill([*body, (1.0 * w, 0.56), (-0.98 * w, 0.56)], look.skin)
    c.fill(box(-1.02 * w, 0.44, 1.04 * w, 0.58), look.second)  # the bumper
    c.fill(ellipse(0.88 * w, 0.24, 0.12, 0.13, n=12), GOLD, outline=0.04)
    for x in (-0.52, 0.54):  # wheels
        c.fill(ellipse(x * w, 0.58, r, r), RUBBER)
        c.fill(ellipse(x * w, 0.58, 0.5 * r, 0.5 * r, n=12), STEEL, outline=0)
    draw_emblem(c, look, 0.0, 0.22, 0.18)


def draw_boat(c: Canvas, look: Look) -> None:
    w, e = look.who.width, look.who.extras
    mast = -0.72 - 0.2 * e  # its top
    x = -0.05 if look.view == "side" else 0.0
    c.line([(x, 0.4), (x, mast)], 0.12, WOOD)
    if look.view == "side":
        c.fill([(0.05, mast + 0.05), (0.78, 0.22), (0.05, 0.22)], look.second)
        c.fill([(-0.15, mast + 0.2), (-0.15, 0.22), (-0.62, 0.22)], CREAM)
        hull = [(-0.95 * w, 0.32), (1.0 * w, 0.32), (0.72 * w, 0.78), (-0.7 * w, 0.78)]
        c.fill(hull, look.skin)
        draw_emblem(c, look, 0.25, 0.55, 0.18)
    elif look.view == "front":
        leech = [(0.36 * e, -0.2), (0.3 * e, 0.16)]
        c.fill([(0, mast + 0.04), *leech, *((-x, y) for x, y in leech[::-1])], look.second)
        gunwale = [(-0.62 * w, 0.16), (0, 0.06), (0.62 * w, 0.16)]
        c.fill(curve([*gunwale, (0.34, 0.62), (0, 0.92), (-0.34, 0.62)]), look.skin)
        c.line([(0, 0.12), (0, 0.86)], 0.09, WOOD)
        draw_emblem(c, look, -0.3, 0.36, 0.16)
    else:
        c.fill([(0, mast + 0.04), (0.3 * e, 0.1), (-0.3 * e, 0.1)], look.second)
        hull = [(-0.62 * w, 0.14), (0.62 * w, 0.14), (0.5 * w, 0.8), (-0.5 * w, 0.8)]
        c.fill(hull, look.skin)
        c.fill(box(-0.08, 0.4, 0.08, 1.0), WOOD)  # the rudder
        c.line([(-0.62 * w, 0.22), (0.62 * w, 0.22)], 0.1, WOOD)


def draw_clock(c: Canvas, look: Look) -> None:
    """Draw an alarm clock with two bells."""
    who, y, r = look.who, 0.16, 0.72 * look.who.width
    squeeze, bell = (0.5, 0.7) if look.view == "side" else (1.0, 1.0)
    for x in (-squeeze, squeeze):  # feet and bells
        c.line([(x * 0.4, y + 0.55), (x * 0.58, 0.98)], 0.12, look.second, outline=0.04)
        shape = ellipse(x * 0.42, y - 0.78, 0.3 * who.extras * bell, 0.22, turn=0.5 * x)
        c.fill(shape, look.second)
    c.line([(-0.16 * squeeze, -0.88), (0.16 * squeeze, -0.88)], 0.1, STEEL, outline=0.03)
    c.fill(ellipse(0, y, r * squeeze, r, n=30), look.skin)
    if look.view == "side":
        c.fill(ellipse(0.3 * r, y, 0.14, 0.74 * r), CREAM)
        draw_emblem(c, look, -0.14, y, 0.16)
    elif look.view == "front":
        c.fill(ellipse(0, y, 0.62 * r, 0.62 * r, n=26), CREAM, outline=0.04)
        a = (who.pattern_seed % 3) * np.pi / 2  # its hour hand: 3, 6 or 9
        c.line([(0, y), (0.32 * r * np.cos(a), y + 0.32 * r * np.sin(a))], 0.13)
        c.line([(0, y), (0.0, y - 0.44 * r)], 0.1)
        draw_emblem(c, look, 0.3 * r, y + 0.3 * r, 0.14)
    else:
        c.fill(ellipse(0, y, 0.2, 0.2, n=14), STEEL, outline=0.04)
        c.line([(-0.26, y), (0.26, y)], 0.1, GOLD, outline=0.035)  # the winding key
        c.fill(box(-0.24, 0.34, 0.24, 0.56) + (0, y - 0.06), look.second, outline=0.04)


def draw_backpack(c: Canvas, look: Look) -> None:
    w, e = look.who.width, look.who.extras
    loop = curve([(-0.2, -0.7), (-0.14, -0.98), (0.14, -0.98), (0.2, -0.7)], closed=False)
    c.line(loop, 0.09, look.second, outline=0.04)
    if look.view == "side":
        strap = curve([(-0.3, -0.5), (-0.78, -0.1), (-0.72, 0.5), (-0.3, 0.78)], closed=False)
        c.line(strap, 0.13, look.second, outline=0.045)
        bag = [(-0.36, -0.6), (0.0, -0.8), (0.34, -0.55), (0.4, 0.85), (-0.38, 0.85)]
        c.fill(curve(bag), look.skin)
        c.fill(curve([(0.36, 0.0), (0.7 * e, 0.1), (0.7 * e, 0.72), (0.36, 0.8)]), look.second)
        draw_emblem(c, look, 0, 0.3, 0.17)
        return
    shoulders = [(-0.6 * w, -0.45), (-0.3, -0.8), (0.3, -0.8), (0.6 * w, -0.45)]
    c.fill(curve([*shoulders, (0.66 * w, 0.8), (0, 0.9), (-0.66 * w, 0.8)]), look.skin)
    if look.view == "behind":
        for x in (-1.0, 1.0):
            path = [(0.22 * x, -0.62), (0.46 * x, -0.1), (0.44 * x, 0.4), (0.52 * x, 0.78)]
            c.line(curve(path, closed=False), 0.19, look.second, outline=0.045)
        c.line([(-0.4, 0.0), (0.4, 0.0)], 0.11)
        return
    edge = [(0.36 * w, -0.28), (0, -0.2 * e), (-0.36 * w, -0.28)]
    c.fill(curve([(-0.42 * w, -0.52), (0, -0.68), (0.42 * w, -0.52), *edge]), look.second)
    pocket = [(-0.32 * w, 0.3), (0.32 * w, 0.3), (0.36 * w, 0.7), (0, 0.76), (-0.36 * w, 0.7)]
    c.fill(curve(pocket), look.second)
    c.line([(-0.3 * w, 0.4), (0.3 * w, 0.4)], 0.08)
    c.fill(box(-0.07, -0.2, 0.07, 0.02), GOLD, outline=0.035)  # the buckle
    draw_emblem(c, look, 0, 0.58, 0.15)


def draw_teapot(c: Canvas, look: Look) -> None:
    w, e, knob = look.who.width, look.who.extras, 0.12 * look.who.head
    if look.view == "side":
        handle = [(-0.45, -0.15), (-0.9 * e, -0.2), (-0.9 * e, 0.4), (-0.45, 0.5)]
        c.line(curve(handle, closed=False), 0.17, look.second, outline=0.05)
        spout = [(0.4, 0.35), (0.68, 0.1), (0.78, -0.42), (1.02, -0.42), (0.92, 0.2), (0.5, 0.7)]
        c.fill(curve(spout), look.second)
    c.fill([(-0.36, 0.6), (0.36, 0.6), (0.42, 0.82), (-0.42, 0.82)], look.second)
    c.fill(ellipse(0, 0.2, 0.56 * 1.12 * w, 0.56), look.skin)
    c.fill(ellipse(0, -0.3, 0.36 * w, 0.15), look.second)
    c.fill(ellipse(0, -0.5, knob, knob, n=12), look.main)
    if look.view == "side":
        draw_emblem(c, look, 0, 0.22, 0.19)
    elif look.view == "front":  # the spout, head on
        c.fill(curve([(-0.2, 0.5), (-0.13, 0.0), (0.13, 0.0), (0.2, 0.5), (0, 0.58)]), look.second)
        c.fill(ellipse(0, -0.02, 0.18, 0.14, n=14), INK, outline=0)
        draw_emblem(c, look, -0.38, 0.22, 0.15)
    else:  # the handle
        bow = curve([(0, -0.12), (0.2 * e, -0.05), (0.2 * e, 0.34), (0, 0.46)], closed=False)
        c.line(np.concatenate([bow, mirrored(bow)[::-1]]), 0.1, look.second, outline=0.04)
