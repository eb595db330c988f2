"""How well the miniature's own CLIP and DINO see drawn scenes that they were not trained on.

    python benchmarks/encoders.py [num_individuals]

CLIP, zero-shot on fresh scenes: the class as "a dog", the context as "a dog in the snow", averaged
over the classes. DINO and CLIP-I: area under the ROC curve of the cosine, between the same
individual in another scene and other individuals of the same class. Two scenes of each individual.
"""

import sys

import numpy as np
import torch
from torch import Tensor

from dreambooth.metrics.encoders import ClipEncoder, DinoEncoder
from dreambooth.miniature import WEIGHTS, world
from dreambooth.miniature.drawing import draw
from dreambooth.miniature.oracle_quality import SEED, auc
from dreambooth.miniature.world import Scene, individual, random_scene


def scene_pairs(num_individuals: int) -> list[Scene]:
    """Two scenes of each individual, one after the other; as many individuals of every class."""
    rng = np.random.default_rng([SEED, 5])
    scenes = []
    for i in range(num_individuals):
        subject = individual(world.CLASSES[i % len(world.CLASSES)], int(rng.integers(2**31)))
        scenes += [random_scene(rng, subject) for _ in range(2)]
    return scenes


def zero_shot(clip: ClipEncoder, features: Tensor, prompts: list[list[str]]) -> Tensor:
    """Which group of prompts is nearest to each image, (N,); a group is its prompts' mean."""
    groups = torch.stack([clip.texts(group).mean(0) for group in prompts])
    return (features @ torch.nn.functional.normalize(groups, dim=-1).T).argmax(1)


def identity_auc(features: Tensor, nouns: list[str]) -> float:
    """`features` (2 N, D), unit: two scenes of each individual; `nouns`, N."""
    first, second = features.view(len(nouns), 2, -1).unbind(1)
    cosines = (first @ second.T).numpy()
    same = np.eye(len(nouns), dtype=bool)
    others = (np.array(nouns)[:, None] == np.array(nouns)[None]) & ~same
    return auc(cosines[same], cosines[others])


def measured(num_individuals: int) -> dict[str, float]:
    """What is printed; of encoders that are there."""
    scenes = scene_pairs(num_individuals)
    images = [torch.from_numpy(draw(scene)).permute(2, 0, 1) for scene in scenes]
    nouns = [scene.individual.class_noun for scene in scenes]
    found = {}
    if (WEIGHTS / "clip").is_dir():
        clip = ClipEncoder(WEIGHTS / "clip")
        features = clip.images(images)
        seen = zero_shot(clip, features, [[f"a {noun}"] for noun in world.CLASSES])
        right = np.mean([world.CLASSES[i] == noun for i, noun in zip(seen, nouns, strict=True)])
        found["CLIP class"] = float(right)
        phrases = world.CONTEXTS.values()
        prompts = [[f"a {noun} {phrase}" for noun in world.CLASSES] for phrase in phrases]
        places = [list(world.CONTEXTS)[i] for i in zero_shot(clip, features, prompts)]
        right = np.mean([place == s.context for place, s in zip(places, scenes, strict=True)])
        found["CLIP context"] = float(right)
        found["CLIP-I identity AUC"] = identity_auc(features, nouns[::2])
    if (WEIGHTS / "dino").is_dir():
        dino = DinoEncoder(WEIGHTS / "dino", resize_px=64, crop_px=64)
        found["DINO identity AUC"] = identity_auc(dino.images(images), nouns[::2])
    return found


def main() -> None:
    for name, value in measured(int(sys.argv[1]) if len(sys.argv) > 1 else 1000).items():
        print(f"{name:20s}{value:.4f}")


if __name__ == "__main__":
    main()
