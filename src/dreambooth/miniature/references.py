"""The references of `identity`: drawings of an individual as a prompt asks for it.

A picture for "a red {}" should show the subject in red, and must not count as another individual
for that. So the references have every attribute that the prompt states, such as the colour, style,
context, view or accessory. All other attributes are random, as in the world.
"""

import zlib
from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np
from torch import Tensor

from dreambooth.miniature.drawing import draw
from dreambooth.miniature.oracle import prompted_values
from dreambooth.miniature.scenes import to_tensor
from dreambooth.miniature.world import Individual, Scene, random_scene, recolour

NUM_REFERENCES = 16
_SCENE_FIELDS = {field.name for field in fields(Scene)}
_MAX_TRIES = 1000


def references(who: Individual, prompt: str = "") -> Tensor:
    """Draw the individual as `prompt` asks for it, float32 [-1, 1] (16, 3, 64, 64).

    `prompt` is a template or a whole prompt; its class noun is ignored. The same individual and
    prompt always give the same drawings.
    """
    asked = prompted_except_class(prompt)
    rng = np.random.default_rng(zlib.crc32(repr((who, sorted(asked.items()))).encode()))
    return to_tensor(draw_as_prompted(rng, who, asked, NUM_REFERENCES))


def prompted_except_class(prompt: str) -> dict[str, str]:
    """Return the attributes that a prompt states, except the class, which is the subject's."""
    return {name: value for name, value in prompted_values(prompt).items() if name != "class"}


def draw_as_prompted(
    rng: np.random.Generator, who: Individual, asked: Mapping[str, str], count: int
) -> np.ndarray:
    """Draw `who` with the attributes `asked`, uint8 (count, 64, 64, 3); the rest is random."""
    if "colour" in asked:
        who = recolour(who, asked["colour"])
    if "pattern" in asked:
        who = replace(who, pattern=asked["pattern"])
    wanted = {name: value for name, value in asked.items() if name in _SCENE_FIELDS}
    return np.stack([draw(_scene_with(rng, who, wanted)) for _ in range(count)])


def _scene_with(rng: np.random.Generator, who: Individual, wanted: Mapping[str, str]) -> Scene:
    """Return a random scene with the attributes `wanted`. If the world never draws such a scene, as
    of a happy dog from behind, the attributes of a random scene are set."""
    for _ in range(_MAX_TRIES):
        scene = random_scene(rng, who)
        if all(getattr(scene, name) == value for name, value in wanted.items()):
            return scene
    return replace(scene, **wanted)  # type: ignore[arg-type]
