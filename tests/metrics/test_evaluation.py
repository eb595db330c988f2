import torch

from dreambooth.metrics.evaluation import evaluate, joined, told
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

    def score(self, subject, identifier, prompts, class_prompts):
        rows = [{self.name: float(p.index)} for p in [*prompts, *class_prompts]]
        return rows, {self.name: Metric(0.5, len(rows), identifier)}


def test_a_row_names_its_picture_and_has_a_column_of_every_scorer():
    prompts, of_class = [picture("a kzn dog", 0), picture("a kzn dog", 1)], [picture("a dog", 0)]
    scorers = [Brightness("a"), Brightness("b")]
    rows, metrics = evaluate(scorers, SUBJECT, "kzn", prompts, of_class, seed=3)
    assert [(row["set"], row["prompt"], row["index"]) for row in rows] == [
        ("prompts", "a kzn dog", 0),
        ("prompts", "a kzn dog", 1),
        ("class", "a dog", 0),
    ]
    assert [(row["seed"], row["a"], row["b"]) for row in rows] == [(3, 0, 0), (3, 1, 1), (3, 0, 0)]
    assert metrics == {"a": Metric(0.5, 3, "kzn"), "b": Metric(0.5, 3, "kzn")}
    assert told(metrics) == "a 0.500, b 0.500"


def test_no_scorers_leave_the_rows_without_scores():
    rows, metrics = evaluate([], SUBJECT, "kzn", [picture("a kzn dog", 0)], [])
    assert rows == [
        {"set": "prompts", "prompt": "a kzn dog", "template": "a kzn dog", "index": 0, "seed": None}
    ]
    assert metrics == {}


def test_columns_of_before_stay_unless_they_are_measured_again():
    def row(index, **scores):
        return {"set": "prompts", "prompt": "a kzn dog", "index": index, **scores}

    before = [row(0, dino=0.1, identity=0.9), row(1, dino=0.2, identity=0.8)]
    again = [row(1, dino=0.6), row(2, dino=0.7)]  # picture 0 is gone, 2 is new
    assert joined(before, again) == [row(1, dino=0.6, identity=0.8), row(2, dino=0.7)]
