"""Where the spread of a comparison comes from, and what another design would make of it.

The paired difference of two settings, of subject s, training seed k, prompt p and image i, is

    d_skpi = mean + S_s + R_sk + (SP)_sp + (RP)_skp + e_skpi

with the prompts fixed: they are the benchmark's, and conclusions are about these. A run's mean over
its prompts then has three sources of variance, and with n subjects, k seeds of each and m images
of a prompt the mean difference has the variance

    V / n,   V = subject + seed / k + image / (k m)

`subject`: between subjects; `seed`: between trainings of one subject; `image`: of a run's mean at
one image for each prompt. They are estimated as in an analysis of variance, from the spread of
images within a prompt, of runs within a subject and of subjects; negative estimates are 0.
The test is the report's own: Student's t over subjects (statistics.py).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from dreambooth.reporting.statistics import PictureKey, StudyScores


@dataclass(frozen=True)
class Components:
    """Variances of a paired difference; None for those that the runs cannot separate.

    Without two seeds of any subject `seed` is None, and is part of `subject`; without two images
    of any prompt `image` is None, and is part of the others.
    """

    subject: float
    seed: float | None
    image: float | None

    def of_subject(self, num_seeds: int, num_images: float) -> float:
        """V: the variance of a subject's mean. `num_images`: images of each prompt."""
        seed, image = self.seed or 0.0, self.image or 0.0
        return self.subject + seed / num_seeds + image / (num_seeds * num_images)


def components(differences: StudyScores) -> Components | None:
    """Of one comparison; None for fewer than two subjects."""
    runs = {run: scores for run, scores in differences.items() if scores}
    of_subject: dict[str, list[float]] = defaultdict(list)
    within: list[tuple[float, int]] = []  # variance of a prompt's images, degrees of freedom
    shares: list[float] = []  # of the image variance, in the mean of a run
    for (subject, _), scores in runs.items():
        by_prompt = _by_prompt(scores)
        within += [(float(np.var(v, ddof=1)), len(v) - 1) for v in by_prompt if len(v) > 1]
        of_subject[subject].append(float(np.mean([np.mean(values) for values in by_prompt])))
        shares.append(sum(1 / len(values) for values in by_prompt) / len(by_prompt) ** 2)
    if len(of_subject) < 2:
        return None
    one_image = _by_freedom(within)
    share = float(np.mean(shares))
    noise = 0.0 if one_image is None else one_image * share
    runs_of = [means for means in of_subject.values() if len(means) > 1]
    between_runs = _by_freedom(
        [(float(np.var(means, ddof=1)), len(means) - 1) for means in runs_of]
    )
    means = [float(np.mean(values)) for values in of_subject.values()]
    per_subject = float(np.mean([1 / len(values) for values in of_subject.values()]))
    total = float(np.var(means, ddof=1))
    own = noise if between_runs is None else max(between_runs, noise)
    prompts = float(np.mean([len(_by_prompt(scores)) for scores in runs.values()]))
    return Components(
        subject=max(0.0, total - own * per_subject),
        seed=None if between_runs is None else max(0.0, between_runs - noise),
        image=None if one_image is None else one_image / prompts,
    )


def mean_components(several: Sequence[Components]) -> Components:
    """The mean of the components of several comparisons."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    subject = mean([one.subject for one in several])
    assert subject is not None, "no comparison"
    return Components(
        subject, mean([one.seed for one in several]), mean([one.image for one in several])
    )


def power(effect: float, variance: float, num_subjects: int, alpha: float) -> float:
    """The chance that Student's t over the subjects finds a mean difference `effect`, two-sided.

    `variance`: of a subject's mean difference, V; `alpha`: of this one test.
    """
    from scipy import special, stats

    if num_subjects < 2:
        return 0.0
    if variance <= 0:
        return 1.0
    critical = stats.t.ppf(1 - alpha / 2, num_subjects - 1)
    shift = abs(effect) * math.sqrt(num_subjects / variance)
    spread = _spreads(num_subjects - 1)
    # t = (shift + normal) / spread; scipy's noncentral t is NaN for few degrees of freedom.
    found = special.ndtr(shift - critical * spread) + special.ndtr(-shift - critical * spread)
    return float(found.mean())


def least_effect(variance: float, num_subjects: int, alpha: float, wanted: float) -> float:
    """The smallest effect that is found with the power `wanted`."""
    from scipy import optimize

    if num_subjects < 2:
        return math.inf
    if variance <= 0 or wanted <= alpha:  # without an effect the power is alpha
        return 0.0
    one = math.sqrt(variance)
    high = one
    while power(high, variance, num_subjects, alpha) < wanted:
        high *= 2
    return float(
        optimize.brentq(lambda e: power(e, variance, num_subjects, alpha) - wanted, 0.0, high)
    )


@cache
def _spreads(df: int) -> NDArray[np.float64]:
    """Equally likely values of an estimated standard deviation over the true one."""
    from scipy import stats

    u = (np.arange(4000) + 0.5) / 4000
    return np.sqrt(stats.chi2.ppf(u, df) / df)


def _by_prompt(scores: Mapping[PictureKey, float]) -> list[list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for (template, _), value in scores.items():
        found[template].append(value)
    return list(found.values())


def _by_freedom(variances: Sequence[tuple[float, int]]) -> float | None:
    """The mean of variances by their degrees of freedom; None without any."""
    freedom = sum(df for _, df in variances)
    return sum(variance * df for variance, df in variances) / freedom if freedom else None
