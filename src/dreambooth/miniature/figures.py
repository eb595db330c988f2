"""A scene's individual onto the canvas: five animals and five objects, from three viewpoints."""

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


UNIT = 0.4  # of the image's side: what 1 is in the figures' own coordinates


def draw_subject(canvas: Canvas, scene: Scene) -> None:
    """The scene's individual, in its pose, with its expression and what it wears.

    Leaves the canvas placed at the individual.
    """
    x, y = 0.5 + scene.shift[0], 0.56 + scene.shift[1]
    canvas.place(UNIT * scene.scale, x, y, scene.rotation, scene.flip)
    _FIGURES[scene.individual.class_noun](canvas, look_of(canvas, scene))
