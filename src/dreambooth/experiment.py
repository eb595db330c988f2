"""One DreamBooth run, from photos to scores; each step reads and writes the run folder."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from dreambooth.backbones.stage import Backbone, Encoded
from dreambooth.callbacks.checkpoints import AtomicCheckpoints
from dreambooth.evaluation import Scorer, evaluate, told
from dreambooth.loggers import History, publish
from dreambooth.module import DreamBooth
from dreambooth.provenance import timed
from dreambooth.run import Metric, Picture, Run
from dreambooth.sampling import Sampler
from dreambooth.subjects.draws import TrainingDraws
from dreambooth.subjects.prior import key_digest, prior_images
from dreambooth.subjects.prompts import class_prompt, subject_phrase
from dreambooth.subjects.subject import Subject

log = logging.getLogger(__name__)

_NUM_BEFORE = 8


@dataclass(frozen=True)
class Names:
    """The words of a run."""

    identifier: str
    class_noun: str | None  # of the subject prompt
    prior_noun: str  # of the class prompt; the true class where the subject prompt has no noun

    @property
    def subject(self) -> str:
        return subject_phrase(self.identifier, self.class_noun)

    @property
    def subject_prompt(self) -> str:
        return f"a {self.subject}"

    @property
    def class_prompt(self) -> str:
        return class_prompt(self.prior_noun)


@dataclass(frozen=True)
class Prior:
    """The prior term: lambda, its images and where they are kept.

    In a share `caption_dropout` (0 <= share < 1) of it the prompt is empty, as in the pretraining
    of a model with classifier-free guidance. Without that, the empty prompt, which guidance leads
    away from, comes to draw the subject too, and guidance then leads away from the subject.
    """

    weight: float
    num_images: int
    cache: Path
    caption_dropout: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.caption_dropout, int | float) or not 0 <= self.caption_dropout < 1:
            raise ValueError(
                f"prior.caption_dropout={self.caption_dropout}: give a share from 0 to below 1"
            )
        if self.weight:
            check_count("prior.num_images", self.num_images)


@dataclass(frozen=True)
class Drawing:
    """What is drawn once the model is trained."""

    images_per_prompt: int
    num_class_images: int

    def __post_init__(self) -> None:
        check_count("drawing.images_per_prompt", self.images_per_prompt)
        check_count("drawing.num_class_images", self.num_class_images)


@dataclass(frozen=True)
class Training:
    """How one stage is fine-tuned."""

    module: Callable[..., DreamBooth]  # of a stage, its two conditions and lambda
    max_steps: int
    batch_size: int
    group: str = "method"  # of the config

    def __post_init__(self) -> None:
        check_count(f"{self.group}.max_steps", self.max_steps)
        check_count(f"{self.group}.batch_size", self.batch_size)


@dataclass(frozen=True)
class SuperResolution:
    """How pictures are enlarged: by the SR stage or plainly."""

    enabled: bool
    noise_level: float | None  # told and applied when pictures are drawn; None: the model's own


@dataclass
class Experiment:
    """Everything that a run needs, built and checked; see `assemble`."""

    run: Run
    subject: Subject
    names: Names
    backbone: Backbone
    prior: Prior
    prior_sampling: Mapping[str, Sampler]
    sampling: Mapping[str, Sampler]
    drawing: Drawing
    super_resolution: SuperResolution
    training: Mapping[str, Training]  # of the stages that are fine-tuned, in this order
    trainer: Callable[..., L.Trainer]  # of its callbacks and its loggers
    callbacks: Callable[[], Sequence[L.Callback]]  # anew for each stage
    logger: Any
    scorers: Sequence[Scorer]
    seed: int
    device: torch.device  # where pictures are drawn
    base_weights: Mapping[str, Tensor] | None = None  # of a run whose base stage is taken over

    def encode_prior(self, stage_name: str) -> Encoded | None:
        """Samples of the frozen model under the class prompt, from the cache where they are there;
        None if lambda is 0."""
        if self.prior.weight == 0:
            return None
        stage, sampler = self.backbone.stages[stage_name], self.prior_sampling[stage_name]
        key: dict[str, str | int | float] = {
            "model": self.backbone.fingerprint(),
            "stage": stage_name,
            "prompt": self.names.class_prompt,
            "sampler": sampler.name,
            "steps": sampler.num_steps,
            "guidance": sampler.guidance_scale,
            "resolution_px": stage.resolution_px,
        }
        if stage_name != "base":  # its pictures follow from the stage before it too
            before = self.prior_sampling["base"]
            key["base"] = f"{before.name} {before.num_steps} {before.guidance_scale:g}"
        digest = key_digest(key)
        to_device(self.backbone, self.device)

        def make(indices: list[int]) -> Any:
            keys: list[tuple] = [("prior", digest, i) for i in indices]
            prompts = [self.names.class_prompt] * len(indices)
            images = self.backbone.generate(
                prompts, keys, self.prior_sampling, last_stage=stage_name
            )
            return images.permute(0, 2, 3, 1).numpy()

        found = prior_images(self.prior.cache, key, self.prior.num_images, make, batch_size=16)
        log.info(
            "prior images: %d of %r (%d made now)",
            len(found.images),
            self.names.class_prompt,
            found.made,
        )
        images = torch.from_numpy(found.images).permute(0, 3, 1, 2).float() / 127.5 - 1
        return stage.encode(images)

    def train(self) -> None:
        """Fine-tune the stages, one after the other, and save the model."""
        # These first: they refuse what they cannot do, and prior images take long.
        modules = {name: self._module(name, how) for name, how in self.training.items()}
        history = History(self.run)
        trainers = {name: self._trainer(how, history) for name, how in self.training.items()}
        self.run.write_names(asdict(self.names))
        self.run.save_images("photos", self._photos(self.subject.photos))
        # All of them of the frozen model, and now: training changes it.
        with timed(self.run, "prior_images"):
            prior = {name: self.encode_prior(name) for name in self.training}
        self.backbone.set_super_resolution(*astuple(self.super_resolution))
        self._draw_before()
        if self.base_weights is not None:
            self.backbone.stages["base"].denoiser.load_state_dict(self.base_weights)
        for name, how in self.training.items():
            stage = self.backbone.stages[name]
            draws = TrainingDraws(
                stage.encode(self.subject.photos(stage.resolution_px)),
                prior[name],
                stage.schedule.num_timesteps,
                how.max_steps * how.batch_size,
                self.seed,
                name,
                stage.added_condition,
                self.prior.caption_dropout,
            )
            started = time.monotonic()
            trainers[name].fit(modules[name], DataLoader(draws, batch_size=how.batch_size))
            seconds = time.monotonic() - started
            log.info(
                "%s: %d steps in %.1f s: %.1f ms a step",
                name,
                how.max_steps,
                seconds,
                1e3 * seconds / how.max_steps,
            )
        self.backbone.save(self.run.weights)

    def _module(self, stage_name: str, how: Training) -> DreamBooth:
        stage = self.backbone.stages[stage_name]
        with_prior = self.prior.weight != 0
        module = how.module(
            stage=stage,
            subject_condition=stage.condition([self.names.subject_prompt]),
            prior_condition=stage.condition([self.names.class_prompt, ""]) if with_prior else None,
            prior_weight=self.prior.weight,
        )
        steps = {name: other.max_steps for name, other in self.training.items()}
        names = list(steps)
        before = sum(steps[name] for name in names[: names.index(stage_name)])
        module.share = (before / sum(steps.values()), how.max_steps / sum(steps.values()))
        return module

    def _trainer(self, how: Training, history: History) -> L.Trainer:
        return self.trainer(
            callbacks=list(self.callbacks()),
            logger=[self.logger, history],
            max_steps=how.max_steps,
            plugins=[AtomicCheckpoints()],
        )

    def _photos(self, photos: Callable[[int], Tensor]) -> list[Picture]:
        """At the resolution of the last stage."""
        resolution_px = list(self.backbone.stages.values())[-1].resolution_px
        return pictures_of(photos(resolution_px), self.names.subject_prompt)

    def _draw_before(self) -> None:
        """The first pictures of the class prompt by the model as it was pretrained, from the same
        noise as those after training: what the class meant before."""
        count = min(_NUM_BEFORE, self.drawing.num_class_images)
        jobs = [("a {}", self.names.class_prompt, i) for i in range(count)]
        backbone = to_device(self.backbone, self.device)
        self.run.save_images("before", draw_pictures(backbone, jobs, self.sampling))

    def draw(self) -> None:
        """The subject under every prompt of its set, and the class under its own prompt."""
        jobs = [
            ("prompts", template, template.format(self.names.subject), i)
            for template in self.subject.prompts
            for i in range(self.drawing.images_per_prompt)
        ]
        template, prompt = "a {}", self.names.class_prompt
        jobs += [("class", template, prompt, i) for i in range(self.drawing.num_class_images)]
        to_device(self.backbone, self.device)
        log.info("drawing %d pictures", len(jobs))
        images = draw_pictures(self.backbone, [(t, p, i) for _, t, p, i in jobs], self.sampling)
        for image_set in ("prompts", "class"):
            chosen = [p for p, job in zip(images, jobs, strict=True) if job[0] == image_set]
            self.run.save_images(image_set, chosen)
        if "sr" in self.backbone.stages:
            self._restore()

    def _restore(self) -> None:
        """Photos of the subject, if possible not those of the training, shrunk to the base stage's
        resolution and enlarged again: what super-resolution does to a known truth."""
        photos = self.subject.held_out or self.subject.photos
        self.run.save_images("originals", self._photos(photos))
        originals = self.run.read_images("originals")
        low = self.backbone.stages["base"].resolution_px
        pixels = torch.stack([p.pixels for p in originals]).float() / 127.5 - 1
        images = self.backbone.super_resolve(
            F.adaptive_avg_pool2d(pixels, low),
            [p.prompt for p in originals],
            [("restored", p.index) for p in originals],
            self.sampling,
        )
        found = zip(images, originals, strict=True)
        self.run.save_images("restored", [replace(p, pixels=image) for image, p in found])

    def score(self) -> dict[str, Metric]:
        """scores.csv and metrics.json of what `draw` has drawn."""
        prompts, of_class = self.run.read_images("prompts"), self.run.read_images("class")
        pairs = ("restored", "originals") if "sr" in self.backbone.stages else ()
        enlarged = [self.run.read_images(name) for name in pairs]
        rows, metrics = evaluate(
            self.scorers,
            self.subject,
            self.names.identifier,
            prompts,
            of_class,
            self.seed,
            *enlarged,
        )
        self.run.write_scores(rows)
        self.run.write_metrics(metrics)
        restored = enlarged[0] if enlarged else []
        publish(self.logger, metrics, rows, [*prompts, *of_class, *restored])
        log.info("scores: %s", told(metrics) or "none (metrics=none)")
        return metrics


def to_device(backbone: Backbone, device: torch.device) -> Backbone:
    """All stages: Lightning moves the one it trains only, and takes it back to the CPU."""
    for stage in backbone.stages.values():
        stage.denoiser.to(device)
    return backbone


def draw_pictures(
    backbone: Backbone, jobs: Sequence[tuple[str, str, int]], sampling: Mapping[str, Sampler]
) -> list[Picture]:
    """Pictures of (template, prompt, index). The noise follows from template and index alone, so
    that all runs of a sweep, whatever they call the subject, are compared on the same noise."""
    keys: list[tuple] = [("image", template, index) for template, _, index in jobs]
    images: Tensor = backbone.generate([prompt for _, prompt, _ in jobs], keys, sampling)
    return [
        Picture(image, prompt, index, template)
        for image, (template, prompt, index) in zip(images, jobs, strict=True)
    ]


def pictures_of(images: Tensor, prompt: str) -> list[Picture]:
    """Images [-1, 1] (N, 3, H, W) as pictures of a prompt."""
    pixels = ((images + 1) * 127.5).round().to(torch.uint8)
    return [Picture(image, prompt, index) for index, image in enumerate(pixels)]


def check_count(key: str, value: Any) -> None:
    """ValueError unless it is a whole number from 1 up."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{key}={value}: give a whole number from 1 up")
