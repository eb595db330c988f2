"""Intervals and tests against scipy, statsmodels and simulated studies whose truth is known."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from dreambooth.reporting.floor import Floor, between_seeds, halves
from dreambooth.reporting.statistics import Difference, difference, estimate, holm

PROMPTS = [f"a {{}} in place {i}" for i in range(25)]


def scores(values, first_seed=0):
    """(subjects, seeds, prompts, images) as scores."""
    subjects, seeds, prompts, images = values.shape
    return {
        (f"subject {s}", f"{first_seed + k}"): {
            (PROMPTS[p], i): float(values[s, k, p, i])
            for p, i in product(range(prompts), range(images))
        }
        for s, k in product(range(subjects), range(seeds))
    }


def study(rng, subjects, seeds=1, prompts=3, images=2, draw=None):
    """Mean 0; effects of subjects, of trainings, of a training's prompts, and of images."""
    draw = draw or rng.standard_normal
    of_subjects = draw((subjects, 1, 1, 1))
    of_trainings = draw((subjects, seeds, 1, 1))
    of_prompts = rng.standard_normal((subjects, seeds, prompts, 1))
    of_images = 1.5 * rng.standard_normal((subjects, seeds, prompts, images))
    return 0.1 * (of_subjects + of_trainings + of_prompts + of_images)


def covered(found, truth):
    return np.mean([e.low <= truth <= e.high for e in found])


@pytest.mark.parametrize(("subjects", "seeds"), [(3, 1), (5, 2), (10, 1), (30, 1)])
def test_95_percent_intervals_over_subjects_cover_the_truth(subjects, seeds):
    rng = np.random.default_rng(subjects)
    found = [estimate(scores(0.5 + study(rng, subjects, seeds))) for _ in range(1000)]
    assert {e.unit for e in found} == {"subjects"}
    assert 0.93 <= covered(found, 0.5) <= 0.97


def test_95_percent_intervals_over_the_trainings_of_one_subject_cover_its_own_truth():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(1000):
        own = rng.normal()
        trainings = own + 0.1 * rng.standard_normal((1, 5, 1, 1))
        noise = 0.1 * rng.standard_normal((1, 5, 3, 2))
        result = estimate(scores(trainings + noise))
        found.append(result.low <= own <= result.high)
        assert (result.unit, result.num_trainings) == ("trainings", 5)
    assert 0.93 <= np.mean(found) <= 0.97


def test_95_percent_intervals_over_the_prompts_of_one_training_cover_its_own_truth():
    rng = np.random.default_rng(0)
    effects = 0.1 * rng.standard_normal((1000, 1, 1, 25, 1))
    values = 0.3 + effects + 0.05 * rng.standard_normal((1000, 1, 1, 25, 4))
    found = [estimate(scores(one)) for one in values]
    assert {e.unit for e in found} == {"prompts"}
    assert 0.93 <= covered(found, 0.3) <= 0.97


@pytest.mark.parametrize(
    ("subjects", "seeds", "skewed"), [(5, 1, False), (10, 2, False), (1, 6, False), (10, 1, True)]
)
def test_a_setting_against_itself_under_other_seeds_is_found_different_in_5_percent(
    subjects, seeds, skewed
):
    """The A/A test of a study: tests over prompts of one training would find it in nearly half."""
    rng = np.random.default_rng(subjects)
    draw = (lambda size: rng.exponential(1, size) - 1) if skewed else None
    found = []
    for _ in range(1000):
        values = study(rng, subjects, 2 * seeds, draw=draw)
        found.append(difference(*halves(scores(values))))
    assert {d.num_trainings for d in found} == {subjects * seeds}
    assert 0.03 <= np.mean([d.p < 0.05 for d in found]) <= 0.07
    assert 0.93 <= covered(found, 0) <= 0.97


@pytest.mark.slow
def test_a_family_of_ten_claims_without_differences_has_a_significant_one_in_5_percent():
    rng = np.random.default_rng(0)
    studies = rng.standard_normal((1000, 10, 8, 1, 1, 1))
    zero = scores(np.zeros((8, 1, 1, 1)))
    found = [holm([difference(scores(d), zero) for d in family]) for family in studies]
    assert 0.03 <= np.mean([min(d.p_holm for d in family) < 0.05 for family in found]) <= 0.07


def test_the_mean_the_interval_and_the_test_are_scipys_and_statsmodels_over_subjects():
    rng = np.random.default_rng(3)
    a, b = study(rng, 6, 2), study(rng, 6, 2)
    found = difference(scores(a), scores(b))
    means = (a - b).mean((1, 2, 3))
    paired = stats.ttest_rel(a.mean((1, 2, 3)), b.mean((1, 2, 3)))
    assert found.mean == pytest.approx(means.mean(), abs=1e-12)
    assert found.p == pytest.approx(paired.pvalue, abs=1e-12)
    low, high = DescrStatsW(means).tconfint_mean()
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))
    assert found.p_holm == found.p
    assert found.effect_size == pytest.approx(means.mean() / means.std(ddof=1))
    assert (found.num_subjects, found.num_trainings, found.num_images) == (6, 12, 72)
    assert found.unit == "subjects"


def test_its_standard_error_is_that_of_a_mixed_model_of_subjects_and_seeds():
    rng = np.random.default_rng(5)
    values = 1.0 + study(rng, 12, 3)
    runs = values.mean((2, 3))
    fit = MixedLM(runs.ravel(), np.ones(36), groups=np.repeat(np.arange(12), 3)).fit()
    found = estimate(scores(values))
    assert found.mean == pytest.approx(fit.fe_params[0], abs=1e-9)
    half = stats.t.ppf(0.975, 11) * fit.bse_fe[0]
    assert found.high - found.mean == pytest.approx(half, rel=1e-4)  # it is found by iteration


def test_holm_is_that_of_statsmodels_and_leaves_out_what_has_no_p():
    ps = [0.01, 0.04, 0.03, 0.005, math.nan]
    found = [d.p_holm for d in holm([Difference(0, 0, 0, p, p, 0, 1, 1) for p in ps])]
    assert found[:4] == pytest.approx(multipletests(ps[:4], method="holm")[1], abs=1e-12)
    assert math.isnan(found[4])


def test_fewer_than_five_trained_pairs_have_no_test():
    rng = np.random.default_rng(0)
    for subjects, seeds in ((1, 1), (1, 4), (4, 1), (2, 2)):
        found = difference(*(scores(study(rng, subjects, seeds)) for _ in range(2)))
        assert not found.can_be_judged
        assert math.isnan(found.p)
        assert found.low < found.mean < found.high
    for subjects, seeds in ((1, 5), (5, 1), (3, 2)):
        found = difference(*(scores(study(rng, subjects, seeds)) for _ in range(2)))
        assert found.can_be_judged
        assert 0 < found.p < 1


def test_each_subject_counts_alike_and_seeds_are_averaged_within_it():
    a = scores(np.array([0.2, 0.4]).reshape(1, 2, 1, 1) + np.zeros((1, 2, 2, 2)))
    found = estimate(a | {("other", "0"): {(PROMPTS[0], 0): 0.9}})
    assert found.mean == pytest.approx((0.3 + 0.9) / 2)
    assert (found.num_subjects, found.num_trainings, found.num_images) == (2, 3, 9)


def test_only_pictures_of_the_same_subject_seed_prompt_and_index_are_compared():
    a = {("dog", "0"): {("x", 0): 0.5, ("y", 0): 0.75, ("y", 1): 9.0}, ("cat", "0"): {("x", 0): 9}}
    b = {("dog", "0"): {("x", 0): 0.25, ("y", 0): 0.25}, ("dog", "1"): {("x", 0): 7}}
    found = difference(a, b)
    assert found.mean == pytest.approx(0.375)
    assert (found.num_subjects, found.num_images, found.unit) == (1, 2, "prompts")
    assert difference({("dog", "0"): {("x", 0): 1.0}}, {("cat", "0"): {("x", 0): 1.0}}) is None


def test_one_prompt_of_one_training_is_compared_over_its_pictures():
    values = np.random.default_rng(0).standard_normal((1, 1, 1, 16))
    found = estimate(scores(values))
    assert (found.unit, found.num_images) == ("images", 16)
    expected = stats.t.interval(0.95, 15, values.mean(), stats.sem(values.ravel()))
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)


def test_a_single_value_has_no_interval_and_nothing_no_estimate():
    found = estimate({("dog", "0"): {("", 0): 0.5}})
    assert found.mean == 0.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert estimate({}) is None
    assert estimate({("dog", "0"): {}}) is None
    alone = difference({("dog", "0"): {("", 0): 0.5}}, {("dog", "0"): {("", 0): 0.25}})
    assert (alone.mean, math.isnan(alone.p), math.isnan(alone.low)) == (0.25, True, True)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("subjects", [5, 20])
def test_intervals_of_shares_cover_the_truth_at_least_as_often(subjects, share):
    rng = np.random.default_rng(subjects)
    rates = rng.beta(8 * share, 8 * (1 - share), (1000, subjects, 1, 1, 1))
    studies = (rng.random((1000, subjects, 1, 25, 2)) < rates).astype(float)
    assert covered([estimate(scores(one), "class_accuracy") for one in studies], share) >= 0.93


def test_the_same_difference_in_every_pair_has_the_p_of_its_signs():
    right, wrong = (scores(np.full((8, 1, 3, 2), value)) for value in (1.0, 0.0))
    found = difference(right, wrong)
    assert found.p == pytest.approx(stats.binomtest(8, 8).pvalue)
    assert difference(wrong, right).p == found.p
    assert math.isnan(found.effect_size)


def test_the_same_in_every_pair_is_no_difference():
    values = np.random.default_rng(0).standard_normal((5, 1, 2, 2))
    found = difference(scores(values), scores(values))
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert math.isnan(found.effect_size)


def test_what_rounding_leaves_of_no_difference_is_none():
    values = np.zeros((8, 3, 1, 1))
    values[0, :, 0, 0] = 0.1, 0.2, -0.3
    found = difference(scores(values), scores(np.zeros((8, 3, 1, 1))))
    assert found.mean == pytest.approx(0, abs=1e-12)
    assert found.p == 1


class Trials:
    """Stands in for cells and their reader."""

    def __init__(self, values):
        self.finished, self.values = (), values

    def scores(self, trials, metric):
        return scores(self.values)


def test_the_floor_is_the_spread_of_trainings_within_a_subject():
    values = study(np.random.default_rng(0), 4, 3)
    runs = values.mean((2, 3))
    cell = Trials(values)
    found = between_seeds([cell, cell], "dino", cell)
    assert found == Floor(pytest.approx(np.sqrt(runs.var(1, ddof=1).mean())), 24)
    one_seed = Trials(values[:, :1])
    assert between_seeds([one_seed], "dino", one_seed) is None
