"""The seams take more than what ships: a method, a schedule, a model and a metric that only this
file knows run through training, saving, drawing, scoring and the report. docs/extending.md shows
the parts between the marks `docs`."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import command, smoke, train
from safetensors.torch import load_file, save_file

from dreambooth.assemble import load_finished_model
from dreambooth.backbones.cascade import CascadeBackbone
from dreambooth.methods.method import TermPrompts, Trained
from dreambooth.metrics.evaluation import Scores
from dreambooth.metrics.intervals import mean
from dreambooth.runs.run import Run
from dreambooth.schedules import FlowMatching


# docs: method
class BiasesOnly:
    """Trains and keeps the biases of the denoiser alone (BitFit, arXiv 2106.10199)."""

    stages = ("base", "sr")

    def names(self, names, subject, backbone):
        return names

    def prepare(self, stage):
        stage.denoiser.train().requires_grad_(False)
        for bias in self._biases(stage).values():
            bias.requires_grad_(True)

    def trained(self, stage):
        return Trained({"denoiser": stage.denoiser}, [{"params": [*self._biases(stage).values()]}])

    def prompts(self, names, backbone):
        return TermPrompts([names.subject_prompt], [names.class_prompt, ""])

    def state(self, stage):
        return {name: bias.detach().clone() for name, bias in self._biases(stage).items()}

    def load_state(self, stage, state):
        stage.denoiser.load_state_dict(state, strict=False)

    def save(self, backbone, folder):
        for name, stage in backbone.stages.items():
            save_file(self.state(stage), folder / f"{name}.safetensors")

    def load(self, pretrained, folder):
        backbone = pretrained()
        for name, stage in backbone.stages.items():
            self.load_state(stage, load_file(folder / f"{name}.safetensors"))
        return backbone

    def _biases(self, stage):
        return {k: p for k, p in stage.denoiser.named_parameters() if k.endswith("bias")}


# docs: schedule
class Trigonometric:
    """z_t = cos(pi t / 2) x + sin(pi t / 2) eps with t in (0, 1]; the denoiser predicts x."""

    prediction_type, clip_sample = "sample", True

    def draw_t(self, distribution, generator):
        return distribution.draw(generator)

    def snr(self, t):
        return (math.pi / 2 * t).tan() ** -2

    def corrupt(self, x, eps, t):
        angle = (math.pi / 2 * t).view(-1, *[1] * (x.ndim - 1))
        return angle.cos() * x + angle.sin() * eps

    def target(self, x, eps, t):
        return x

    def to_x(self, prediction, z_t, t):
        return prediction

    def solver(self, name, num_steps):
        times = torch.arange(num_steps, -1, -1) / num_steps
        following = dict(zip(times.tolist(), times[1:], strict=False))

        def step(x_hat, t, z_t, generator):
            eps_hat = (z_t - (math.pi / 2 * t).cos() * x_hat) / (math.pi / 2 * t).sin()
            z = self.corrupt(x_hat, eps_hat, following[t.item()].expand(len(x_hat)))
            return SimpleNamespace(prev_sample=z)

        return SimpleNamespace(timesteps=times[:-1], step=step)


# docs: model
def trigonometric_cascade(pretrained):
    """A saved cascade whose base stage is trained on another noise schedule."""
    backbone = CascadeBackbone.load(pretrained)
    backbone.stages["base"].schedule = Trigonometric()
    return backbone


# docs: metric
class Colourfulness:
    """How colourful an image is: max - min of R, G and B, averaged over its pixels, in [0, 1]."""

    def check(self, subject):
        """Any subject will do."""

    def score(self, sets):
        rows = [{"colourfulness": self._of(p)} for p in [*sets.prompts, *sets.class_prompts]]
        protocol = "mean of max - min of R, G and B; images of the prompts"
        of_prompts = mean(rows[: len(sets.prompts)], "colourfulness", protocol)
        return Scores(rows, {"colourfulness": of_prompts})

    def score_restored(self, sets):
        rows = [{"sr_colourfulness": self._of(p)} for p in sets.restored]
        protocol = "mean of max - min of R, G and B; enlarged photos"
        return Scores(rows, {"sr_colourfulness": mean(rows, "sr_colourfulness", protocol)})

    def _of(self, picture):
        rgb = picture.pixels.float() / 255
        return (rgb.amax(0) - rgb.amin(0)).mean().item()


# docs: end
def flow_cascade(pretrained):
    backbone = CascadeBackbone.load(pretrained)
    backbone.stages["base"].schedule = FlowMatching()
    return backbone


ONLY_BIASES = (
    "method.tuning._target_=test_seams.BiasesOnly",
    "~method.tuning.train",
    "~method.tuning.train_sr",
    "~method.tuning.adapter",
    "~method.tuning.train_text_encoder",
    "~method.tuning.text_encoder_learning_rate",
    "~method.tuning.seed",
    "~method.tuning._convert_",
)
EULER = ("model.sampling.prior.base.name=euler", "model.sampling.images.base.name=euler")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ONLY_BIASES,
        ("model.backbone._target_=test_seams.trigonometric_cascade",),
        ("model.backbone._target_=test_seams.flow_cascade", *EULER),
    ],
    ids=["method", "schedule", "flow_matching"],
)
def test_it_runs_from_training_to_the_report(tiny, tmp_path, monkeypatch, overrides):
    monkeypatch.setattr("dreambooth.reporting.report.REPORTS", tmp_path / "reports")
    words = (*smoke(tiny, tmp_path / "prior"), "logger=csv", "metrics=oracle", *overrides)
    sweep = tmp_path / "sweep"
    ended = command("train", "-m", *words, "prior.lambda=0,1", f"hydra.sweep.dir={sweep}")
    assert ended.code == 0, ended.output
    cells = [Run.load_finished(folder) for folder in sorted(sweep.glob("lambda-*"))]
    assert len(cells) == 2

    pretrained = CascadeBackbone.load(tiny).stages["base"].denoiser.state_dict()
    trained = load_finished_model(cells[1]).backbone.stages["base"].denoiser.state_dict()
    changed = {name for name, value in trained.items() if not torch.equal(value, pretrained[name])}
    biases = {name for name in pretrained if name.endswith("bias")}
    assert changed
    assert (changed <= biases) == (overrides == ONLY_BIASES)
    if overrides == ONLY_BIASES:
        kept = [path.name for path in Path(cells[1].weights).glob("*.safetensors")]
        assert sorted(kept) == ["base.safetensors", "sr.safetensors"]

    ended = command("generate", f"run={cells[1].folder}", "images_per_prompt=1")
    assert ended.code == 0, ended.output
    ended = command("evaluate", f"run={cells[1].folder}", "metrics=oracle")
    assert ended.code == 0, ended.output
    assert "identity" in cells[1].read_metrics()
    ended = command("report", f"sweep={sweep}")
    assert ended.code == 0, ended.output
    assert "lambda" in (tmp_path / "reports" / "sweep" / "report.md").read_text()


@pytest.mark.slow
def test_a_run_has_the_scores_of_a_metric_that_is_given_on_the_command_line(tiny, tmp_path):
    own = ("metrics=none", "+metrics.colourfulness._target_=test_seams.Colourfulness")
    ended = train(tiny, tmp_path / "run", *own)
    assert ended.code == 0, ended.output
    run = Run.load_finished(tmp_path / "run")
    found = run.read_metrics()["colourfulness"]
    pictures = run.images.read("prompts")
    expected = sum(
        float((p.pixels.float().amax(0) - p.pixels.float().amin(0)).mean()) / 255 for p in pictures
    )
    assert found.value == pytest.approx(expected / len(pictures), rel=1e-4)
    assert found.count == len(pictures) == 25
    assert found.value > 0
    columns = {row["set"]: set(row) for row in run.read_scores()}
    assert all("colourfulness" in columns[name] for name in ("prompts", "class"))
    assert "sr_colourfulness" in run.read_metrics()
