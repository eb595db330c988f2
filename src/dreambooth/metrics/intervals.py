"""Means as a `Metric`: with their count, their 95 % interval and their protocol.

The intervals are those of a percentile bootstrap, which is narrow where there is little to draw
from; a single value has none.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dreambooth.runs.files import Score
from dreambooth.runs.records import Metric

_NUM_DRAWS = 2000


def mean(
    rows: Sequence[dict[str, Score]], column: str, protocol: str, share: bool = False
) -> Metric:
    """The mean of a column over the rows that have it; NaN, of count 0, where none has.

    The interval takes images as independent. `share`: of a column of 1 and 0 it is Wilson's.
    """
    values = [float(row[column]) for row in rows if row.get(column) is not None]  # type: ignore[arg-type]
    if not share:
        return mean_of_groups([[value] for value in values], protocol)
    return Metric(pooled_mean([values]), len(values), protocol, ci95_of_share(values))


def mean_of_groups(groups: Sequence[Sequence[float]], protocol: str) -> Metric:
    """The mean of all values; NaN, of count 0, where there are none."""
    count = sum(len(group) for group in groups)
    return Metric(pooled_mean(groups), count, protocol, ci95_of_groups(groups))


def pooled_mean(groups: Sequence[Sequence[float]]) -> float:
    """The mean of all values of all groups; NaN where there are none."""
    sums = np.array([sum(group) for group in groups if len(group)])
    count = sum(len(group) for group in groups)
    return float(sums.sum() / count) if count else float("nan")


def ci95_of_share(values: Sequence[float]) -> tuple[float, float] | None:
    """Wilson's interval of the mean of values of 1 and 0; None where there are none."""
    from scipy import stats

    if not values:
        return None
    found = stats.binomtest(int(sum(values)), len(values)).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def ci95_of_groups(groups: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Of the mean of all values; None for fewer than two groups.

    The interval takes groups as independent, and not the values of one: it draws whole groups. Of
    simulated DIV with 25, 10 and 5 prompts, of 4 images each, it covers the truth in 93, 88 and
    80 % (benchmarks/intervals.py); if pairs of a prompt were taken as independent, in 68, 65 and
    59 %.
    """
    from scipy import stats

    sums = np.array([sum(group) for group in groups if len(group)])
    sizes = np.array([len(group) for group in groups if len(group)])
    if len(sizes) < 2:
        return None
    draws = stats.bootstrap(
        (sums, sizes),
        lambda s, n, axis: s.sum(axis) / n.sum(axis),
        paired=True,
        n_resamples=_NUM_DRAWS,
        method="percentile",
        rng=0,
    )
    low, high = draws.confidence_interval
    return float(low), float(high)


def mean_of_pairs(distances: NDArray[np.float64], protocol: str) -> Metric:
    """The mean distance of N > 1 images to each other; `distances` (N, N), symmetric.

    The interval draws images, and leaves out an image's pairs with itself; there is none of 2. Of
    simulated sets of 32, 16 and 8 images it covers the truth in 94, 91 and 90 %
    (benchmarks/intervals.py).
    """
    n = len(distances)
    apart = distances * (1 - np.eye(n))
    metric = Metric(float(apart.sum() / (n * (n - 1))), n, protocol)
    if n < 3:
        return metric
    times = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), _NUM_DRAWS)
    times = times[(times > 0).sum(1) > 1]  # one image alone has no pair
    means = (times @ apart * times).sum(1) / (n**2 - (times**2).sum(1))
    low, high = np.quantile(means, (0.025, 0.975))
    return Metric(metric.value, n, protocol, (float(low), float(high)))
