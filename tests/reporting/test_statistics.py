"""Intervals and tests against scipy and against simulated studies whose truth is known."""

import math

import numpy as np
import pytest
from scipy import stats

from dreambooth.reporting.statistics import Difference, difference, estimate, holm, pair_influences

PROMPTS = [f"a {{}} in place {i}" for i in range(25)]


def scores(values, seed="0"):
    """(subjects, prompts, images) as the scores of one training seed."""
    found = {}
    for s, of_subject in enumerate(values.tolist()):
        pictures = {(PROMPTS[p], i): v for p, vs in enumerate(of_subject) for i, v in enumerate(vs)}
        found[f"subject {s}", seed] = pictures
    return found


def hierarchical(rng, subjects, prompts=3, images=2, skewed=False):
    """Mean 0; a random effect of each subject, of each of its prompts, and of each image."""
    draw = (lambda size: rng.exponential(1, size) - 1) if skewed else rng.standard_normal
    of_prompts = 0.1 * rng.standard_normal((subjects, prompts, 1))
    of_images = 0.15 * rng.standard_normal((subjects, prompts, images))
    return 0.1 * draw((subjects, 1, 1)) + of_prompts + of_images


@pytest.mark.parametrize("subjects", [3, 5, 10, 30])
def test_95_percent_intervals_over_subjects_cover_the_truth(subjects):
    rng = np.random.default_rng(subjects)
    found = [estimate(scores(0.5 + hierarchical(rng, subjects))) for _ in range(1000)]
    assert {e.unit for e in found} == {"subjects"}
    assert 0.93 <= np.mean([e.low <= 0.5 <= e.high for e in found]) <= 0.97


def test_95_percent_intervals_over_the_prompts_of_one_subject_cover_its_own_truth():
    rng = np.random.default_rng(0)
    effects = 0.1 * rng.standard_normal((1000, 1, 25, 1))
    values = 0.3 + effects + 0.15 * rng.standard_normal((1000, 1, 25, 2))
    found = [estimate(scores(study)) for study in values]
    assert {e.unit for e in found} == {"prompts"}
    assert 0.93 <= np.mean([e.low <= 0.3 <= e.high for e in found]) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("subjects", "skewed"), [(3, False), (5, False), (30, False), (30, True)])
def test_a_difference_that_is_not_there_is_found_in_5_percent(subjects, skewed):
    rng = np.random.default_rng(subjects)
    found = []
    for _ in range(1000):
        shared = hierarchical(rng, subjects, skewed=skewed)  # the same subjects and noise
        a, b = (shared + hierarchical(rng, subjects) for _ in range(2))
        found.append(difference(scores(a), scores(b)))
    assert 0.035 <= np.mean([d.p < 0.05 for d in found]) <= 0.065
    assert 0.93 <= np.mean([d.low <= 0 <= d.high for d in found]) <= 0.97


@pytest.mark.slow
def test_a_family_of_ten_without_differences_has_a_significant_one_in_5_percent():
    rng = np.random.default_rng(0)
    studies = rng.standard_normal((1000, 10, 8, 1, 1))
    zero = scores(np.zeros((8, 1, 1)))
    found = [holm([difference(scores(d), zero) for d in family]) for family in studies]
    assert 0.035 <= np.mean([min(d.p_holm for d in family) < 0.05 for family in found]) <= 0.065


def test_the_mean_and_the_test_are_scipys_over_the_subjects_means():
    rng = np.random.default_rng(3)
    a, b = hierarchical(rng, 6), hierarchical(rng, 6)
    found = difference(scores(a), scores(b))
    means = (a - b).mean((1, 2))
    expected = stats.ttest_1samp(means, 0)
    paired = stats.ttest_rel(a.mean((1, 2)), b.mean((1, 2)))
    assert found.mean == pytest.approx(means.mean())
    assert found.p == pytest.approx(expected.pvalue) == pytest.approx(paired.pvalue)
    assert found.p_holm == found.p
    assert found.effect_size == pytest.approx(means.mean() / means.std(ddof=1))
    assert (found.num_subjects, found.num_pairs, found.unit) == (6, 36, "subjects")


def test_for_normal_values_the_interval_is_students():
    values = stats.norm.ppf((np.arange(30) + 0.5) / 30).reshape(30, 1, 1)
    found = estimate(scores(values))
    low, high = stats.t.interval(0.95, 29, 0, stats.sem(values.ravel()))
    assert (found.low, found.high) == (pytest.approx(low, rel=0.05), pytest.approx(high, rel=0.05))


def test_for_many_units_the_interval_is_scipys_bootstrap():
    values = np.random.default_rng(0).exponential(1, (200, 1, 1))
    found = estimate(scores(values))
    theirs = stats.bootstrap((values.ravel(),), np.mean, method="percentile", rng=1)
    low, high = theirs.confidence_interval
    assert (found.low, found.high) == (pytest.approx(low, abs=0.015), pytest.approx(high, abs=0.02))


def test_each_subject_counts_alike_and_seeds_are_averaged_within_it():
    a = scores(np.full((1, 2, 2), 0.2)) | scores(np.full((1, 2, 2), 0.4), seed="1")
    b = {("other", "0"): {(PROMPTS[0], 0): 0.9}}
    found = estimate(a | b)
    assert found.mean == pytest.approx((0.3 + 0.9) / 2)
    assert (found.num_subjects, found.num_images) == (2, 9)


def test_only_pictures_of_the_same_subject_seed_prompt_and_index_are_compared():
    a = {("dog", "0"): {("x", 0): 0.5, ("y", 0): 0.75, ("y", 1): 9.0}, ("cat", "0"): {("x", 0): 9}}
    b = {("dog", "0"): {("x", 0): 0.25, ("y", 0): 0.25}, ("dog", "1"): {("x", 0): 7}}
    found = difference(a, b)
    assert found.mean == pytest.approx(0.375)
    assert (found.num_subjects, found.num_pairs, found.unit) == (1, 2, "prompts")
    assert difference({("dog", "0"): {("x", 0): 1.0}}, {("cat", "0"): {("x", 0): 1.0}}) is None


def test_one_prompt_of_one_subject_is_compared_over_its_pictures():
    values = np.random.default_rng(0).standard_normal((1, 1, 16))
    found = estimate(scores(values))
    assert (found.unit, found.num_images) == ("pictures", 16)
    low, high = stats.t.interval(0.95, 15, values.mean(), stats.sem(values.ravel()))
    assert (found.low, found.high) == (pytest.approx(low, abs=0.06), pytest.approx(high, abs=0.06))


def test_a_single_value_has_no_interval_and_nothing_no_estimate():
    found = estimate({("dog", "0"): {("", 0): 0.5}})
    assert found.mean == 0.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert estimate({}) is None
    assert estimate({("dog", "0"): {}}) is None
    alone = difference({("dog", "0"): {("", 0): 0.5}}, {("dog", "0"): {("", 0): 0.25}})
    assert (alone.mean, math.isnan(alone.p), math.isnan(alone.low)) == (0.25, True, True)


def test_shares_stay_between_0_and_1_and_are_never_certain():
    certain = estimate(scores(np.ones((1, 25, 2))))
    expected = stats.binomtest(25, 25).proportion_ci(method="wilson")
    assert (certain.low, certain.high) == (pytest.approx(expected.low), 1)
    values = np.ones((1, 25, 2))
    values[0, 0, 0] = 0
    nearly = estimate(scores(values))
    assert 0.8 < nearly.low < 0.98 < nearly.high < 1
    none = estimate(scores(np.zeros((1, 25, 2))))
    assert (none.low, none.high) == (0, pytest.approx(1 - expected.low))
    assert estimate(scores(np.full((3, 2, 2), 0.5))).low == 0.5  # no shares


def test_the_interval_of_a_share_is_wilsons_of_as_many_draws_as_its_spread_tells():
    drawn = np.random.default_rng(0).random((1, 4000, 1)) < 0.03  # all independent
    pictures = {(f"a {{}} in place {i}", 0): float(v) for i, v in enumerate(drawn.ravel())}
    found = estimate({("dog", "0"): pictures})
    expected = stats.binomtest(int(drawn.sum()), 4000).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-3)


@pytest.mark.parametrize(("subjects", "least"), [(3, 0.93), (5, 0.91), (15, 0.90)])
def test_intervals_of_high_shares_cover_the_truth_nearly_as_often(subjects, least):
    rng = np.random.default_rng(subjects)
    rates = rng.beta(8 * 0.95, 8 * 0.05, (1000, subjects, 1, 1))
    studies = (rng.random((1000, subjects, 25, 2)) < rates).astype(float)
    found = [estimate(scores(study)) for study in studies]
    assert np.mean([e.low <= 0.95 <= e.high for e in found]) >= least


def test_the_same_difference_in_every_pair_has_the_p_of_its_signs():
    right, wrong = scores(np.ones((1, 25, 2))), scores(np.zeros((1, 25, 2)))
    found = difference(right, wrong)
    assert found.p == pytest.approx(stats.binomtest(25, 25).pvalue)
    assert difference(wrong, right).p == found.p
    assert difference(scores(np.ones((2, 25, 2))), scores(np.zeros((2, 25, 2)))).p == 0.5
    assert math.isnan(found.effect_size)


def test_the_same_in_every_pair_is_no_difference():
    values = np.random.default_rng(0).standard_normal((4, 2, 2))
    found = difference(scores(values), scores(values))
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert math.isnan(found.effect_size)


def test_what_rounding_leaves_of_no_difference_is_none():
    values = np.zeros((8, 3, 1))
    values[0, :, 0] = 0.1, 0.2, -0.3
    found = difference(
        {
            (f"subject {s}", f"{i}"): {("a", 0): v[i, 0]}
            for s, v in enumerate(values)
            for i in range(3)
        },
        {(f"subject {s}", f"{i}"): {("a", 0): 0.0} for s in range(8) for i in range(3)},
    )
    assert found.mean == pytest.approx(0, abs=1e-12)
    assert found.p == 1


def test_holm_equals_its_definition():
    ps = [0.01, 0.04, 0.03, 0.005, math.nan]
    some = [Difference(0, 0, 0, p, p, 0, 1, 1) for p in ps]
    found = [d.p_holm for d in holm(some)]
    assert found[:4] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert math.isnan(found[4])


def test_a_mean_over_pairs_varies_as_its_pseudo_values_tell():
    rng = np.random.default_rng(0)

    def distances(x):  # of each to the others
        return np.abs(x[:, None] - x).sum(1) / (len(x) - 1)

    studies = [distances(rng.standard_normal(32)) for _ in range(1000)]
    spread = np.std([d.mean() for d in studies])
    found = [pair_influences({("a {}", i): v for i, v in enumerate(d)}) for d in studies]
    told = [np.std(list(one.values()), ddof=1) / 32**0.5 for one in found]
    naive = np.mean([d.std(ddof=1) for d in studies]) / 32**0.5
    assert np.mean(told) == pytest.approx(spread, rel=0.1)
    assert naive < 0.6 * spread
    assert np.mean(list(found[0].values())) == pytest.approx(studies[0].mean())
