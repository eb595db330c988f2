"""The animals: dog, cat and rabbit, which share one body plan, bird and fish.

1 unit is `figures.UNIT` of the image's side; (0, 0) is the figure's middle, and y points down.
Seen from the side, a figure looks to the right. Parts are drawn from back to front.
"""

import numpy as np

from dreambooth.miniature.appearance import Look, draw_emblem
from dreambooth.miniature.canvas import CREAM, INK, Canvas, Colour, curve, ellipse, mirrored
from dreambooth.miniature.faces import draw_accessory, draw_eye, draw_mouth

BEAK: Colour = (250, 168, 40)


def draw_beast(c: Canvas, look: Look) -> None:
    """Draw a dog, cat or rabbit; they differ in ears, tail, muzzle and whiskers."""
    if look.view == "side":
        _beast_from_side(c, look)
    else:
        _beast_upright(c, look)


def _beast_from_side(c: Canvas, look: Look) -> None:
    w, r = look.who.width, 0.6 * look.who.head
    dog = look.who.class_noun == "dog"
    _tail(c, look, -0.66 * w, 0.34)
    for x in (-0.46, 0.36):  # legs
        c.fill(ellipse(x * w, 0.82, 0.2, 0.2, n=14), look.second)
    c.fill(ellipse(-0.08, 0.46, 0.66 * w, 0.38), look.skin)
    draw_emblem(c, look, -0.26, 0.46)

    hx, hy = 0.36, -0.2
    if not dog:  # a dog's ears hang in front of its head
        _ears(c, look, hx, hy, r)
    c.fill(ellipse(hx, hy, r, 0.92 * r), look.skin)
    muzzle = 0.34 if dog else 0.26
    c.fill(ellipse(hx + 0.78 * r, hy + 0.22, muzzle, 0.26), CREAM)
    c.fill(ellipse(hx + 0.78 * r + muzzle - 0.02, hy + 0.06, 0.1, 0.09, n=10), INK, outline=0)
    draw_mouth(c, look, hx + 0.8 * r, hy + 0.29, 0.2)
    if dog:
        _ears(c, look, hx, hy, r)
    eye = (hx + 0.16, hy - 0.14)
    draw_eye(c, look, *eye, 0.17, 1.0)
    head, neck = (hx, hy - 0.76 * r, 0.8 * r), (hx - 0.14, hy + 0.9 * r, 0.46)
    draw_accessory(c, look, head, neck, [eye])


def _beast_upright(c: Canvas, look: Look) -> None:
    """Draw it sitting, from the front or from behind."""
    w, r, hy = look.who.width, 0.62 * look.who.head, -0.26
    noun, behind = look.who.class_noun, look.view == "behind"
    if not behind:
        _tail(c, look, 0.38 * w, 0.6)
    for x in (-0.32, 0.32):  # feet
        c.fill(ellipse(x * w, 0.9, 0.22, 0.14), look.second)
    c.fill(ellipse(0, 0.54, 0.5 * w, 0.42), look.skin)
    if noun != "dog":
        _ears(c, look, 0, hy, r)
    c.fill(ellipse(0, hy, r * 1.08, 0.94 * r), look.skin)
    if noun == "dog":
        _ears(c, look, 0, hy, r)
    eyes = [(-0.27, hy - 0.12), (0.27, hy - 0.12)]
    if behind:
        _tail(c, look, 0, 0.66)
    else:
        muzzle, nose = (0.36, 0.13) if noun == "dog" else (0.3, 0.09)
        c.fill(ellipse(0, hy + 0.3, muzzle, 0.25), CREAM, outline=0.04)
        c.fill(ellipse(0, hy + 0.13, nose, 0.75 * nose, n=10), INK, outline=0)
        for eye, inner in zip(eyes, (1.0, -1.0), strict=True):
            draw_eye(c, look, *eye, 0.17, inner)
        draw_mouth(c, look, 0, hy + 0.36, 0.22)
        if noun == "cat":  # whiskers
            for x in (-1, 1):
                c.line([(0.4 * x, hy + 0.28), (0.74 * x, hy + 0.22)], 0.05)
        draw_emblem(c, look, 0, 0.66)
    draw_accessory(c, look, (0, hy - 0.74 * r, 0.8 * r), (0, hy + 0.94 * r, 0.5), eyes)


def _ears(c: Canvas, look: Look, x: float, y: float, r: float) -> None:
    """Draw both ears of a head of radius r around (x, y); from the side, a dog shows only one."""
    e, noun = look.who.extras, look.who.class_noun
    if noun == "dog":
        shape = [(0.62, -0.62), (1.0, -0.6), (1.3, 0.05), (1.2, 0.62 * e), (0.92, 0.55 * e)]
    elif noun == "cat":
        shape = [(0.1, -0.8), (0.76, -0.98 - 0.48 * e), (1.0, -0.3)]
    else:
        shape = [(0.1, -0.75), (0.14, -1.25 * e - 0.3), (0.44, -1.5 * e - 0.2), (0.74, -1.2 * e)]
        shape.append((0.64, -0.6))
    points = np.array(shape) * r
    hatted = look.accessory == "hat" and noun != "dog"
    if hatted:  # the ears stick out sideways from under the hat
        points *= (2.0, 0.75) if noun == "rabbit" else (1.45, 0.9)
    points = points if noun == "cat" else curve(points)
    fill = look.second if noun == "dog" else look.skin
    if look.view == "side":
        back = points * (0.85, 1.0) - ((1.5 if hatted else 0.75) * r, 0.0)
        for ear in [back] if noun == "dog" else [back - (0.14, 0), back + (0.3, 0.02)]:
            c.fill(ear + (x, y), fill)
        return
    for ear in (points, mirrored(points)):
        c.fill(ear + (x, y), fill)
        if noun != "dog" and look.view == "front":  # the inside of the ear
            middle = ear.mean(0)
            c.fill((ear - middle) * 0.5 + middle + (x, y), look.second, outline=0)


def _tail(c: Canvas, look: Look, x: float, y: float) -> None:
    """Draw a tail from (x, y) outwards."""
    noun, e = look.who.class_noun, look.who.extras
    out = -1.0 if x < 0 else 1.0
    if noun == "rabbit":
        c.fill(ellipse(x, y, 0.2 * e, 0.2 * e, n=14), CREAM)
    elif noun == "dog":
        path = [(x, y), (x + 0.24 * out, y - 0.2), (x + 0.26 * out, y - 0.5 * e)]
        c.line(curve(path, closed=False), 0.18, look.second, outline=0.05)
    else:
        tip = (x + 0.22 * out, y - 0.72 * e)
        path = [(x, y), (x + 0.32 * out, y), (x + 0.44 * out, y - 0.4), tip]
        c.line(curve(path, closed=False), 0.16, look.second, outline=0.05)


def draw_bird(c: Canvas, look: Look) -> None:
    e = look.who.extras
    for x in (-0.2, 0.2):  # legs and toes
        c.line([(x, 0.6), (x, 0.96), (x + 0.14, 0.96)], 0.11, BEAK)
    crest = curve([(-0.12, -0.7), (-0.22, -0.9 - 0.2 * e), (0.04, -0.84), (0.2, -0.9 - 0.2 * e)])
    if look.view == "side":
        _bird_from_side(c, look, crest)
    else:
        _bird_upright(c, look, crest)


def _bird_from_side(c: Canvas, look: Look, crest: np.ndarray) -> None:
    e, r = look.who.extras, 0.46 * look.who.head
    tail = [(-0.45, 0.15), (-1.05 * e, -0.05), (-1.1 * e, 0.3), (-0.9 * e, 0.48), (-0.4, 0.5)]
    c.fill(tail, look.second)
    hx, hy = 0.3, -0.34
    c.fill(crest + (hx + 0.04, hy + 0.32), look.second)
    c.fill([(hx + 0.32, hy - 0.14), (hx + 0.84, hy + 0.08), (hx + 0.32, hy + 0.24)], BEAK)
    c.fill(ellipse(-0.05, 0.28, 0.62 * look.who.width, 0.46, turn=-0.25), look.skin)
    c.fill(ellipse(hx, hy, r, r), look.skin)
    wing = [(0.12, 0.02), (-0.3, 0.04), (-0.75, 0.42), (-0.2, 0.54), (0.14, 0.34)]
    c.fill(curve(wing), look.second)
    draw_emblem(c, look, -0.16, 0.28, 0.17)
    eye = (hx + 0.12, hy - 0.08)
    draw_eye(c, look, *eye, 0.17, 1.0)
    if look.expression:
        draw_mouth(c, look, hx + 0.14, hy + 0.26, 0.18)
    head, neck = (hx, hy - 0.8 * r, 0.85 * r), (hx - 0.12, hy + 0.98 * r, 0.44)
    draw_accessory(c, look, head, neck, [eye])


def _bird_upright(c: Canvas, look: Look, crest: np.ndarray) -> None:
    w, e = look.who.width, look.who.extras
    c.fill(crest, look.second)
    flank = [(0.54, -0.4), (0.6 * w, 0.3)]
    body = [(0, -0.8), *flank, (0, 0.74), *((-x, y) for x, y in flank[::-1])]
    c.fill(curve(body), look.skin)
    wing = curve([(0.46, -0.1), (0.9 * w, 0.1), (0.84 * w, 0.62), (0.42, 0.42)])
    for side in (wing, mirrored(wing)):
        c.fill(side, look.second)
    eyes = [(-0.25, -0.38), (0.25, -0.38)]
    if look.view == "behind":
        c.fill([(-0.2, 0.35), (0.2, 0.35), (0.36 * e, 0.92), (-0.36 * e, 0.92)], look.second)
    else:
        for eye, inner in zip(eyes, (1.0, -1.0), strict=True):
            draw_eye(c, look, *eye, 0.17, inner)
        c.fill([(-0.17, -0.22), (0.17, -0.22), (0, 0.04)], BEAK)
        if look.expression:
            draw_mouth(c, look, 0, 0.18, 0.2)
        draw_emblem(c, look, 0, 0.5, 0.17)
    draw_accessory(c, look, (0, -0.66, 0.44), (0, 0.1, 0.54), eyes)


def draw_fish(c: Canvas, look: Look) -> None:
    if look.view == "side":
        _fish_from_side(c, look)
    else:
        _fish_head_on(c, look)


def _fish_from_side(c: Canvas, look: Look) -> None:
    w, h, e = look.who.width, look.who.head, look.who.extras
    tail = [(-0.5, 0.0), (-1.08, -0.52 * e), (-0.92, 0.0), (-1.08, 0.52 * e)]
    c.fill(curve(tail), look.second)
    fin = curve([(-0.4, -0.35), (-0.12, -0.62 - 0.3 * e), (0.34, -0.56), (0.4, -0.3)])
    c.fill(fin, look.second)
    c.fill(fin * (0.8, -0.8), look.second)
    back = [(-0.75, 0.0), (-0.35, -0.44 * h), (0.3, -0.56 * h)]
    c.fill(curve([*back, (0.88 * w, -0.05), (0.3, 0.54 * h), (-0.35, 0.42 * h)]), look.skin)
    c.fill(curve([(0.06, 0.02), (-0.34, -0.12), (-0.44, 0.2), (-0.14, 0.28)]), look.second)
    draw_emblem(c, look, -0.28, -0.2, 0.16)
    eye = (0.4, -0.16)
    draw_eye(c, look, *eye, 0.18, 1.0)
    draw_mouth(c, look, 0.54, 0.2, 0.2)
    draw_accessory(c, look, (0.28, -0.48 * h, 0.46), (-0.02, 0.42 * h, 0.44), [eye])


def _fish_head_on(c: Canvas, look: Look) -> None:
    """Draw a fish from the front or from behind."""
    w, h, e = look.who.width, look.who.head, look.who.extras
    fin = [(-0.16, -0.5), (-0.14, -0.82 - 0.3 * e), (0.18, -0.82 - 0.2 * e), (0.16, -0.5)]
    c.fill(curve(fin), look.second)
    side_fin = curve([(0.55, 0.02), (0.9 * e, -0.2), (0.94 * e, 0.36), (0.55, 0.32)])
    for side in (side_fin, mirrored(side_fin)):
        c.fill(side, look.second)
    c.fill(ellipse(0, 0.04, 0.66 * w, 0.68 * h), look.skin)
    eyes = [(-0.29, -0.18), (0.29, -0.18)]
    if look.view == "behind":
        tail = curve([(0, 0.0), (-0.24, -0.7 * e), (0, -0.5), (0.24, -0.7 * e)])
        c.fill(tail + (0, 0.1), look.second)
        c.fill(tail * (1, -1) + (0, 0.1), look.second)
    else:
        for eye, inner in zip(eyes, (1.0, -1.0), strict=True):
            draw_eye(c, look, *eye, 0.18, inner)
        draw_mouth(c, look, 0, 0.18, 0.24)
        draw_emblem(c, look, 0, 0.52, 0.15)
    draw_accessory(c, look, (0, -0.58 * h, 0.5), (0, 0.42, 0.58), eyes)
