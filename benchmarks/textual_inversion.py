"""Why Textual Inversion learns little of a subject: how much can text say to the frozen denoiser?

    python benchmarks/textual_inversion.py subject=biscuit,comet

The arguments are those of a sweep of src/train.py with the miniature. Each subject takes about six
minutes on one core, and has a row for each of:

description   "a purple spotted dog"; nothing is trained
one vector    Textual Inversion
all vectors   Textual Inversion with as many vectors as fit into the prompt "a <subject>"
free outputs  all 24 outputs of the text encoder for this prompt are trained themselves, from those
              of the description: they can express all that a text can
DreamBooth    the denoiser is trained

`loss` is the subject term of the objective, without guidance, on the subject's photos and on 16
unseen photos; all rows have the same timesteps and noises. The scores are of 16 images of the
prompt "a [V]", on the same noise.

At the end it checks that outputs can be trained at all: 16 images that the pretrained model makes
of a caption replace the first subject's photos. The outputs start from those of "a [class noun]",
and should reach the loss of the caption.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dreambooth.assemble import assemble, config_checker
from dreambooth.backbones.drawing import draw_pictures
from dreambooth.experiment import Experiment
from dreambooth.launch.start import plain_config
from dreambooth.methods.method import Method, TermPrompts, Trained
from dreambooth.methods.prompt_only import PromptOnly
from dreambooth.methods.textual_inversion import TextualInversion
from dreambooth.methods.two_terms import TwoTermModule
from dreambooth.metrics.evaluation import PictureSets, evaluate
from dreambooth.runs.run import Run
from dreambooth.subjects.photos import from_uint8
from dreambooth.training.draws import TrainingDraws

CONF = str(Path(__file__).resolve().parents[1] / "conf")
NUM_IMAGES, NUM_DRAWS = 16, 320
WORD = "<subject>"
SCORES = ("identity", "dino", "clean", "copied")
TEXTUAL = ["method=textual_inversion"]
# The learning rate is the best of 0.01, 0.03 and 0.1 by the loss, on biscuit and comet.
OUTPUTS = [*TEXTUAL, "method.module.learning_rate=0.1", "method.module.cooldown_fraction=1"]
ROWS = {
    "description": ["method=prompt_only"],
    "one vector": TEXTUAL,
    "all vectors": TEXTUAL,
    "free outputs": OUTPUTS,
    "DreamBooth": ["method=dreambooth"],
}


class Outputs(nn.Module):
    """A prompt encoder in which one prompt has trainable outputs (24, width), first `like`'s.

    It takes the place of a stage's `PromptEncoder`.
    """

    def __init__(self, encoder: Any, prompt: str, like: str):
        super().__init__()
        self.encoder, self.prompt = encoder, prompt
        self.tokenizer, self.model = encoder.tokenizer, encoder.model
        self.outputs = nn.Parameter(encoder([like])[0].clone())

    def forward(self, prompts: Sequence[str], with_gradient: bool = False) -> Tensor:
        outputs = self.outputs if with_gradient else self.outputs.detach()
        return torch.stack([outputs if p == self.prompt else self.encoder([p])[0] for p in prompts])


@dataclass(frozen=True)
class FreeOutputs(TextualInversion):
    """A Method that trains the outputs of the prompt "a `token`", from those of "a `like`"."""

    def prepare(self, stage: Any) -> None:
        stage.denoiser.train().requires_grad_(False)
        stage.text_encoder.requires_grad_(False)
        stage.prompt_encoder = Outputs(stage.prompt_encoder, f"a {self.token}", f"a {self.like}")

    def trained(self, stage: Any) -> Trained:
        modules = {"denoiser": stage.denoiser, "outputs": stage.prompt_encoder}
        return Trained(modules, [{"params": [stage.prompt_encoder.outputs]}], changes_prompts=True)


def method_of(row: str, experiment: Experiment) -> Method:
    subject = experiment.subject
    if row == "all vectors":
        used = len(experiment.backbone.tokenizer("a").input_ids)
        room = experiment.backbone.tokenizer.model_max_length - used
        return TextualInversion(WORD, subject.class_noun, room)
    return FreeOutputs(WORD, subject.description) if row == "free outputs" else experiment.method


def train(experiment: Experiment, method: Method) -> None:
    tuning = replace(experiment.fine_tuning, method=method, subject=experiment.subject)
    if isinstance(method, FreeOutputs):  # super-resolution reads what they start from
        method.prepare(experiment.backbone.stages["sr"])
    if tuning.stages:
        prior = experiment.encode_prior("base")
        module = tuning.module(experiment.backbone.stages["base"])
        tuning.fit(module, tuning.trainer("base"), prior)


@torch.no_grad()
def loss(experiment: Experiment, photos: Any, prompt: str) -> float:
    """The subject term on photos under a prompt, a mean over `NUM_DRAWS` fixed draws."""
    stage, timesteps = experiment.backbone.stages["base"], experiment.fine_tuning.timesteps
    encoded, terms = stage.encode(photos(stage.resolution_px)), TermPrompts([prompt], [])
    weighting = experiment.run.config["method"]["module"]["weighting"]
    module = TwoTermModule(stage, PromptOnly(), terms, 0, 0, torch.optim.AdamW, weighting)
    fixed = encoded, None, stage.schedule, timesteps, NUM_DRAWS, -1, "base"
    draws = DataLoader(TrainingDraws(*fixed, lambda *_: {}), batch_size=80)
    return mean(module.calc_loss(batch["subject"], None).subject.item() for batch in draws)


def pictures(experiment: Experiment, prompt: str) -> list[Any]:
    jobs = [("a {}", prompt, i) for i in range(NUM_IMAGES)]
    return draw_pictures(experiment.backbone, jobs, experiment.drawing.sampling)


def measure(experiment: Experiment) -> list[float]:
    """The two losses, and `SCORES`."""
    subject, names = experiment.subject, experiment.names
    drawn = pictures(experiment, names.subject_prompt)
    sets = PictureSets(subject, names.identifier, drawn, [], in_text=names.in_text)
    metrics = evaluate(experiment.scorers, sets).metrics
    losses = [loss(experiment, p, names.subject_prompt) for p in (subject.photos, subject.held_out)]
    return [*losses, *(metrics[name].value for name in SCORES)]


def check_outputs(experiment: Experiment) -> str:
    """The losses on images of a caption: of it, of "a [class noun]" and of trained outputs."""
    caption = f"a {experiment.subject.description} in the snow"
    images = from_uint8(torch.stack([p.pixels for p in pictures(experiment, caption)]))
    photos = lambda size_px: F.adaptive_avg_pool2d(images, size_px)  # noqa: E731
    experiment = replace(experiment, subject=replace(experiment.subject, photos=photos))
    noun = experiment.subject.class_noun
    before = {text: loss(experiment, photos, text) for text in (caption, f"a {noun}")}
    train(experiment, FreeOutputs(WORD, noun))
    losses = before | {"trained outputs": loss(experiment, photos, f"a {WORD}")}
    told = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
    return f"loss on {len(images)} images of a caption: {told}"


def line(name: str, values: Sequence[float]) -> str:
    numbers = [f"{v:9.4f}" for v in values[:2]] + [f"{v:9.2f}" for v in values[2:]]
    return f"{name:24s}" + "".join(numbers)


def main(*settings: str) -> None:
    if chosen := [word for word in settings if word.startswith(("method=", "model="))]:
        raise ValueError(f"{chosen[0]}: this compares methods on the miniature, leave it out")
    parsed = OverridesParser.create().parse_overrides(list(settings))
    jobs = BasicSweeper.split_arguments(parsed, None)[0]
    own = ["logger=csv", "method.checkpoint_every=1000000"]
    plan = [(name, [*own, *of_row, *job]) for job in jobs for name, of_row in ROWS.items()]
    plan.append(("check", [*own, *OUTPUTS, *jobs[0]]))
    check, configs = config_checker(), [plain_config(compose("train", w), w) for _, w in plan]
    for config in configs:
        check(config)
    print(" " * 24 + "".join(f"{name:>9s}" for name in ("loss", "unseen", *SCORES)))
    found: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for i, ((name, _), config) in enumerate(zip(plan, configs, strict=True)):
            experiment = assemble(Run.create(Path(folder) / str(i), config))
            if name == "check":
                last = check_outputs(experiment)
                continue
            train(experiment, method_of(name, experiment))
            found.setdefault(name, []).append(measure(experiment))
            print(line(f"{experiment.subject.name} {name}", found[name][-1]), flush=True)
    for name, rows in found.items():
        print(line(f"mean of {len(jobs)}, {name}", np.mean(rows, 0)))
    print(last)


if __name__ == "__main__":
    with initialize_config_dir(CONF, version_base="1.3"):
        try:
            main(*(sys.argv[1:] or ["subject=biscuit,comet"]))
        except (ValueError, HydraException) as error:
            raise SystemExit(str(error)) from error
