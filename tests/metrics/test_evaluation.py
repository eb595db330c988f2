from dataclasses import replace

import torch

from dreambooth.metrics.evaluation import PictureSets, Scores, evaluate, merge_rows, summary_line
from dreambooth.miniature.subjects import drawn_subject
from dreambooth.runs.pictures import Picture
from dreambooth.runs.records import Metric

SUBJECT = drawn_subject("dog", 7)


def picture(prompt, index):
    return Picture(torch.zeros(3, 8, 8, dtype=torch.uint8), prompt, index, prompt)


class Brightness:
    def __init__(self, name):
        self.name = name

    def check(self, subject):
        pass

    def score(self, sets):
        rows = [{self.name: float(p.index)} for p in [*sets.prompts, *sets.class_prompts]]
        return Scores(rows, {self.name: Metric(0.5, len(rows), sets.identifier)})

    def score_restored(self, sets):
        rows = [{f"sr_{self.name}": float(p.index)} for p in sets.originals]
        return Scores(rows, {f"sr_{self.name}": Metric(0.25, len(rows), sets.identifier)})


def test_a_row_names_its_picture_and_has_a_column_of_every_scorer():
    prompts, of_class = [picture("a kzn dog", 0), picture("a kzn dog", 1)], [picture("a dog", 0)]
    scorers = [Brightness("a"), Brightness("b")]
    scores = evaluate(scorers, PictureSets(SUBJECT, "kzn", prompts, of_class), seed=3)
    rows, metrics = scores.rows, scores.metrics
    assert [(row["set"], row["prompt"], row["index"]) for row in rows] == [
        ("prompts", "a kzn dog", 0),
        ("prompts", "a kzn dog", 1),
        ("class", "a dog", 0),
    ]
    assert [(row["seed"], row["a"], row["b"]) for row in rows] == [(3, 0, 0), (3, 1, 1), (3, 0, 0)]
    assert {name: replace(m, ci95=None) for name, m in metrics.items()} == {
        "a": Metric(0.5, 3, "kzn"),
        "b": Metric(0.5, 3, "kzn"),
    }
    assert summary_line(metrics) == "a 0.500, b 0.500"


def test_no_scorers_leave_the_rows_without_scores():
    scores = evaluate([], PictureSets(SUBJECT, "kzn", [picture("a kzn dog", 0)], []))
    assert scores.rows == [
        {"set": "prompts", "prompt": "a kzn dog", "template": "a kzn dog", "index": 0, "seed": None}
    ]
    assert scores.metrics == {}


def test_enlarged_photos_have_the_last_rows_and_columns_of_their_own():
    photo, original = picture("a kzn dog", 4), picture("a kzn dog", 5)
    sets = PictureSets(SUBJECT, "kzn", [picture("a kzn dog", 0)], [], [photo], [original])
    scores = evaluate([Brightness("a"), Brightness("b")], sets)
    of_a_prompt, restored = scores.rows
    assert (restored["set"], restored["index"]) == ("restored", 4)
    assert (restored["sr_a"], restored["sr_b"]) == (5, 5)
    assert of_a_prompt["a"] == 0
    assert not set(of_a_prompt) & {"sr_a", "sr_b"}
    assert list(scores.metrics) == ["a", "b", "sr_a", "sr_b"]
    assert sets.scored == [*sets.prompts, photo]


def test_columns_of_before_stay_unless_they_are_measured_again():
    def row(index, **scores):
        return {"set": "prompts", "prompt": "a kzn dog", "index": index, **scores}

    before = [row(0, dino=0.1, identity=0.9), row(1, dino=0.2, identity=0.8)]
    again = [row(1, dino=0.6), row(2, dino=0.7)]  # image 0 is gone, 2 is new
    assert merge_rows(before, again) == [row(1, dino=0.6, identity=0.8), row(2, dino=0.7)]
