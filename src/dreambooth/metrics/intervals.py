"""Means as a `Metric`, with their count and protocol, and the 95 % intervals of runs and reports.

All intervals are over independent units: subjects or trainings (reporting/statistics.py), and
within one run its prompts, or its images where they share one prompt. A unit enters with its mean,
which already contains the spread of what is below it. The interval is Student's t; that of a share
(a mean of scores of 0 and 1) is Wilson's. benchmarks/coverage.py measures how often they
contain the true value.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dreambooth.runs.files import Score
from dreambooth.runs.records import Metric

_MOST_DRAWS = 10  # that one unit may count as in the interval of a share near 0 or 1


def mean(
    rows: Sequence[dict[str, Score]], column: str, protocol: str, share: bool = False
) -> Metric:
    """The mean of a column over the rows that have it; NaN with count 0 if none has.

    The interval treats images as independent; `evaluate` replaces it by one over prompts. `share`:
    the column holds 1 and 0, and the interval is Wilson's even if all are equal.
    """
    values = [float(row[column]) for row in rows if row.get(column) is not None]  # type: ignore[arg-type]
    interval = ci95_of_share(values) if share else ci95(values)
    return Metric(pooled_mean([values]), len(values), protocol, interval)


def mean_of_groups(groups: Sequence[Sequence[float]], protocol: str) -> Metric:
    """The mean of all values, with an interval over groups; NaN with count 0 if there are none."""
    count = sum(len(group) for group in groups)
    return Metric(pooled_mean(groups), count, protocol, ci95(units(groups)))


def mean_of_pairs(distances: NDArray[np.float64], protocol: str) -> Metric:
    """The mean distance between N > 1 images; `distances` (N, N), symmetric.

    The interval is over the images' `pseudo_values`. Two images have no interval.
    """
    n = len(distances)
    off_diagonal = distances * (1 - np.eye(n))
    interval = ci95(pseudo_values(off_diagonal.sum(1) / (n - 1))) if n > 2 else None
    return Metric(float(off_diagonal.sum() / (n * (n - 1))), n, protocol, interval)


def pooled_mean(groups: Sequence[Sequence[float]]) -> float:
    """The mean of all values of all groups; NaN if there are none."""
    values = [value for group in groups for value in group]
    return math.fsum(values) / len(values) if values else math.nan  # the same bits in any order


def units(groups: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """One value for each group that has values; their mean is the mean of all values.

    u_g = mean + n_g / n (mean_g - mean), with n_g values in group g and n in the average group:
    the groups' means where all have the same size. The standard error of the mean of u is the
    cluster-robust one of the mean of all values.
    """
    sizes = np.array([len(group) for group in groups if len(group)], dtype=float)
    if not len(sizes):
        return sizes
    means = np.array([sum(group) / len(group) for group in groups if len(group)])
    centre = pooled_mean(groups)
    return np.asarray(centre + sizes / sizes.mean() * (means - centre))


def pseudo_values(of_each: ArrayLike) -> NDArray[np.float64]:
    """Tukey's jackknife pseudo-values of a mean over pairs, from the images' own means (N,), N > 2.

    U + 2 (n - 1) / (n - 2) (d_i - U), where d_i is an image's mean over its n - 1 pairs and U the
    mean of all d_i. Each pair is in two of the d_i, so their spread understates that of U by a
    factor of about two; the pseudo-values have the right spread.
    """
    d = np.asarray(of_each, dtype=float)
    n = len(d)
    return np.asarray(d.mean() + 2 * (n - 1) / (n - 2) * (d - d.mean()))


def ci95(values: ArrayLike) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean of independent values; None for fewer than two."""
    x = np.asarray(values, dtype=float)
    n = len(x)
    if n < 2:
        return None
    centre = float(x.mean())
    half = t_quantile(n - 1) * float(x.std(ddof=1)) / math.sqrt(n)
    return centre - half, centre + half


def ci95_of_share(values: ArrayLike) -> tuple[float, float] | None:
    """The 95 % interval of a share from the shares of independent units; None for fewer than two.

    Wilson's interval (1927) with the effective number of draws, share (1 - share) over the variance
    of the units' mean, and Student's quantile. If all units are equal, each counts as one draw. If
    a unit is at 0 or 1 the variance is uncertain, and a unit counts as at most ten draws.
    """
    x = np.asarray(values, dtype=float)
    n = len(x)
    if n < 2:
        return None
    share = float(x.mean())
    variance = float(x.var(ddof=1)) / n
    draws, t = float(n), t_quantile(10**9)
    if variance > 1e-12:
        draws, t = share * (1 - share) / variance, t_quantile(n - 1)
        if x.min() <= 0 or x.max() >= 1:
            draws = min(draws, _MOST_DRAWS * n)
    more = t**2 / draws
    half = math.sqrt(max(0.0, more * share * (1 - share) + more**2 / 4))
    low, high = ((share + more / 2 + side) / (1 + more) for side in (-half, half))
    return max(0.0, min(share, low)), min(1.0, max(share, high))  # rounding aside


@cache
def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t."""
    from scipy import stats

    return float(stats.t.ppf(0.975, freedom))
