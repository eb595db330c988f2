import math

import pytest
import torch

from dreambooth.metrics.evaluation import PictureSets
from dreambooth.miniature import scoring
from dreambooth.miniature.oracle import ATTRIBUTES, Oracle, OracleNetwork, Reading
from dreambooth.miniature.scoring import OracleScorer, mean_distances, reference_images, summary
from dreambooth.miniature.subjects import drawn_subject
from dreambooth.miniature.world import individual
from dreambooth.runs.pictures import Picture
from dreambooth.subjects.subject import Subject

SUBJECT = drawn_subject("dog", 7)


class FixedOracle:
    """Sees what each picture's first pixel says: the index of its class, and of its context."""

    def read(self, images):
        if images.dtype != torch.uint8:  # the references
            return Reading([{}] * len(images), torch.eye(64)[:1].expand(len(images), 64))
        values = [
            {
                name: ATTRIBUTES[name][int(pixel[i])] if i < 2 else ATTRIBUTES[name][0]
                for i, name in enumerate(ATTRIBUTES)
            }
            for pixel in images[:, :, 0, 0]
        ]
        return Reading(values, torch.eye(64)[images[:, 2, 0, 0].long()])

    def identity(self, embeddings, subject):
        return (embeddings @ subject.T).mean(1)


@pytest.fixture
def scorer(monkeypatch):
    monkeypatch.setattr(scoring.Oracle, "load", lambda _: FixedOracle())
    return OracleScorer()


def picture(template, noun="dog", context="snow", embedding=0):
    """A picture that `FixedOracle` reads like this; embedding 0 is the subject."""
    told = [ATTRIBUTES["class"].index(noun), ATTRIBUTES["context"].index(context), embedding]
    pixels = torch.tensor(told, dtype=torch.uint8).view(3, 1, 1).expand(3, 64, 64)
    return Picture(pixels, template.replace("{}", "kzn dog"), 0, template)


def test_pictures_are_judged_by_what_their_template_asks_for(scorer):
    prompts = [
        picture("a {} in the snow"),
        picture("a {} in the snow", context="beach"),
        picture("a red {}", noun="cat", embedding=1),
    ]
    of_class = [picture("a {}", embedding=2)]
    scores = scorer.score(PictureSets(SUBJECT, "kzn", prompts, of_class))
    rows, metrics = scores.rows, scores.metrics
    assert [row["identity"] for row in rows] == [1, 1, 0, 0]
    assert [row["class_right"] for row in rows] == [1, 1, 0, 1]
    assert [row.get("context_right") for row in rows] == [1, 0, None, None]
    assert rows[2]["seen_class"] == "cat"
    assert rows[2]["colour_right"] == 1  # the fixed oracle sees red everywhere
    assert metrics["identity"].value == pytest.approx(2 / 3)
    assert metrics["class_accuracy"].value == pytest.approx(2 / 3)
    assert (metrics["context_accuracy"].value, metrics["context_accuracy"].count) == (0.5, 2)
    assert (metrics["drift"].value, metrics["drift"].count) == (0, 1)
    for share in ("class_accuracy", "context_accuracy"):
        low, high = metrics[share].ci95
        assert 0 < low < high < 1
    assert "diversity" not in metrics  # of one picture


def test_the_subjects_true_class_counts_whatever_it_was_called(scorer):
    of_class = [picture("a {}", noun="cat")]
    scores = scorer.score(PictureSets(SUBJECT, "kzn", [picture("a cat {}")], of_class))
    assert [row["class_right"] for row in scores.rows] == [1, 0]


def test_drift_and_diversity_are_of_the_class_prompts_pictures():
    embeddings = torch.eye(64)[[0, 0, 1]]
    rows = [{"identity": value} for value in (1.0, 1.0, 0.0)]
    metrics = summary([], rows, embeddings)
    assert metrics["drift"].value == pytest.approx(2 / 3)
    assert metrics["diversity"].value == pytest.approx(2 / 3)  # distances 0, 1, 1
    assert metrics["diversity"].count == 3
    low, high = metrics["diversity"].ci95
    assert low < 2 / 3 < high
    assert math.isnan(metrics["identity"].value)
    assert metrics["identity"].count == 0


def test_the_diversity_of_a_picture_is_its_mean_distance_to_the_others():
    embeddings = torch.eye(64)[[0, 0, 1]]
    each = mean_distances(embeddings)
    assert each == [0.5, 0.5, 1.0]
    assert sum(each) / 3 == pytest.approx(summary([], [], embeddings)["diversity"].value)
    assert mean_distances(embeddings[:1]) == [None]


def test_references_show_the_individual_in_the_same_scenes_each_time():
    dog = individual("dog", 7)
    images = reference_images(dog)
    assert images.shape == (16, 3, 64, 64)
    assert torch.equal(images, reference_images(dog))
    assert torch.pdist(images.flatten(1)).min() > 1
    assert not torch.equal(images, reference_images(individual("dog", 8)))


def test_references_are_no_input_photos():
    distances = torch.cdist(
        reference_images(SUBJECT.truth).flatten(1), SUBJECT.photos(64).flatten(1)
    )
    assert distances.min() > 1


def test_the_subject_itself_is_scored_by_a_network_of_any_weights():
    torch.manual_seed(0)
    oracle = Oracle(OracleNetwork())
    truth = oracle.read(reference_images(SUBJECT.truth)).embeddings
    found = oracle.identity(truth, truth)
    assert found.shape == (16,)
    assert ((found >= 0) & (found <= 1)).all()


def test_a_subject_that_is_not_drawn_is_refused_before_any_work(scorer):
    photos = Subject(
        "mine", "dog", "cat", "live", lambda r: torch.zeros(1, 3, r, r), list, ("a {}",)
    )
    with pytest.raises(ValueError, match="knows drawn subjects only, and mine is none"):
        scorer.check(photos)
    scorer.check(SUBJECT)
