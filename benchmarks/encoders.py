"""How well the miniature's CLIP and DINO recognize fresh scenes.

    python benchmarks/encoders.py [num_individuals]

Prints CLIP's zero-shot accuracy for the class ("a dog") and for the context ("a dog in the snow",
averaged over the classes). For DINO and CLIP-I it prints the area under the ROC curve of the cosine
of two scenes: those of one individual against those of two individuals of the same class.
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
    """Return two scenes of each individual, one after the other; all classes equally often."""
    rng = np.random.default_rng([SEED, 5])
    scenes = []
    for i in range(num_individuals):
        subject = individual(world.CLASSES[i % len(world.CLASSES)], int(rng.integers(2**31)))
        scenes += [random_scene(rng, subject) for _ in range(2)]
    return scenes


def zero_shot(clip: ClipEncoder, features: Tensor, prompts: list[list[str]]) -> Tensor:
    """Return the index of the prompt group nearest to each image, (N,).

    A group is represented by the mean of its prompts' embeddings.
    """
    groups = torch.stack([clip.texts(group).mean(0) for group in prompts])
    return (features @ torch.nn.functional.normalize(groups, dim=-1).T).argmax(1)


def identity_auc(features: Tensor, nouns: list[str]) -> float:
    """Return the AUC of telling individuals of one class apart.

    `features` (2 N, D) has unit length, with two scenes of each individual in a row; `nouns` has N
    entries.
    """
    first, second = features.view(len(nouns), 2, -1).unbind(1)
    cosines = (first @ second.T).numpy()
    same = np.eye(len(nouns), dtype=bool)
    others = (np.array(nouns)[:, None] == np.array(nouns)[None]) & ~same
    return auc(cosines[same], cosines[others])


def measure(num_individuals: int) -> dict[str, float]:
    """Return name -> value for each printed number, of the encoders whose weights exist."""
    scenes = scene_pairs(num_individuals)
    images = [torch.from_numpy(draw(scene)).permute(2, 0, 1) for scene in scenes]
    nouns = [scene.individual.class_noun for scene in scenes]
    results = {}
    if (WEIGHTS / "clip").is_dir():
        clip = ClipEncoder(WEIGHTS / "clip")
        features = clip.images(images)
        classes = zero_shot(clip, features, [[f"a {noun}"] for noun in world.CLASSES])
        right = np.mean([world.CLASSES[i] == noun for i, noun in zip(classes, nouns, strict=True)])
        results["CLIP class"] = float(right)
        phrases = world.CONTEXTS.values()
        prompts = [[f"a {noun} {phrase}" for noun in world.CLASSES] for phrase in phrases]
        contexts = [list(world.CONTEXTS)[i] for i in zero_shot(clip, features, prompts)]
        right = np.mean([context == s.context for context, s in zip(contexts, scenes, strict=True)])
        results["CLIP context"] = float(right)
        results["CLIP-I identity AUC"] = identity_auc(features, nouns[::2])
    if (WEIGHTS / "dino").is_dir():
        dino = DinoEncoder(WEIGHTS / "dino", resize_px=64, crop_px=64)
        results["DINO identity AUC"] = identity_auc(dino.images(images), nouns[::2])
    return results


def main() -> None:
    for name, value in measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1000).items():
        print(f"{name:20s}{value:.4f}")


if __name__ == "__main__":
    main()
