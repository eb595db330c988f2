"""The look of an individual: its colours, its patterned skin and its emblem."""

from dataclasses import dataclass

import numpy as np

from dreambooth.miniature.canvas import (
    CREAM,
    EDGE,
    Canvas,
    Colour,
    Points,
    Texture,
    ellipse,
    shade,
)
from dreambooth.miniature.world import COLOURS, Individual, Scene


@dataclass(frozen=True)
class Look:
    """All that a figure's drawing depends on, except its pose."""

    who: Individual  # also where the individual is an object
    skin: Texture  # main colour and pattern
    main: Colour
    second: Colour
    view: str
    expression: str | None
    accessory: str | None


def look_of(canvas: Canvas, scene: Scene) -> Look:
    """Return the look of the scene's individual; its skin fits the canvas where it is placed."""
    who = scene.individual
    main, second = COLOURS[who.main], COLOURS[who.second]
    skin = Texture(_skin(canvas.blank(main), who, second), edge=shade(main, EDGE))
    return Look(who, skin, main, second, scene.view, scene.expression, scene.accessory)


def _skin(c: Canvas, who: Individual, second: Colour) -> np.ndarray:
    """Draw the pattern, in the figure's coordinates, on a canvas `c` of the main colour."""
    # The layouts are few, of few large parts: small models can learn them, and captions still
    # cannot state them.
    rng = np.random.default_rng(who.pattern_seed)
    if who.pattern == "striped":
        period = who.pattern_period
        cos, sin = np.cos(who.pattern_angle), np.sin(who.pattern_angle)
        for at in np.arange(-1.8, 1.8, period) + period / 2 * rng.integers(2):
            middle, along = np.array([cos, sin]) * at, np.array([-sin, cos]) * 2.2
            c.line(np.stack([middle - along, middle + along]), 0.45 * period, second)
    elif who.pattern == "spotted":
        radius = rng.choice([0.11, 0.15])
        rows = np.arange(-3, 4)
        for row in rows:
            for x in (np.arange(-3, 4) + 0.5 * (row % 2)) * 0.42:
                if rng.random() < 0.75:
                    c.fill(ellipse(x, 0.36 * row + 0.1, radius, radius, n=12), second, outline=0)
    elif who.pattern == "patched":
        # Patches alternate between left and right, so that every figure shows some in every view.
        side = rng.choice([-1, 1])
        for y in (-0.55, 0.1, 0.75):
            x, side = side * rng.choice([0.2, 0.42]), -side
            rx, ry = rng.choice([0.3, 0.4]), 0.27
            c.fill(ellipse(x, y, rx, ry, turn=0.4 * side, n=14), second, outline=0)
    return c.pixels


def draw_emblem(c: Canvas, look: Look, x: float, y: float, size: float = 0.2) -> None:
    """Draw the individual's emblem, a small mark of radius `size`, if it has one."""
    emblem, name = look.who.emblem, look.who.emblem_colour
    if emblem is None or name is None:
        return
    colour = COLOURS[name]
    points: Points
    if emblem == "star":
        r = np.where(np.arange(10) % 2, 0.45, 1.15) * size
        t = np.arange(10) * np.pi / 5 - np.pi / 2
        points = np.stack([x + r * np.cos(t), y + r * np.sin(t)], 1)
    elif emblem == "heart":
        left = [(0, 1), (-1, 0), (-0.9, -0.7), (-0.4, -0.85), (0, -0.35)]
        right = [(-a, b) for a, b in left[:0:-1]]
        points = np.array(left + right) * size + (x, y)
    elif emblem == "ring":
        c.fill(ellipse(x, y, size, size, n=14), colour, outline=0.045)
        points = ellipse(x, y, 0.42 * size, 0.42 * size, n=10)
        colour = CREAM
    else:
        bolt = [(0.3, -1.1), (-0.7, 0.2), (-0.05, 0.2), (-0.3, 1.1), (0.7, -0.25), (0.05, -0.25)]
        points = np.array(bolt) * size + (x, y)
    c.fill(points, colour, outline=0.045)
