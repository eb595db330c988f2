import math
from itertools import combinations

import numpy as np
import pytest

from dreambooth.metrics.intervals import mean, mean_of_groups, mean_of_pairs


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_share_has_wilsons_interval():
    metric = mean([{"a": 1}] * 9 + [{"a": 0}] + [{"a": None}, {}], "a", "how", share=True)
    z, n, p = 1.959964, 10, 0.9
    centre, half = (p + z**2 / (2 * n)), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    expected = ((centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n))
    assert (metric.value, metric.count, metric.protocol) == (pytest.approx(p), n, "how")
    assert metric.ci95 == pytest.approx(expected)


def test_scores_that_happen_to_be_0_or_1_are_no_share():
    assert mean([{"a": 1.0}] * 5, "a", "how").ci95 == (1, 1)
    assert mean_of_groups([[0.0], [0.0] * 6], "how").ci95 == (0, 0)


def test_a_mean_of_scores_has_a_bootstraps_interval_near_the_normal_one():
    values = rng().uniform(0.2, 0.9, 400)
    metric = mean([{"a": v} for v in values], "a", "how")
    half = 1.96 * values.std(ddof=1) / 20
    assert metric.ci95 == pytest.approx((values.mean() - half, values.mean() + half), abs=0.003)
    assert mean([{"a": 0.4}], "a", "how").ci95 is None


def test_values_of_one_group_are_not_independent():
    means = rng().uniform(0.2, 0.9, 200)
    metric = mean_of_groups([[m] * 6 for m in means] + [[]], "how")  # as if each was measured once
    assert (metric.value, metric.count) == (pytest.approx(means.mean()), 1200)
    half = 1.96 * means.std(ddof=1) / 200**0.5
    assert metric.ci95 == pytest.approx((means.mean() - half, means.mean() + half), abs=0.005)
    assert mean_of_groups([[0.1, 0.3, 0.5], []], "how").ci95 is None
    assert math.isnan(mean_of_groups([[]], "how").value)


def test_the_interval_of_a_mean_over_pairs_is_that_of_its_images():
    """Distances x_i + x_j have twice the mean of x, whose interval is known."""
    x = rng().uniform(0.2, 0.9, 200)
    metric = mean_of_pairs(x[:, None] + x, "how")
    pairs = [a + b for a, b in combinations(x, 2)]
    assert (metric.value, metric.count) == (pytest.approx(np.mean(pairs)), 200)
    half = 2 * 1.96 * x.std(ddof=1) / 200**0.5
    assert metric.ci95 == pytest.approx((metric.value - half, metric.value + half), abs=0.01)


def test_an_images_pair_with_itself_does_not_count():
    metric = mean_of_pairs(1 - np.eye(3), "how")
    assert (metric.value, metric.count) == (1, 3)
    assert metric.ci95 == (1, 1)  # nor one with itself drawn again
    assert mean_of_pairs(1 - np.eye(2), "how").ci95 is None
