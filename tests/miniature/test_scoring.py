"""The scores of the oracle, with an oracle whose readings are given."""

import math

import pytest
import torch

from dreambooth.metrics.evaluation import PictureSets
from dreambooth.miniature import scoring
from dreambooth.miniature.oracle import ATTRIBUTES, Oracle, OracleNetwork, Reading
from dreambooth.miniature.references import references
from dreambooth.miniature.scoring import OracleScorer, mean_distances, summary
from dreambooth.miniature.subjects import drawn_subject
from dreambooth.runs.pictures import Picture
from dreambooth.subjects.subject import Subject

SUBJECT = drawn_subject("dog", 7)
DAMAGED = 99  # the embedding number of a picture that is not clean


class FixedOracle:
    """Reads the first pixel of a picture as three numbers: the index of the class, the index of the
    context, and the number of the embedding, where 0 is the subject's."""

    def __init__(self):
        self.num_references = 0

    def read(self, images):
        if images.dtype != torch.uint8:  # the references
            self.num_references += len(images)
            embeddings = torch.eye(64)[:1].expand(len(images), 64)
            return Reading([{}] * len(images), embeddings, torch.ones(len(images)))
        values = [
            {
                name: ATTRIBUTES[name][int(pixel[i])] if i < 2 else ATTRIBUTES[name][0]
                for i, name in enumerate(ATTRIBUTES)
            }
            for pixel in images[:, :, 0, 0]
        ]
        number = images[:, 2, 0, 0].long()
        clean = torch.where(number == DAMAGED, 0.25, 0.75)
        return Reading(values, torch.eye(64)[number % DAMAGED], clean)

    def identity(self, embeddings, references):
        return (embeddings @ references.T).mean(1)


@pytest.fixture
def scorer(monkeypatch):
    monkeypatch.setattr(scoring, "_shipped", lambda: (FixedOracle(), {}))
    return OracleScorer()


def picture(template, noun="dog", context="snow", embedding=0):
    """Return a picture that `FixedOracle` reads as the arguments say."""
    pixel = [ATTRIBUTES["class"].index(noun), ATTRIBUTES["context"].index(context), embedding]
    pixels = torch.tensor(pixel, dtype=torch.uint8).view(3, 1, 1).expand(3, 64, 64)
    return Picture(pixels, template.replace("{}", "kzn dog"), 0, template)


def test_pictures_are_scored_against_the_attributes_of_their_template(scorer):
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
    assert "diversity" not in metrics  # there is only one picture


def test_attributes_count_only_where_the_picture_is_clean(scorer):
    prompts = [
        picture("a {} in the snow"),
        picture("a {} in the snow", embedding=DAMAGED),
        picture("a {} in the snow", context="beach"),
        picture("a {}", embedding=DAMAGED),
    ]
    scores = scorer.score(PictureSets(SUBJECT, "kzn", prompts, []))
    rows, metrics = scores.rows, scores.metrics
    assert [row["clean"] for row in rows] == [0.75, 0.25, 0.75, 0.25]
    assert [row["is_clean"] for row in rows] == [1, 0, 1, 0]
    assert [row["seen_class"] for row in rows] == ["dog"] * 4  # reported for damaged pictures too
    assert [row["class_right"] for row in rows] == [1, 0, 1, 0]
    assert [row.get("context_right") for row in rows] == [1, 0, 0, None]
    assert (metrics["clean"].value, metrics["clean"].count) == (0.5, 4)
    assert (metrics["class_accuracy"].value, metrics["class_accuracy"].count) == (0.5, 4)
    assert metrics["context_accuracy"].value == pytest.approx(1 / 3)
    assert metrics["identity"].value == 1  # does not depend on clean
    for name in ("clean", "class_accuracy", "context_accuracy"):
        assert "P(clean) >= 0.5" in metrics[name].protocol


def test_the_metrics_are_the_means_of_the_columns(scorer):
    """So metrics.json can be recomputed from scores.csv."""
    prompts = [picture("a {} in the snow", embedding=e) for e in (0, 1, DAMAGED, DAMAGED, 0)]
    scores = scorer.score(PictureSets(SUBJECT, "kzn", prompts, []))
    rows, metrics = scores.rows, scores.metrics
    columns = {"identity": "identity", "clean": "is_clean", "class_accuracy": "class_right"}
    for metric, column in columns.items():
        assert metrics[metric].value == pytest.approx(sum(row[column] for row in rows) / 5)


def test_the_references_of_each_prompt_are_drawn_once(scorer):
    prompts = [picture("a red {}"), picture("a {} in the snow"), picture("a red {}")]
    scorer.score(PictureSets(SUBJECT, "kzn", prompts, [picture("a {}")]))
    assert scorer.oracle.num_references == 3 * 16
    scorer.score(PictureSets(SUBJECT, "kzn", prompts, []))
    assert scorer.oracle.num_references == 3 * 16


def test_the_cells_of_a_sweep_share_the_oracle_and_what_it_has_read():
    first, second = OracleScorer(), OracleScorer()
    first.score(PictureSets(SUBJECT, "kzn", [picture("a red {}")], []))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "references", None)  # not drawn again
        second.score(PictureSets(SUBJECT, "kzn", [picture("a red {}")], []))


def test_the_class_is_scored_against_the_true_one_not_the_prompted_one(scorer):
    of_class = [picture("a {}", noun="cat")]
    scores = scorer.score(PictureSets(SUBJECT, "kzn", [picture("a cat {}")], of_class))
    assert [row["class_right"] for row in scores.rows] == [1, 0]


def test_drift_and_diversity_are_measured_on_the_class_prompt_s_pictures():
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
    distances = mean_distances(embeddings)
    assert distances == [0.5, 0.5, 1.0]
    assert sum(distances) / 3 == pytest.approx(summary([], [], embeddings)["diversity"].value)
    assert mean_distances(embeddings[:1]) == [None]


def test_the_identity_of_the_references_themselves_is_a_probability():
    torch.manual_seed(0)
    network = OracleNetwork()
    network.same.copy_(torch.tensor([10.0, 0.0, -5.0]))
    oracle = Oracle(network)
    truth = oracle.read(references(SUBJECT.truth)).embeddings
    identity = oracle.identity(truth, truth)
    assert identity.shape == (16,)
    assert ((identity >= 0) & (identity <= 1)).all()


def test_a_subject_that_is_not_drawn_is_refused_before_any_work(scorer):
    photos = Subject(
        "mine", "dog", "cat", "live", lambda r: torch.zeros(1, 3, r, r), list, ("a {}",)
    )
    with pytest.raises(ValueError, match="of the drawn world only, and mine is not one"):
        scorer.check(photos)
    scorer.check(SUBJECT)
