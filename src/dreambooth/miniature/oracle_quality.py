"""The oracle's accuracy and calibration, measured on fresh drawings, whose truth is known.

`benchmarks/oracle.py` prints the results; tests set bounds for the shipped weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreambooth.miniature import world
from dreambooth.miniature.damage import DAMAGES, damage_and_label, mildly_changed, warp
from dreambooth.miniature.drawing import draw
from dreambooth.miniature.oracle import ATTRIBUTES, Oracle, scene_values
from dreambooth.miniature.oracle_pretraining import identity_cases
from dreambooth.miniature.references import draw_as_prompted, prompted_except_class, references
from dreambooth.miniature.scenes import nth_scene, to_tensor
from dreambooth.miniature.world import individual
from dreambooth.subjects.prompt_sets import MINIBENCH

SEED = 991  # not used in any training
NUM_BINS = 10


def attribute_accuracies(oracle: Oracle, num_scenes: int) -> dict[str, float]:
    """Return the accuracy of each attribute, on random scenes of the world."""
    scenes = [nth_scene(i, SEED) for i in range(num_scenes)]
    read = oracle.read(to_tensor(np.stack([draw(s) for s in scenes]))).values
    truth = [scene_values(s) for s in scenes]
    return {
        name: float(np.mean([a[name] == b[name] for a, b in zip(read, truth, strict=True)]))
        for name in ATTRIBUTES
    }


@dataclass(frozen=True)
class IdentityResult:
    """The oracle's P(same individual) of N pictures, and the truth."""

    probability: np.ndarray  # (N,), 0..1
    is_same: np.ndarray  # (N,), 1 or 0
    relations: list[str]  # of each picture, a key of `oracle_pretraining.RELATIONS`
    prompts: list[str]  # of each picture

    @property
    def auc(self) -> float:
        """Of pictures of the individual against pictures of others."""
        same = self.is_same == 1
        return auc(self.probability[same], self.probability[~same])

    def mean_of(self, relation: str) -> float:
        return float(self.probability[[r == relation for r in self.relations]].mean())


def measure_identity(oracle: Oracle, num_cases: int, seed: int = SEED) -> IdentityResult:
    """Measure identity on pictures of fresh individuals and their look-alikes, 12 for each case."""
    probability, same, relations, prompts = [], [], [], []
    for case in identity_cases(seed, num_cases):
        references = oracle.read(case.references).embeddings
        probability.append(oracle.identity(oracle.read(case.pictures).embeddings, references))
        same.append(case.is_same)
        relations += case.relations
        prompts += [case.prompt] * len(case.relations)
    return IdentityResult(
        torch.cat(probability).numpy(), torch.cat(same).numpy(), relations, prompts
    )


@dataclass(frozen=True)
class Bin:
    """The pictures whose probability lies in one tenth of the range 0..1."""

    count: int
    probability: float  # mean
    share: float  # of pictures whose truth is 1


def reliability(probability: np.ndarray, truth: np.ndarray) -> list[Bin]:
    """Return the bins that are not empty, in order of probability. `truth` (N,) is 1 or 0."""
    number = np.minimum((probability * NUM_BINS).astype(int), NUM_BINS - 1)
    return [
        Bin(int(inside.sum()), float(probability[inside].mean()), float(truth[inside].mean()))
        for i in range(NUM_BINS)
        if (inside := number == i).any()
    ]


def calibration_error(bins: list[Bin]) -> float:
    """Return the expected calibration error, the sum of count / N * |probability - share|."""
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.probability - b.share) for b in bins) / total


def perfect_model_identity(
    oracle: Oracle, num_subjects: int, num_images: int
) -> Iterator[tuple[str, str, float]]:
    """Yield (kind of subject, prompt, mean identity of fresh drawings made as the prompt asks).

    This is what a perfect model would score. The prompts are those of MiniBench and "a {}".
    """
    for kind in MINIBENCH:
        nouns = [noun for noun in world.CLASSES if world.kind_of(noun) == kind]
        for template in (*MINIBENCH[kind], "a {}"):
            identities = []
            for number in range(num_subjects):
                who = individual(nouns[number % len(nouns)], 50_000 + number)
                rng = np.random.default_rng([SEED, number])
                drawn = draw_as_prompted(rng, who, prompted_except_class(template), num_images)
                embeddings = _embeddings(oracle, to_tensor(drawn))
                identities.append(
                    oracle.identity(embeddings, _embeddings(oracle, references(who, template)))
                )
            yield kind, template, float(torch.cat(identities).mean())


def _embeddings(oracle: Oracle, images: Tensor) -> Tensor:
    return oracle.read(images).embeddings


@dataclass(frozen=True)
class CleanResult:
    """The oracle's P(clean) of drawings."""

    plain: np.ndarray  # unchanged
    mild: np.ndarray  # mildly changed
    damaged: dict[str, np.ndarray]  # kind of damage -> probabilities
    warped_2_px: np.ndarray

    @property
    def auc(self) -> float:
        """Of mildly changed drawings against all kinds of damage."""
        return auc(self.mild, np.concatenate([*self.damaged.values()]))


def measure_clean(oracle: Oracle, num_scenes: int) -> CleanResult:
    """Measure clean on `num_scenes` fresh drawings.

    Damaged drawings are mildly changed too; only those with obvious damage count.
    """
    drawings = [draw(nth_scene(i, SEED)) for i in range(num_scenes)]
    rng = np.random.default_rng(SEED)

    def read(pictures: list[np.ndarray]) -> np.ndarray:
        return oracle.read(to_tensor(np.stack(pictures))).clean.numpy()

    damaged: dict[str, np.ndarray] = {}
    for kind in DAMAGES:
        pairs = [
            damage_and_label(drawings[i], drawings[i - 1], rng, kind) for i in range(num_scenes)
        ]
        damaged[kind] = read(
            [mildly_changed(picture, rng) for picture, label in pairs if label == 0]
        )
    return CleanResult(
        plain=read(drawings),
        mild=read([mildly_changed(picture, rng) for picture in drawings]),
        damaged=damaged,
        warped_2_px=read([warp(picture, picture, rng, 2.0) for picture in drawings]),
    )


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return P(positive > negative), where a tie counts as half (Mann-Whitney)."""
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(positive, negative).statistic) / (len(positive) * len(negative))
