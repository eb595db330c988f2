import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from dreambooth.metrics.columns import interval_of_run
from dreambooth.metrics.intervals import (
    ci95_of_share,
    mean,
    mean_of_groups,
    mean_of_pairs,
    pseudo_values,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_share_has_wilsons_interval_of_as_many_draws_as_its_spread_tells():
    metric = mean([{"a": 1}] * 9 + [{"a": 0}] + [{"a": None}, {}], "a", "how", share=True)
    t, n, p = stats.t.ppf(0.975, 9), 9, 0.9  # the variance has 1 / (n - 1): 9 draws of 10
    centre, half = (p + t**2 / (2 * n)), t * (p * (1 - p) / n + t**2 / (4 * n**2)) ** 0.5
    expected = ((centre - half) / (1 + t**2 / n), (centre + half) / (1 + t**2 / n))
    assert (metric.value, metric.count, metric.protocol) == (pytest.approx(p), 10, "how")
    assert metric.ci95 == pytest.approx(expected)


def test_of_many_independent_draws_it_is_statsmodels_wilson():
    drawn = rng().random(4000) < 0.03
    expected = proportion_confint(drawn.sum(), 4000, method="wilson")
    assert ci95_of_share(drawn) == pytest.approx(expected, rel=1e-3)


def test_a_share_stays_between_0_and_1_and_is_never_certain():
    assert ci95_of_share([1] * 25) == pytest.approx(proportion_confint(25, 25, method="wilson"))
    low, high = ci95_of_share([1] * 24 + [0])
    assert 0.75 < low < 0.96 < high < 1
    assert ci95_of_share([1]) is None


def test_a_mean_of_scores_has_students_interval():
    values = rng().uniform(0.2, 0.9, 40)
    metric = mean([{"a": v} for v in values], "a", "how")
    assert metric.ci95 == pytest.approx(DescrStatsW(values).tconfint_mean(), abs=1e-12)
    assert mean([{"a": 0.4}], "a", "how").ci95 is None


def test_an_interval_over_groups_is_the_cluster_robust_one_of_statsmodels():
    sizes = rng().integers(1, 7, 30)
    groups = [
        (rng(i).normal(0.5, 0.2) + rng(i).normal(0, 0.1, n)).tolist() for i, n in enumerate(sizes)
    ]
    metric = mean_of_groups([*groups, []], "how")
    values, labels = np.concatenate(groups), np.repeat(np.arange(30), sizes)
    fit = OLS(values, np.ones(len(values))).fit(
        cov_type="cluster", cov_kwds={"groups": labels}, use_t=True
    )
    assert metric.value == pytest.approx(fit.params[0], abs=1e-12)
    assert metric.count == sizes.sum()
    assert metric.ci95 == pytest.approx(fit.conf_int()[0], abs=1e-9)
    assert mean_of_groups([[0.1, 0.3, 0.5], []], "how").ci95 is None
    assert math.isnan(mean_of_groups([[]], "how").value)


def test_the_interval_of_a_run_is_over_its_prompts_and_within_the_range_of_the_metric():
    rows = [
        {"set": "prompts", "template": f"a {{}} {p}", "index": i, "dino": 0.99 - 0.04 * (p % 2)}
        for p in range(4)
        for i in range(8)
    ]
    low, high = interval_of_run(rows, "dino", 0.97)
    expected = stats.t.interval(0.95, 3, 0.97, stats.sem([0.99, 0.95, 0.99, 0.95]))
    assert (low, high) == (pytest.approx(expected[0], abs=1e-12), 1.0)
    one_prompt = [row | {"template": "a {}", "index": i} for i, row in enumerate(rows)]
    of_images = interval_of_run(one_prompt, "dino", 0.97)
    assert of_images[1] - of_images[0] < 0.5 * (high - low)
    assert interval_of_run(rows, "dino", 0.5) is None  # the mean of other scores
    assert interval_of_run(rows, "clip_i", 0.97) is None


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


def test_a_mean_over_pairs_varies_as_its_pseudo_values_tell():
    draws = rng()

    def distances(x):  # of each to the others
        return np.abs(x[:, None] - x).sum(1) / (len(x) - 1)

    studies = [distances(draws.standard_normal(32)) for _ in range(1000)]
    spread = np.std([d.mean() for d in studies])
    found = [pseudo_values(d) for d in studies]
    told = [np.std(one, ddof=1) / 32**0.5 for one in found]
    naive = np.mean([d.std(ddof=1) for d in studies]) / 32**0.5
    assert np.mean(told) == pytest.approx(spread, rel=0.1)
    assert naive < 0.6 * spread
    assert np.mean(found[0]) == pytest.approx(studies[0].mean())
