"""The live figures: dog, cat and rabbit on one plan, the bird and the fish.

1 unit is about 0.37 of the image's side; (0, 0) is the figure's middle, and y points down. A figure
seen from the side looks to the right. What lies in front is drawn later.
"""

import numpy as np

from dreambooth.miniature.appearance import Look, draw_emblem
from dreambooth.miniature.canvas import CREAM, INK, Canvas, Colour, curve, ellipse, mirrored
from dreambooth.miniature.faces import draw_accessory, draw_eye, draw_mouth

BEAK: Colour = (250, 168, 40)


def draw_beast(c: Canvas, look: Look) -> None:
    """A dog, cat or rabbit: they differ in ears, tail, muzzle and whiskers."""
    if look.view == "side":
        _beast_from_side(c, look)
    else:
        _beast_upright(c, look)


def _beast_from_side(c: Canvas, look: Look) -> None:
    w, r = look.who.width, 0.56 * look.who.head
    dog = look.who.class_noun == "dog"
    _tail(c, look, -0.68 * w, 0.3)
    for x in (-0.5, -0.28, 0.2, 0.42):  # legs
        c.fill(ellipse(x * w, 0.82, 0.13, 0.2, n=12), look.second)
    c.fill(ellipse(-0.06, 0.42, 0.66 * w, 0.4), look.skin)
    draw_emblem(c, look, -0.12, 0.42)

    hx, hy = 0.44, -0.2
    if not dog:  # a dog's ears hang in front of its head
        _ears(c, look, hx, hy, r)
    c.fill(ellipse(hx, hy, r, 0.9 * r), look.skin)
    muzzle = 0.36 if dog else 0.22
    c.fill(ellipse(hx + 0.8 * r, hy + 0.18, muzzle, 0.2), CREAM)
    c.fill(ellipse(hx + 0.8 * r + muzzle, hy + 0.1, 0.09, 0.08, n=8), INK, outline=0)
    draw_mouth(c, look, hx + 0.8 * r, hy + 0.27, 0.19)
    if dog:
        _ears(c, look, hx, hy, r)
    eye = (hx + 0.2, hy - 0.12)
    draw_eye(c, look, *eye, 0.12, 1.0)
    head, neck = (hx, hy - 0.78 * r, 0.8 * r), (hx - 0.1, hy + 0.86 * r, 0.42)
    draw_accessory(c, look, head, neck, [eye])


def _beast_upright(c: Canvas, look: Look) -> None:
    """Sitting, from the front or from behind."""
    w, r, hy = look.who.width, 0.56 * look.who.head, -0.24
    noun, behind = look.who.class_noun, look.view == "behind"
    if not behind:
        _tail(c, look, 0.4 * w, 0.55)
    for x in (-0.34, 0.34):  # feet
        c.fill(ellipse(x * w, 0.88, 0.2, 0.14), look.second)
    c.fill(ellipse(0, 0.48, 0.52 * w, 0.45), look.skin)
    if noun != "dog":
        _ears(c, look, 0, hy, r)
    c.fill(ellipse(0, hy, r * 1.06, 0.94 * r), look.skin)
    if noun == "dog":
        _ears(c, look, 0, hy, r)
    eyes = [(-0.25, hy - 0.1), (0.25, hy - 0.1)]
    if behind:
        _tail(c, look, 0, 0.62)
    else:
        muzzle, nose = (0.3, 0.11) if noun == "dog" else (0.22, 0.07)
        c.fill(ellipse(0, hy + 0.23, muzzle, 0.2), CREAM, outline=0.03)
        c.fill(ellipse(0, hy + 0.13, nose, 0.7 * nose, n=8), INK, outline=0)
        for eye, inner in zip(eyes, (1.0, -1.0), strict=True):
            draw_eye(c, look, *eye, 0.13, inner)
        draw_mouth(c, look, 0, hy + 0.3, 0.17)
        if noun == "cat":  # whiskers
            for x in (-1, 1):
                for dy in (-0.02, 0.1):
                    c.line([(0.2 * x, hy + 0.2 + dy), (0.62 * x, hy + 0.14 + 2 * dy)], 0.035)
        draw_emblem(c, look, 0, 0.62)
    draw_accessory(c, look, (0, hy - 0.74 * r, 0.8 * r), (0, hy + 0.92 * r, 0.46), eyes)


def _ears(c: Canvas, look: Look, x: float, y: float, r: float) -> None:
    """Both ears of a head around (x, y) of radius r; from the side, a dog's near one only."""
    e, noun = look.who.extras, look.who.class_noun
    if noun == "dog":
        shape = [(0.62, -0.62), (1.0, -0.62), (1.32, 0.05), (1.22, 0.62 * e), (0.92, 0.55 * e)]
    elif noun == "cat":
        shape = [(0.12, -0.82), (0.72, -0.98 - 0.5 * e), (0.98, -0.35)]
    else:
        shape = [(0.12, -0.8), (0.2, -1.5 * e - 0.3), (0.5, -1.75 * e - 0.3), (0.72, -1.4 * e)]
        shape.append((0.6, -0.65))
    points = np.array(shape) * r
    hatted = look.accessory == "hat" and noun != "dog"
    if hatted:  # the ears stick out sideways from under the hat
        points *= (2.0, 0.75) if noun == "rabbit" else (1.45, 0.9)
    points = points if noun == "cat" else curve(points)
    fill = look.second if noun == "dog" else look.skin
    if look.view == "side":
        back = points * (0.85, 1.0) - ((1.5 if hatted else 0.75) * r, 0.0)
        for ear in [back] if noun == "dog" else [back - (0.12, 0), back + (0.3, 0.02)]:
            c.fill(ear + (x, y), fill)
        return
    for ear in (points, mirrored(points)):
        c.fill(ear + (x, y), fill)
        if noun != "dog" and look.view == "front":  # their inside
            middle = ear.mean(0)
            c.fill((ear - middle) * 0.5 + middle + (x, y), look.second, outline=0)


def _tail(c: Canvas, look: Look, x: float, y: float) -> None:
    """A tail from (x, y) outwards."""
    noun, e = look.who.class_noun, look.who.extras
    out = -1.0 if x < 0 else 1.0
    if noun == "rabbit":
        c.fill(ellipse(x, y, 0.19 * e, 0.19 * e, n=14), CREAM)
    elif noun == "dog":
        path = [(x, y), (x + 0.22 * out, y - 0.22), (x + 0.24 * out, y - 0.5 * e)]
        c.line(curve(path, closed=False), 0.15, look.second, outline=0.05)
    else:
        tip = (x + 0.2 * out, y - 0.75 * e)
        path = [(x, y), (x + 0.3 * out, y), (x + 0.42 * out, y - 0.4), tip]
        c.line(curve(path, closed=False), 0.12, look.second, outline=0.05)


def draw_bird(c: Canvas, look: Look) -> None:
    e = look.who.extras
    for x in (-0.18, 0.18):  # legs and toes
        c.line([(x, 0.6), (x, 0.98)], 0.07, BEAK, outline=0.03)
        c.line([(x - 0.12, 0.98), (x + 0.16, 0.98)], 0.07, BEAK, outline=0.03)
    crest = curve([(-0.1, -0.7), (-0.2, -0.9 - 0.25 * e), (0.02, -0.85), (0.16, -0.95 - 0.2 * e)])
    if look.view == "side":
        _bird_from_side(c, look, crest)
    else:
        _bird_upright(c, look, crest)


def _bird_from_side(c: Canvas, look: Look, crest: np.ndarray) -> None:
    e, r = look.who.extras, 0.4 * look.who.head
    tail = [(-0.5, 0.2), (-1.1 * e, 0.0), (-1.15 * e, 0.3), (-0.95 * e, 0.45), (-0.4, 0.5)]
    c.fill(tail, look.second)
    hx, hy = 0.34, -0.38
    c.fill(crest + (hx + 0.04, hy + 0.36), look.second)
    c.fill([(hx + 0.3, hy - 0.12), (hx + 0.78, hy + 0.06), (hx + 0.3, hy + 0.2)], BEAK)
    c.fill(ellipse(-0.05, 0.26, 0.62 * look.who.width, 0.46, turn=-0.25), look.skin)
    c.fill(ellipse(hx, hy, r, r), look.skin)
    wing = [(0.1, 0.0), (-0.3, 0.02), (-0.75, 0.42), (-0.2, 0.5), (0.12, 0.3)]
    c.fill(curve(wing), look.second)
    draw_emblem(c, look, -0.18, 0.25, 0.15)
    eye = (hx + 0.12, hy - 0.06)
    draw_eye(c, look, *eye, 0.12, 1.0)
    if look.expression:
        draw_mouth(c, look, hx + 0.16, hy + 0.2, 0.14)
    head, neck = (hx, hy - 0.82 * r, 0.85 * r), (hx - 0.12, hy + 1.0 * r, 0.4)
    draw_accessory(c, look, head, neck, [eye])


def _bird_upright(c: Canvas, look: Look, crest: np.ndarray) -> None:
    w, e = look.who.width, look.who.extras
    c.fill(crest, look.second)
    flank = [(0.5, -0.4), (0.58 * w, 0.3)]
    body = [(0, -0.8), *flank, (0, 0.72), *((-x, y) for x, y in flank[::-1])]
    c.fill(curve(body), look.skin)
    wing = curve([(0.44, -0.1), (0.86 * w, 0.1), (0.8 * w, 0.6), (0.4, 0.4)])
    for side in (wing, mirrored(wing)):
        c.fill(side, look.second)
    eyes = [(-0.22, -0.38), (0.22, -0.38)]
    if look.view == "behind":
        c.fill([(-0.18, 0.35), (0.18, 0.35), (0.34 * e, 0.92), (-0.34 * e, 0.92)], look.second)
    else:
        for eye, inner in zip(eyes, (1.0, -1.0), strict=True):
            draw_eye(c, look, *eye, 0.13, inner)
        c.fill([(-0.15, -0.24), (0.15, -0.24), (0, 0.02)], BEAK)
        if look.expression:
            draw_mouth(c, look, 0, 0.1, 0.15)
        draw_emblem(c, look, 0, 0.42)
    draw_accessory(c, look, (0, -0.66, 0.42), (0, 0.06, 0.5), eyes)


def draw_fish(c: Canvas, look: Look) -> None:
    if look.view == "side":
        _fish_from_side(c, look)
    else:
        _fish_head_on(c, look)


def _fish_from_side(c: Canvas, look: Look) -> None:
    w, h, e = look.who.width, look.who.head, look.who.extras
    tail = [(-0.55, 0.0), (-1.1, -0.5 * e), (-0.95, 0.0), (-1.1, 0.5 * e)]
    c.fill(curve(tail), look.second)
    fin = curve([(-0.35, -0.35), (-0.1, -0.6 - 0.3 * e), (0.35, -0.5), (0.4, -0.3)])
    c.fill(fin, look.second)
    c.fill(fin * (0.8, -0.8), look.second)
    back = [(-0.75, 0.0), (-0.35, -0.4 * h), (0.3, -0.52 * h)]
    c.fill(curve([*back, (0.85 * w, -0.05), (0.3, 0.5 * h), (-0.35, 0.38 * h)]), look.skin)
    c.fill(curve([(0.1, 0.05), (-0.3, -0.08), (-0.4, 0.2), (-0.1, 0.25)]), look.second)
    draw_emblem(c, look, -0.3, -0.12, 0.14)
    eye = (0.42, -0.14)
    draw_eye(c, look, *eye, 0.14, 1.0)
    draw_mouth(c, look, 0.58, 0.16, 0.16)
    draw_accessory(c, look, (0.3, -0.46 * h, 0.45), (-0.02, 0.36 * h, 0.42), [eye])


def _fish_head_on(c: Canvas, look: Look) -> None:
    """From the front or from behind."""
    w, h, e = look.who.width, look.who.head, look.who.extras
    fin = [(-0.12, -0.5), (-0.1, -0.85 - 0.3 * e), (0.14, -0.85 - 0.2 * e), (0.12, -0.5)]
    c.fill(curve(fin), look.second)
    side_fin = curve([(0.5, 0.0), (1.0 * e, -0.25), (1.02 * e, 0.35), (0.5, 0.3)])
    for side in (side_fin, mirrored(side_fin)):
        c.fill(side, look.second)
    c.fill(ellipse(0, 0.02, 0.62 * w, 0.66 * h), look.skin)
    eyes = [(-0.28, -0.2), (0.28, -0.2)]
    if look.view == "behind":
        tail = curve([(0, 0.0), (-0.22, -0.7 * e), (0, -0.5), (0.22, -0.7 * e)])
        c.fill(tail + (0, 0.1), look.second)
        c.fill(tail * (1, -1) + (0, 0.1), look.second)
    else:
        for eye, inner in zip(eyes, (1.0, -1.0), strict=True):
            draw_eye(c, look, *eye, 0.15, inner)
        draw_mouth(c, look, 0, 0.14, 0.22)
        draw_emblem(c, look, 0, 0.46, 0.15)
    draw_accessory(c, look, (0, -0.58 * h, 0.5), (0, 0.36, 0.54), eyes)
