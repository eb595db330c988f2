"""Means over subjects with their intervals, and paired differences with a corrected test.

Scores are nested: subjects, their training seeds, prompts, and the pictures of a prompt. A run's
mean is over its pictures, a subject's mean over its seeds, and the estimate is the mean over
subjects, so every subject has the same weight. The units that are resampled are the highest level
with more than one member (`unit`): subjects; prompts if there is one subject; pictures if there is
one prompt. The means of the units already contain the spread of the lower levels; resampling these
as well would count it twice.

The interval is a bootstrap over the units. For few units it is widened by
t_{n-1} / z * sqrt(n / (n - 1)), which makes it as wide as Student's interval for normal data. The
table shows how often it covers the truth, over 10,000 simulated studies per entry
(benchmarks/coverage.py); "plain" is the percentile bootstrap of all levels.

    subjects              2     3     5     8    15    30
    normal             93.3  95.1  94.9  94.7  94.9  95.2 %
    skewed             91.0  91.2  90.3  90.7  92.2  93.8 %   (exponential)
    plain                71    81    87    91    93    95 %

Shares (means of scores of 0 and 1) have Wilson's interval. If the subjects' shares have the
distribution Beta(8 p, 8 (1 - p)), its coverage is:

    subjects              2     3     5     8    15    30
    p = 0.5            98.1  95.3  95.0  94.8  95.3  95.2 %
    p = 0.9            99.5  96.1  93.5  93.9  94.1  94.3 %
    p = 0.95           99.5  99.2  93.1  90.7  91.4  93.1 %
    p = 0.99           99.9  99.3  98.1  97.7  87.8  86.8 %

Paired differences of shares have the bootstrap's interval. It covers the truth in 92.3 to 95.2 % of
the studies for 0.95 - 0.6, and in 82.7 to 93.0 % for 0.99 - 0.95.

The test is Student's t over the same units. A sign-flip test of few units cannot reach the levels
that Holm's correction needs: with 5 subjects, its smallest p is 0.06. It is used only if all units
have the same difference, where t is undefined.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

Picture = tuple[str, int]  # template of the prompt, index
Scores = Mapping[tuple[str, str], Mapping[Picture, float]]
"""(subject, seed) -> picture -> score."""

_NUM_DRAWS = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval; `low` and `high` are NaN if there is only one value."""

    mean: float
    low: float
    high: float
    num_subjects: int
    num_images: int
    unit: str = "subjects"  # what the interval is over: subjects, prompts or pictures


@dataclass(frozen=True)
class Difference:
    """a - b over pairs with the same subject, seed, prompt and index, and so with the same noise.

    `p` is two-sided; `p_holm` is corrected for all comparisons of its table. `effect_size` is
    Cohen's d of the paired units: the mean of their differences over its standard deviation. It is
    NaN if all differences are equal.
    """

    mean: float
    low: float
    high: float
    p: float
    p_holm: float
    effect_size: float
    num_subjects: int
    num_pairs: int  # of pictures
    unit: str = "subjects"


def estimate(scores: Scores) -> Estimate | None:
    """Return the mean of a cell with its interval; None without scores.

    Shares (means of scores of 0 and 1) have Wilson's interval, which stays within 0..1.
    """
    unit, values = _units(scores)
    if not len(values):
        return None
    is_share = {score for run in scores.values() for score in run.values()} <= {0.0, 1.0}
    low, high = _wilson(values) if is_share else _interval(values)
    return Estimate(float(values.mean()), low, high, *_counts(scores), unit)


def paired(a: Scores, b: Scores) -> dict[tuple[str, str], dict[Picture, float]]:
    """a - b of every picture that both have: of the same subject, seed, prompt and noise."""
    pairs = {
        run: {key: a[run][key] - b[run][key] for key in a[run] if key in b[run]}
        for run in a
        if run in b
    }
    return {run: pictures for run, pictures in pairs.items() if pictures}


def difference(a: Scores, b: Scores) -> Difference | None:
    """Return the paired difference a - b; None without pairs. `p_holm` is not corrected yet.

    If all n differences are equal, p is 1 if they are 0 and 2 / 2^n otherwise: the probability that
    n random signs are the same. With a single pair of units, p and the interval are NaN.
    """
    pairs = paired(a, b)
    unit, values = _units(pairs)
    if not len(values):
        return None
    mean, (low, high) = float(values.mean()), _interval(values)
    spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    effect_size, p = math.nan, math.nan
    if spread > 1e-12:
        effect_size = mean / spread
        p = _t_test(effect_size, len(values))
    elif len(values) > 1:
        p = 1.0 if abs(mean) < 1e-12 else 2.0 ** (1 - len(values))
    return Difference(mean, low, high, p, p, effect_size, *_counts(pairs), unit)


def holm(differences: Sequence[Difference]) -> list[Difference]:
    """Return the differences with p_holm set, corrected for all that have a p (Holm 1979)."""
    order = sorted(
        (d.p, i) for i, d in enumerate(differences) if not math.isnan(d.p)
    )  # from the smallest
    corrected, p_holm = list(differences), 0.0
    for rank, (p, i) in enumerate(order):
        p_holm = max(p_holm, min(1.0, p * (len(order) - rank)))
        corrected[i] = replace(differences[i], p_holm=p_holm)
    return corrected


def pair_influences(scores: Mapping[Picture, float]) -> dict[Picture, float]:
    """Turn each picture's mean over its pairs with others into Tukey's jackknife pseudo-value.

    U + 2 (n - 1) / (n - 2) (d_i - U), where d_i is a picture's mean over its n - 1 pairs and U the
    mean of all d_i. Each pair is in two of the d_i, so their spread understates that of U by a
    factor of about two; the pseudo-values have the right spread.
    """
    n = len(scores)
    if n < 3:
        return dict(scores)
    mean = sum(scores.values()) / n
    return {k: mean + 2 * (n - 1) / (n - 2) * (d - mean) for k, d in scores.items()}


def _units(scores: Scores) -> tuple[str, NDArray[np.float64]]:
    """Return the highest level with more than one member, and the means of its members."""
    runs = {run: pictures for run, pictures in scores.items() if pictures}
    subjects: dict[str, list[float]] = {}
    for (subject, _), pictures in runs.items():
        subjects.setdefault(subject, []).append(sum(pictures.values()) / len(pictures))
    if len(subjects) != 1:
        return "subjects", np.array([sum(means) / len(means) for means in subjects.values()])
    by_prompt: dict[str, list[float]] = {}
    by_picture: dict[Picture, list[float]] = {}
    for pictures in runs.values():
        for picture, score in pictures.items():
            by_prompt.setdefault(picture[0], []).append(score)
            by_picture.setdefault(picture, []).append(score)
    if len(by_prompt) > 1:
        return "prompts", np.array([sum(group) / len(group) for group in by_prompt.values()])
    return "pictures", np.array([sum(group) / len(group) for group in by_picture.values()])


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of independent values; NaN for a single value."""
    n, mean = len(values), float(values.mean())
    if n < 2:
        return math.nan, math.nan
    if float(np.ptp(values)) < 1e-12:
        return mean, mean
    low, high = np.quantile(_draws(n) @ values, (0.025, 0.975))
    spread = _t_quantile(n) / _t_quantile(10**9) * math.sqrt(n / (n - 1))
    return mean - spread * (mean - float(low)), mean + spread * (float(high) - mean)


@cache
def _draws(n: int) -> NDArray[np.float64]:
    """Return the weights of n values in resampled means, (draws, n); the same for every call."""
    counts = np.random.default_rng(0).multinomial(n, [1 / n] * n, size=_NUM_DRAWS)
    return counts / n


@cache
def _t_quantile(n: int) -> float:
    from scipy import stats

    return float(stats.t.ppf(0.975, n - 1))


def _t_test(effect_size: float, n: int) -> float:
    from scipy import special

    return float(2 * special.stdtr(n - 1, -abs(effect_size) * math.sqrt(n)))


def _wilson(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % interval of a share from the shares of independent units; NaN for one unit.

    Wilson's interval (1927) with the effective number of draws, share (1 - share) over the variance
    of the units' mean, and Student's quantile. If all units are equal, each counts as one draw.
    """
    n, share = len(values), float(values.mean())
    if n < 2:
        return math.nan, math.nan
    variance = float(values.var(ddof=1)) / n
    draws, t = float(n), _t_quantile(10**9)
    if variance > 1e-12:
        draws, t = share * (1 - share) / variance, _t_quantile(n)
    more = t**2 / draws
    half = math.sqrt(more * share * (1 - share) + more**2 / 4)
    low, high = ((share + more / 2 + side) / (1 + more) for side in (-half, half))
    return max(0.0, min(share, low)), min(1.0, max(share, high))  # rounding aside


def _counts(scores: Scores) -> tuple[int, int]:
    runs = {run: pictures for run, pictures in scores.items() if pictures}
    return len({subject for subject, _ in runs}), sum(map(len, runs.values()))
