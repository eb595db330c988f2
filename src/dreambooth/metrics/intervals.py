"""A mean over images as a `Metric`: with its count, its 95 % interval and its protocol."""

from collections.abc import Sequence

import numpy as np

from dreambooth.files import Score
from dreambooth.run import Metric


def mean(rows: Sequence[dict[str, Score]], column: str, protocol: str) -> Metric:
    """The mean of a column over the rows that have it; NaN, of count 0, where none has.

    The interval takes images as independent: Wilson's for shares, else a percentile bootstrap's.
    """
    from scipy import stats

    values = np.array([row[column] for row in rows if row.get(column) is not None], float)
    if not len(values):
        return Metric(float("nan"), 0, protocol)
    if set(values) <= {0.0, 1.0}:
        share = stats.binomtest(int(values.sum()), len(values))
        low, high = share.proportion_ci(method="wilson")
    elif len(values) > 1:
        draws = stats.bootstrap((values,), np.mean, n_resamples=2000, method="percentile", rng=0)
        low, high = draws.confidence_interval
    else:
        return Metric(float(values[0]), 1, protocol)
    return Metric(float(values.mean()), len(values), protocol, (float(low), float(high)))
