"""Individuals of the drawn world as subjects: their photos, and the individual behind them."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from dreambooth.miniature.drawing import SIZE_PX, draw
from dreambooth.miniature.scenes import casual_photos, to_tensor
from dreambooth.miniature.world import (
    CLASSES,
    CONTEXTS,
    Individual,
    Scene,
    individual,
    kind_of,
    recolour,
)
from dreambooth.subjects.photos import to_uint8
from dreambooth.subjects.prompt_sets import (
    CONTEXT_OF_PHOTOS,
    FREQUENT_CONTEXT,
    MINI_RARE,
    MINIATURE_SETS,
    NO_CONTEXT,
    RARE_CONTEXT,
    Families,
    families,
)
from dreambooth.subjects.subject import Subject, other_class

NUM_HELD_OUT = 16  # casual photos that are never trained on
# Each class twice, in two of the contexts.
_UNRELATED = tuple(
    f"a {noun} {context}"
    for noun, context in zip(2 * CLASSES, cycle(CONTEXTS.values()), strict=False)
)


def drawn_subject(
    class_noun: str,
    seed: int,
    num_photos: int = 5,
    wrong_class_noun: str | None = None,
    name: str | None = None,
    prompts: str = "minibench",
) -> Subject:
    """Return individual number `seed` (0 and up) of a class, with `num_photos` casual photos.

    `prompts`: one of `MINIATURE_SETS`, or limitations, which depend on the photos. Without
    `wrong_class_noun`, another class of the world is drawn, seeded by the true one.
    """
    kind = kind_of(class_noun)
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(
            f"subject.seed={seed} is not the number of an individual: give a whole number from 0 up"
        )
    if not isinstance(num_photos, int) or num_photos < 1:
        raise ValueError(f"subject.num_photos={num_photos}: give 1 or more, 3 to 5 in the paper")
    who = individual(class_noun, seed)
    scenes = casual_photos(class_noun, seed, num_photos + NUM_HELD_OUT)
    if prompts not in (*MINIATURE_SETS, "limitations"):
        raise ValueError(
            f"subject.prompts={prompts} is not known: choose {', '.join(MINIATURE_SETS)} or "
            "limitations"
        )
    is_set = prompts in MINIATURE_SETS
    asked = MINIATURE_SETS[prompts][kind] if is_set else limitation_prompts(scenes[:num_photos])
    pixels = to_tensor(np.stack([draw(s) for s in scenes]))
    words = [who.main, "" if who.pattern == "plain" else who.pattern, class_noun]
    return Subject(
        name=name or f"{class_noun}{seed}",
        class_noun=class_noun,
        wrong_class_noun=wrong_class_noun or other_class(class_noun, CLASSES),
        kind=kind,
        photos=lambda resolution_px: shrink(pixels[:num_photos], resolution_px),
        held_out=lambda resolution_px: shrink(pixels[num_photos:], resolution_px),
        originals=lambda: list(to_uint8(pixels[:num_photos])),
        prompts=tuple(asked),
        description=" ".join(w for w in words if w),
        truth=who,
        families=asked,
        unrelated=_UNRELATED,
    )


def limitation_prompts(photos: Sequence[Scene]) -> Families:
    """Prompts for the paper's limitations (section 4.5), for a subject that `photos` show.

    The photos show it from the front or the side.
    """
    seen = {photo.context for photo in photos}
    contexts = {name: f"a {{}} {words}" for name, words in CONTEXTS.items()}
    return families(
        {
            NO_CONTEXT: ("a {}", "a {} from the front", "a {} from the side"),
            CONTEXT_OF_PHOTOS: [text for name, text in contexts.items() if name in seen],
            FREQUENT_CONTEXT: [text for name, text in contexts.items() if name not in seen],
            RARE_CONTEXT: MINI_RARE,
        }
    )


def random_individual(rng: np.random.Generator, class_noun: str) -> Individual:
    return individual(class_noun, int(rng.integers(2**31)))


def look_alike(rng: np.random.Generator, who: Individual, both_colours: bool) -> Individual:
    """Return another individual of the same class and main colour, or of the same two colours."""
    other = recolour(random_individual(rng, who.class_noun), who.main)
    return replace(other, second=who.second) if both_colours else other


def shrink(images: Tensor, resolution_px: int) -> Tensor:
    """Reduce images (N, 3, 64, 64) to the resolution of a stage, by averaging areas."""
    return images if resolution_px == SIZE_PX else F.adaptive_avg_pool2d(images, resolution_px)
