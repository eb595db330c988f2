"""MetricBench, on metrics whose quality is known."""

import numpy as np
import pytest
from scipy import stats

from dreambooth.metrics.evaluation import Scores
from dreambooth.miniature import metricbench
from dreambooth.miniature.metricbench import (
    SERIES,
    UNCAPTIONED,
    bench,
    change_parts,
    judge_metric,
    report,
)
from dreambooth.miniature.world import individual

DOG = individual("dog", 7)


class Truth:
    """Scores by the true level, which follows from a picture's number.

    `blind` is equal for all pictures. `of some` lacks a value for one picture, as `div` does if no
    other picture has the same prompt.
    """

    def check(self, subject):
        pass

    def score(self, sets):
        level = [p.index // 2 for p in sets.prompts]  # 2 pictures of each level
        rows = [{"best": -float(i), "worst": float(i), "blind": 1.0, "of some": 1.0} for i in level]
        if sets.subject.class_noun == "cat":
            rows[-1]["of some"] = None
        return Scores(rows, {})


@pytest.mark.slow
def test_a_metric_that_knows_the_truth_is_perfect_and_a_constant_metric_is_at_chance():
    results = bench([Truth()], num_subjects=3, num_images=2)
    assert set(results) == set(SERIES)
    for series, metrics in results.items():
        best, worst, blind = metrics
        num_levels = len(SERIES[series])
        assert best.num_pairs == 3 * 2 * num_levels
        assert best.aucs == (1.0,) * (num_levels - 1)
        assert (best.pearson, best.spearman) == pytest.approx((1, 1))
        assert worst.aucs == (0.0,) * (num_levels - 1)
        assert (worst.pearson, worst.spearman) == pytest.approx((-1, -1))
        assert blind.aucs == (0.5,) * (num_levels - 1)
        assert np.isnan([blind.pearson, blind.spearman]).all()
    text = report(results)
    assert "| best | 1.000 | 1.000 |" in text
    assert "Pearson 0.32 with DINO, 0.27 with CLIP-I" in text


def test_correlations_and_aucs_equal_their_definitions():
    values = np.random.default_rng(0).normal(size=(3, 20)) + np.array([[2.0], [1.0], [0.0]])
    result = judge_metric("x", values)
    truth = np.repeat([2, 1, 0], 20)
    assert result.pearson == pytest.approx(np.corrcoef(truth, values.ravel())[0, 1])
    ranks = stats.rankdata(truth), stats.rankdata(values.ravel())
    assert result.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1])
    greater = (values[0][:, None] > values[2][None]).mean()
    assert result.aucs[1] == pytest.approx(greater)
    assert result.means == pytest.approx(values.mean(1))


@pytest.mark.parametrize("count", range(5))
def test_the_given_number_of_parts_is_changed_and_nothing_else(count):
    rng = np.random.default_rng(count)
    for _ in range(5):
        other = change_parts(count)(rng, DOG)
        differs = [any(getattr(other, k) != getattr(DOG, k) for k in part) for part in UNCAPTIONED]
        assert sum(differs) == count
        assert (other.class_noun, other.main) == (DOG.class_noun, DOG.main)


def test_the_levels_of_relation_are_as_their_names_say():
    rng = np.random.default_rng(0)
    same, same_colour, same_class, other_class = SERIES["relation"]
    for _ in range(10):
        assert same.choose(rng, DOG) == DOG
        look_alike = same_colour.choose(rng, DOG)
        assert (look_alike.class_noun, look_alike.main) == ("dog", DOG.main)
        assert look_alike.pattern_seed != DOG.pattern_seed
        other_dog = same_class.choose(rng, DOG)
        assert other_dog.class_noun == "dog"
        assert other_dog.main != DOG.main
        assert other_class.choose(rng, DOG).class_noun != "dog"


def test_copies_are_photos_with_a_little_noise_and_noise_and_blur_are_as_strong_as_named():
    photos = metricbench.casual_photos("dog", 7, 3)
    clean = [metricbench.draw(photo).astype(int) for photo in photos]
    rng = np.random.default_rng(0)
    copy, fresh = SERIES["copies"]
    for _ in range(5):
        scene, pixels = copy.sample(rng, photos)
        assert scene in photos
        assert 0 < np.abs(pixels - clean[photos.index(scene)]).mean() < 6
        assert fresh.sample(rng, photos)[0] not in photos
    strong, weak = SERIES["noise"][3], SERIES["noise"][1]
    spread = [
        level.degrade(rng, np.full((64, 64, 3), 128, np.uint8)).std() for level in (strong, weak)
    ]
    assert spread == pytest.approx([60, 10], rel=0.1)
    edge = np.zeros((64, 64, 3), np.uint8)
    edge[:, 32:] = 255
    steep = [np.ptp(level.degrade(rng, edge)[0, 31:33, 0].astype(int)) for level in SERIES["blur"]]
    assert steep[0] == 255
    assert steep == sorted(steep, reverse=True)
    assert len(set(steep)) == 4


def test_more_damage_changes_more_of_the_same_drawings():
    same, *levels = SERIES["damaged"]
    assert same.name == "same individual"
    photos = metricbench.casual_photos("dog", 7, 8)
    change = [
        np.mean(
            [
                np.abs(level.degrade(np.random.default_rng(i), pixels).astype(float) - pixels)
                for i, pixels in enumerate(map(metricbench.draw, photos))
            ]
        )
        for level in levels
    ]
    assert 1 < change[0] < change[1] < change[2]


def test_a_bench_without_images_or_metrics_is_refused():
    with pytest.raises(ValueError, match=r"bench\.num_images=0: give a whole number from 1 up"):
        bench([Truth()], 1, 0)
    with pytest.raises(ValueError, match="metrics=none has no metric to judge"):
        bench([], 1, 1)
