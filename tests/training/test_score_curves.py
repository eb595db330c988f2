"""Scores while training goes on: they tell, and change nothing."""

import pytest
import torch
from commands import same_files, train

from dreambooth import assemble
from dreambooth.metrics.evaluation import Scores
from dreambooth.miniature.subjects import drawn_subject
from dreambooth.runs.pictures import Picture
from dreambooth.runs.records import Metric
from dreambooth.runs.run import Run
from dreambooth.subjects.prompts import PromptNames
from dreambooth.training.score_curves import ScoreCurves

pytestmark = pytest.mark.slow

SUBJECT = drawn_subject("dog", 7)
NAMES = PromptNames("kzn", "dog", "dog")
CURVES = ("callbacks=score_curves", "callbacks.score_curves.every_n_steps=1")


def test_a_run_with_curves_ends_in_the_same_bits_as_one_without(tiny, finished, encoders, tmp_path):
    ended = train(tiny, tmp_path / "run", *CURVES, *encoders)
    assert ended.code == 0, ended.output
    assert same_files(finished, tmp_path / "run", "*.safetensors")
    assert same_files(finished / "images", tmp_path / "run" / "images", "*.png")
    before, after = (
        [
            row["loss/subject"]
            for row in Run.load_finished(folder).read_history()
            if "loss/subject" in row
        ]
        for folder in (finished, tmp_path / "run")
    )
    assert len(before) == 2
    assert before == after
    rows = [
        row
        for row in Run.load_finished(tmp_path / "run").read_history()
        if "curves/identity" in row
    ]
    assert sorted(row["step"] for row in rows) == [0, 1, 2]  # of 2
    for name in ("dino", "clip_i", "clip_t", "copy", "pres", "identity", "drift", "seconds"):
        assert all(f"curves/{name}" in row for row in rows)
    assert len({row["curves/dino"] for row in rows}) == 3  # the model changes from step to step
    assert "curves/div" not in rows[0]  # of one image a prompt
    assert "score curves: 15 images at each point, " in ended.output


def test_with_averaged_weights_the_curves_score_them_and_training_is_unchanged(
    tiny, encoders, tmp_path
):
    own = (*encoders, "method.ema_decay=0.9", "method.max_steps=4", "prior.num_images=4")
    for name, more in (("plain", ()), ("curves", CURVES)):
        ended = train(tiny, tmp_path / name, *own, *more)
        assert ended.code == 0, ended.output
    assert same_files(tmp_path / "plain", tmp_path / "curves", "*.safetensors")
    ended = train(tiny, tmp_path / "live", *encoders, *own[-2:], *CURVES)
    assert ended.code == 0, ended.output
    averaged, live = (
        [
            row["curves/dino"]
            for row in Run.load_finished(folder).read_history()
            if "curves/dino" in row
        ]
        for folder in (tmp_path / "curves", tmp_path / "live")
    )
    assert averaged[0] == live[0]
    assert averaged[-1] != live[-1]


class Recorded:
    """A trainer that steps by hand, its logger, a scorer and a model that uses random numbers."""

    global_step, max_steps = 0, 5
    callbacks = ()

    def __init__(self):
        self.loggers, self.points, self.drawn = [self], [], []

    def log_metrics(self, metrics, step):
        self.points.append((step, metrics))

    def draw(self, jobs):
        self.drawn.append(list(jobs))
        torch.rand(3)
        pixels = torch.zeros(3, 8, 8, dtype=torch.uint8)
        return [Picture(pixels, prompt, i, template) for template, prompt, i in jobs]

    def score(self, sets):
        metrics = {"dino": Metric(0.5, 1, ""), "div": Metric(float("nan"), 0, "")}
        return Scores([{} for _ in sets.scored], metrics)


def test_points_are_at_the_start_at_every_n_th_step_and_at_the_end_of_the_same_pictures():
    trainer = Recorded()
    callback = ScoreCurves(trainer.draw, SUBJECT, NAMES, [trainer], 2, num_prompts=3)
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    callback.on_train_start(trainer, None)
    for step in range(1, 6):
        trainer.global_step = step
        callback.on_train_batch_end(trainer, None, None, None, step - 1)
    assert torch.equal(torch.rand(4), expected)
    assert [step for step, _ in trainer.points] == [0, 2, 4, 5]
    assert [set(metrics) for _, metrics in trainer.points] == [
        {"curves/dino", "curves/seconds"}
    ] * 4
    assert trainer.drawn == trainer.drawn[:2] * 4
    prompts, of_class = trainer.drawn[:2]
    assert [t for t, _, _ in prompts] == [SUBJECT.prompts[i] for i in (0, 9, 18)]
    assert of_class == [("a {}", "a dog", i) for i in range(8)]


def test_score_curves_need_a_metric_and_a_positive_interval():
    with pytest.raises(ValueError, match="callbacks=score_curves has no scores to draw curves of"):
        ScoreCurves(None, SUBJECT, NAMES, [], 1)
    with pytest.raises(ValueError, match=r"callbacks\.score_curves\.every_n_steps=0: give a whole"):
        ScoreCurves(None, SUBJECT, NAMES, [Recorded()], every_n_steps=0)


def test_what_drawing_needs_leaves_the_gpu_before_training_goes_on(
    tiny, encoders, tmp_path, monkeypatch
):
    released = []
    monkeypatch.setattr(assemble, "release", released.append)
    ended = train(tiny, tmp_path / "run", *CURVES, *encoders)
    assert ended.code == 0, ended.output
    assert len(released) == 2 * 3  # the subject's and the class's images, at steps 0, 1 and 2
