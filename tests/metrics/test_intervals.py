import numpy as np
import pytest

from dreambooth.metrics.intervals import mean


def test_a_share_has_wilsons_interval():
    metric = mean([{"a": 1}] * 9 + [{"a": 0}] + [{"a": None}, {}], "a", "how")
    z, n, p = 1.959964, 10, 0.9
    centre, half = (p + z**2 / (2 * n)), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    expected = ((centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n))
    assert (metric.value, metric.count, metric.protocol) == (pytest.approx(p), n, "how")
    assert metric.ci95 == pytest.approx(expected)


def test_a_mean_of_scores_has_a_bootstraps_interval_near_the_normal_one():
    values = np.random.default_rng(0).uniform(0.2, 0.9, 400)
    metric = mean([{"a": v} for v in values], "a", "how")
    half = 1.96 * values.std(ddof=1) / 20
    assert metric.ci95 == pytest.approx((values.mean() - half, values.mean() + half), abs=0.003)
    assert mean([{"a": 0.4}], "a", "how").ci95 is None
