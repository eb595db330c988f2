"""How far the oracle can be trusted: measured on fresh drawings, whose truth is known.

`benchmarks/oracle.py` prints all of it; tests hold the weights that ship to it.
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
from dreambooth.subjects.prompts import MINIBENCH

SEED = 991  # of no training
NUM_BINS = 10


def attribute_accuracies(oracle: Oracle, num_scenes: int) -> dict[str, float]:
    """Of each attribute, on scenes of the world's own distribution."""
    scenes = [nth_scene(i, SEED) for i in range(num_scenes)]
    seen = oracle.read(to_tensor(np.stack([draw(s) for s in scenes]))).values
    truth = [scene_values(s) for s in scenes]
    return {
        name: float(np.mean([a[name] == b[name] for a, b in zip(seen, truth, strict=True)]))
        for name in ATTRIBUTES
    }


@dataclass(frozen=True)
class IdentityResult:
    """P(same individual) of N pictures, what each shows and which prompt asked for it."""

    probability: np.ndarray  # (N,), 0..1
    is_same: np.ndarray  # (N,), 1 or 0
    relations: list[str]  # of `oracle_pretraining.RELATIONS`
    prompts: list[str]

    @property
    def auc(self) -> float:
        same = self.is_same == 1
        return auc(self.probability[same], self.probability[~same])

    def mean_of(self, relation: str) -> float:
        return float(self.probability[[r == relation for r in self.relations]].mean())


def measure_identity(oracle: Oracle, num_cases: int, seed: int = SEED) -> IdentityResult:
    """Of fresh individuals and look-alikes, 12 pictures a case."""
    probability, same, relations, prompts = [], [], [], []
    for case in identity_cases(seed, num_cases):
        drawn = oracle.read(case.references).embeddings
        probability.append(oracle.identity(oracle.read(case.pictures).embeddings, drawn))
        same.append(case.is_same)
        relations += case.relations
        prompts += [case.prompt] * len(case.relations)
    return IdentityResult(
        torch.cat(probability).numpy(), torch.cat(same).numpy(), relations, prompts
    )


@dataclass(frozen=True)
class Bin:
    """Pictures whose probability is in one tenth of 0..1."""

    count: int
    probability: float  # their mean
    share: float  # of those that it is true of


def reliability(probability: np.ndarray, truth: np.ndarray) -> list[Bin]:
    """The bins of equal width that hold any picture, in order; `truth` (N,), 1 or 0."""
    number = np.minimum((probability * NUM_BINS).astype(int), NUM_BINS - 1)
    return [
        Bin(int(inside.sum()), float(probability[inside].mean()), float(truth[inside].mean()))
        for i in range(NUM_BINS)
        if (inside := number == i).any()
    ]


def calibration_error(bins: list[Bin]) -> float:
    """The expected calibration error: sum of count / N * |probability - share|."""
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.probability - b.share) for b in bins) / total


def perfect_model_identity(
    oracle: Oracle, num_subjects: int, num_images: int
) -> Iterator[tuple[str, str, float]]:
    """Kind of subject, prompt, and the mean identity of fresh drawings as it asks: what a perfect
    model scores. Every prompt of MiniBench, and the class prompt's "a {}"."""
    for kind in MINIBENCH:
        nouns = [noun for noun in world.CLASSES if world.kind_of(noun) == kind]
        for template in (*MINIBENCH[kind], "a {}"):
            found = []
            for number in range(num_subjects):
                who = individual(nouns[number % len(nouns)], 50_000 + number)
                rng = np.random.default_rng([SEED, number])
                drawn = draw_as_prompted(rng, who, prompted_except_class(template), num_images)
                embeddings = _embeddings(oracle, to_tensor(drawn))
                found.append(
                    oracle.identity(embeddings, _embeddings(oracle, references(who, template)))
                )
            yield kind, template, float(torch.cat(found).mean())


def _embeddings(oracle: Oracle, images: Tensor) -> Tensor:
    return oracle.read(images).embeddings


@dataclass(frozen=True)
class CleanResult:
    """P(clean) of drawings, plain and mildly changed, and of each kind of damage."""

    plain: np.ndarray
    mild: np.ndarray
    damaged: dict[str, np.ndarray]
    warped_2_px: np.ndarray

    @property
    def auc(self) -> float:
        """Mildly changed drawings against all kinds of damage."""
        return auc(self.mild, np.concatenate([*self.damaged.values()]))


def measure_clean(oracle: Oracle, num_scenes: int) -> CleanResult:
    """Of `num_scenes` fresh drawings; the damage is plain, and as mildly changed as the rest."""
    drawings = [draw(nth_scene(i, SEED)) for i in range(num_scenes)]
    rng = np.random.default_rng(SEED)

    def read(pictures: list[np.ndarray]) -> np.ndarray:
        return oracle.read(to_tensor(np.stack(pictures))).clean.numpy()

    spoilt: dict[str, np.ndarray] = {}
    for kind in DAMAGES:
        found = [
            damage_and_label(drawings[i], drawings[i - 1], rng, kind) for i in range(num_scenes)
        ]
        spoilt[kind] = read(
            [mildly_changed(picture, rng) for picture, label in found if label == 0]
        )
    return CleanResult(
        plain=read(drawings),
        mild=read([mildly_changed(picture, rng) for picture in drawings]),
        damaged=spoilt,
        warped_2_px=read([warp(picture, picture, rng, 2.0) for picture in drawings]),
    )


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """P(positive > negative), ties half (Mann-Whitney)."""
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(positive, negative).statistic) / (len(positive) * len(negative))
