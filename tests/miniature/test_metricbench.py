"""MetricBench on metrics whose worth is known beforehand."""

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
    """Knows each picture's number, and so its level; says the same of all, and something of some,
    as `div`, which a picture has where another has its prompt."""

    def check(self, subject):
        pass

    def score(self, sets):
        level = [p.index // 2 for p in sets.prompts]  # 2 pictures of each
        rows = [{"best": -float(i), "worst": float(i), "blind": 1.0, "of some": 1.0} for i in level]
        if sets.subject.class_noun == "cat":
            rows[-1]["of some"] = None
        return Scores(rows, {})


def test_a_metric_that_knows_the_truth_is_perfect_and_one_that_sees_nothing_is_chance():
    found = bench([Truth()], num_subjects=3, num_images=2)
    assert set(found) == set(SERIES)
    for series, metrics in found.items():
        best, worst, blind = metrics
        num_levels = len(SERIES[series])
        assert best.num_pairs == 3 * 2 * num_levels
        assert best.aucs == (1.0,) * (num_levels - 1)
        assert (best.pearson, best.spearman) == pytest.approx((1, 1))
        assert worst.aucs == (0.0,) * (num_levels - 1)
        assert (worst.pearson, worst.spearman) == pytest.approx((-1, -1))
        assert blind.aucs == (0.5,) * (num_levels - 1)
        assert np.isnan([blind.pearson, blind.spearman]).all()
    text = report(found)
    assert "| best | 1.000 | 1.000 |" in text
    assert "Pearson 0.32 with DINO, 0.27 with CLIP-I" in text


def test_judgement_equals_a_plain_recomputation():
    values = np.random.default_rng(0).normal(size=(3, 20)) + np.array([[2.0], [1.0], [0.0]])
    found = judge_metric("x", values)
    truth = np.repeat([2, 1, 0], 20)
    assert found.pearson == pytest.approx(np.corrcoef(truth, values.ravel())[0, 1])
    ranks = stats.rankdata(truth), stats.rankdata(values.ravel())
    assert found.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1])
    greater = (values[0][:, None] > values[2][None]).mean()
    assert found.aucs[1] == pytest.approx(greater)
    assert found.means == pytest.approx(values.mean(1))


@pytest.mark.parametrize("count", range(5))
def test_as_many_parts_are_changed_as_are_said_and_nothing_else(count):
    rng = np.random.default_rng(count)
    for _ in range(5):
        other = change_parts(count)(rng, DOG)
        differs = [any(getattr(other, k) != getattr(DOG, k) for k in part) for part in UNCAPTIONED]
        assert sum(differs) == count
        assert (other.class_noun, other.main) == (DOG.class_noun, DOG.main)


def test_the_relations_are_what_they_are_called():
    rng = np.random.default_rng(0)
    same, coloured, of_class, other = SERIES["relation"]
    for _ in range(10):
        assert same.of(rng, DOG) == DOG
        alike = coloured.of(rng, DOG)
        assert (alike.class_noun, alike.main) == ("dog", DOG.main)
        assert alike.pattern_seed != DOG.pattern_seed
        found = of_class.of(rng, DOG)
        assert found.class_noun == "dog"
        assert found.main != DOG.main
        assert other.of(rng, DOG).class_noun != "dog"


def test_copies_are_the_photos_with_a_little_noise_and_spoilt_ones_are_not():
    photos = metricbench.casual_photos("dog", 7, 3)
    clean = [metricbench.draw(photo).astype(int) for photo in photos]
    rng = np.random.default_rng(0)
    copy, fresh = SERIES["copies"]
    for _ in range(5):
        scene, pixels = copy.drawn(rng, photos)
        assert scene in photos
        assert 0 < np.abs(pixels - clean[photos.index(scene)]).mean() < 6
        assert fresh.drawn(rng, photos)[0] not in photos
    strong, weak = SERIES["noise"][3], SERIES["noise"][1]
    spread = [
        level.spoil(rng, np.full((64, 64, 3), 128, np.uint8)).std() for level in (strong, weak)
    ]
    assert spread == pytest.approx([60, 10], rel=0.1)
    edge = np.zeros((64, 64, 3), np.uint8)
    edge[:, 32:] = 255
    steep = [np.ptp(level.spoil(rng, edge)[0, 31:33, 0].astype(int)) for level in SERIES["blur"]]
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
                np.abs(level.spoil(np.random.default_rng(i), pixels).astype(float) - pixels)
                for i, pixels in enumerate(map(metricbench.draw, photos))
            ]
        )
        for level in levels
    ]
    assert 1 < change[0] < change[1] < change[2]


def test_numbers_of_nothing_are_refused():
    with pytest.raises(ValueError, match=r"bench\.num_images=0: give a whole number from 1 up"):
        bench([Truth()], 1, 0)
    with pytest.raises(ValueError, match="metrics=none has nothing to be judged"):
        bench([], 1, 1)
