"""Means with their intervals, and paired differences with a corrected test, over trained pairs.

A study has subjects, training seeds, prompts and images. The prompts are fixed: they are the
benchmark's. A run's mean is over its images, a subject's mean over its seeds, and an estimate is
the mean over subjects, so every subject has the same weight. The units of inference (`unit`) are

    subjects      if there are several: the result is about subjects like these
    trainings     of one subject with several seeds: it is about this subject only
    prompts       of a single training (images, if it has one prompt): it is about this training
                  only, and there is no test

The means of the units contain the spread of all levels below, so Student's t over them is enough:
for a balanced study it is the exact test of the mixed model with random subjects and seeds, without
its assumption that all variances were estimated well. A bootstrap of few units is too narrow, and a
bootstrap of all levels counts the lower ones twice. benchmarks/coverage.py measures how often the
intervals contain the true value; docs/statistics.md has its table.

Differences are paired: the same subject, seed, prompt and index, and so the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dreambooth.metrics.columns import PictureKey, interval_of, units_of_run
from dreambooth.metrics.intervals import ci95

StudyScores = Mapping[tuple[str, str], Mapping[PictureKey, float]]
"""(subject, seed) -> image -> score."""

LEAST_PAIRS = 5  # trained pairs (subject x seed) below which there is no test and no verdict


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval; `low` and `high` are NaN if there is only one value."""

    mean: float
    low: float
    high: float
    num_subjects: int
    num_images: int
    unit: str = "subjects"  # what the interval is over: subjects, trainings, prompts or images
    num_trainings: int = 1


@dataclass(frozen=True)
class Difference:
    """a - b over pairs with the same subject, seed, prompt and index, and so with the same noise.

    `p` is two-sided, NaN for fewer than `LEAST_PAIRS` trained pairs; `p_holm` is corrected for all
    claims of the report. `effect_size` is Cohen's d of the paired units: the mean of their
    differences over its standard deviation. It is NaN for a single training, and if all differences
    are equal.
    """

    mean: float
    low: float
    high: float
    p: float
    p_holm: float
    effect_size: float
    num_subjects: int
    num_images: int  # pairs of images
    unit: str = "subjects"
    num_trainings: int = 1  # trained pairs: subject x seed

    @property
    def can_be_judged(self) -> bool:
        return self.num_trainings >= LEAST_PAIRS


def estimate(scores: StudyScores, metric: str = "") -> Estimate | None:
    """Return the mean of a cell with its interval; None without scores.

    The interval is cut off at the range of the metric. Shares (means of scores of 0 and 1) have
    Wilson's interval.
    """
    unit, values = units_of(scores)
    if not len(values):
        return None
    every = (score for run in scores.values() for score in run.values())
    low, high = interval_of(metric, values, every) or (math.nan, math.nan)
    subjects, trainings, images = _counts(scores)
    return Estimate(float(values.mean()), low, high, subjects, images, unit, trainings)


def paired(a: StudyScores, b: StudyScores) -> dict[tuple[str, str], dict[PictureKey, float]]:
    """a - b of every image that both have: of the same subject, seed, prompt and noise."""
    pairs = {
        run: {key: a[run][key] - b[run][key] for key in a[run] if key in b[run]}
        for run in a
        if run in b
    }
    return {run: pictures for run, pictures in pairs.items() if pictures}


def difference(a: StudyScores, b: StudyScores) -> Difference | None:
    """Return the paired difference a - b; None without pairs. `p_holm` is not corrected yet.

    If all n differences are equal, p is 1 if they are 0 and 2 / 2^n otherwise: the probability that
    n random signs are the same. With a single unit the interval is NaN.
    """
    pairs = paired(a, b)
    unit, values = units_of(pairs)
    if not len(values):
        return None
    mean = float(values.mean())
    low, high = ci95(values) or (math.nan, math.nan)
    spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    effect_size, p = math.nan, math.nan
    subjects, trainings, images = _counts(pairs)
    if spread > 1e-12 and trainings > 1:
        effect_size = mean / spread
    if trainings >= LEAST_PAIRS:
        p = _p(mean, spread, len(values))
    return Difference(
        mean, low, high, p, p, effect_size, subjects, images, unit, num_trainings=trainings
    )


def holm(differences: Sequence[Difference]) -> list[Difference]:
    """Return the differences with p_holm set, corrected for all that have a p (Holm 1979)."""
    order = sorted((d.p, i) for i, d in enumerate(differences) if not math.isnan(d.p))
    corrected, p_holm = list(differences), 0.0
    for rank, (p, i) in enumerate(order):
        p_holm = max(p_holm, min(1.0, p * (len(order) - rank)))
        corrected[i] = replace(differences[i], p_holm=p_holm)
    return corrected


def units_of(scores: StudyScores) -> tuple[str, NDArray[np.float64]]:
    """Return the units of inference and a value for each; their mean is the estimate."""
    runs = {run: pictures for run, pictures in scores.items() if pictures}
    subjects: dict[str, list[float]] = {}
    for (subject, _), pictures in runs.items():
        subjects.setdefault(subject, []).append(sum(pictures.values()) / len(pictures))
    if len(subjects) > 1:
        return "subjects", np.array([sum(means) / len(means) for means in subjects.values()])
    if len(runs) > 1:
        (means,) = subjects.values()
        return "trainings", np.array(means)
    if not runs:
        return "subjects", np.array([])
    (pictures,) = runs.values()
    return units_of_run(pictures)


def with_interval(d: Difference) -> str:
    """ "+0.934 (+0.903, +0.951)"."""
    return f"{d.mean:+.3f} ({d.low:+.3f}, {d.high:+.3f})"


def _p(mean: float, spread: float, n: int) -> float:
    from scipy import special

    if n < 2:
        return math.nan
    if spread > 1e-12:
        return float(2 * special.stdtr(n - 1, -abs(mean) / spread * math.sqrt(n)))
    return 1.0 if abs(mean) < 1e-12 else 2.0 ** (1 - n)


def _counts(scores: StudyScores) -> tuple[int, int, int]:
    """Subjects, trainings and images."""
    runs = {run: pictures for run, pictures in scores.items() if pictures}
    return len({subject for subject, _ in runs}), len(runs), sum(map(len, runs.values()))
