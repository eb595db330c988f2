"""Draws the individual of a scene: five animals and five objects, from three viewpoints."""

from collections.abc import Callable

from dreambooth.miniature.animals import draw_beast, draw_bird, draw_fish
from dreambooth.miniature.appearance import Look, look_of
from dreambooth.miniature.canvas import Canvas
from dreambooth.miniature.objects import (
    draw_backpack,
    draw_boat,
    draw_car,
    draw_clock,
    draw_teapot,
)
from dreambooth.miniature.world import Scene

_FIGURES: dict[str, Callable[[Canvas, Look], None]] = {
    "dog": draw_beast,
    "cat": draw_beast,
    "rabbit": draw_beast,
    "bird": draw_bird,
    "fish": draw_fish,
    "car": draw_car,
    "boat": draw_boat,
    "clock": draw_clock,
    "backpack": draw_backpack,
    "teapot": draw_teapot,
}

UNIT = 0.4  # of the image's side: the length of 1 in a figure's coordinates


def draw_subject(canvas: Canvas, scene: Scene) -> None:
    """Draw the scene's individual in its pose, with its expression and accessory.

    Afterwards the canvas's map is that of the individual.
    """
    x, y = 0.5 + scene.shift[0], 0.56 + scene.shift[1]
    canvas.place(UNIT * scene.scale, x, y, scene.rotation, scene.flip)
    _FIGURES[scene.individual.class_noun](canvas, look_of(canvas, scene))
