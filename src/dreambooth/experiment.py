"""One DreamBooth run, from photos to scores; each step reads and writes the run folder."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.utils.data import DataLoader

from dreambooth.backbones.stage import Backbone, Encoded, Sampling
from dreambooth.distributed.preemption import stop_if_requested
from dreambooth.distributed.ranks import batches, map_over_ranks, num_ranks, on_rank_zero, rank
from dreambooth.methods.method import Method
from dreambooth.methods.two_terms import TwoTermModule
from dreambooth.metrics.evaluation import PictureSets, Scorer, evaluate, summary_line
from dreambooth.runs.files import atomic_folder
from dreambooth.runs.pictures import Picture
from dreambooth.runs.prior_cache import key_digest, prior_images
from dreambooth.runs.provenance import timed
from dreambooth.runs.records import Metric
from dreambooth.runs.run import Run
from dreambooth.runs.settings import Drawing, Prior, SuperResolution, Training
from dreambooth.schedules import TimestepDistribution
from dreambooth.subjects.photos import from_uint8, to_uint8
from dreambooth.subjects.prompts import PromptNames
from dreambooth.subjects.subject import Subject
from dreambooth.training.checkpoints import (
    AtomicCheckpoints,
    newest_checkpoint,
    read_trained,
    save_trained,
)
from dreambooth.training.draws import Batches, TrainingDraws
from dreambooth.training.loggers import publish

log = logging.getLogger(__name__)

_NUM_BEFORE = 8  # pictures of the class by the model as it was pretrained


@dataclass
class Experiment:
    """Everything that a run needs, built and checked; see `assemble`."""

    run: Run
    subject: Subject
    names: PromptNames
    backbone: Backbone
    method: Method
    prior: Prior
    prior_sampling: Sampling
    sampling: Sampling  # of all other pictures
    drawing: Drawing
    sr: SuperResolution
    training: Mapping[str, Training]  # of the stages that are fine-tuned, in this order
    timesteps: TimestepDistribution
    ema_decay: float | None  # of a moving average of the weights, which is what is kept
    trainer: Callable[..., L.Trainer]  # of its callbacks and its loggers
    callbacks: Callable[[str], Sequence[L.Callback]]  # of the stage that is trained
    loggers: Sequence[Logger]
    scorers: Sequence[Scorer]
    seed: int
    device: torch.device  # where pictures are drawn
    base_state: Mapping[str, Tensor] | None = None  # of a run whose base stage is taken over

    def encode_prior(self, stage_name: str) -> Encoded | None:
        """Samples of the frozen model under the class prompt, from the cache where they are there;
        None if lambda is 0."""
        if self.prior.weight == 0:
            return None
        stage = self.backbone.stages[stage_name]
        sampler = self.prior_sampling.samplers[stage_name]
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
            before = self.prior_sampling.samplers["base"]
            key["base"] = f"{before.name} {before.num_steps} {before.guidance_scale:g}"
        digest = key_digest(key)
        to_device(self.backbone, self.device)

        def make(indices: list[int]) -> Any:
            keys: list[tuple] = [("prior", digest, i) for i in indices]
            prompts = [self.names.class_prompt] * len(indices)
            sampling = replace(self.prior_sampling, last_stage=stage_name)
            images = self.backbone.generate(prompts, keys, sampling)
            return images.permute(0, 2, 3, 1).numpy()

        found = prior_images(self.prior.cache, key, self.prior.num_images, make, batch_size=16)
        log.info(
            "prior images: %d of %r (%d made now)",
            len(found.images),
            self.names.class_prompt,
            found.made,
        )
        images = from_uint8(torch.from_numpy(found.images).permute(0, 3, 1, 2))
        return stage.encode(images)

    def train(self) -> None:
        """Fine-tune the stages, one after the other, and save the model.

        What an earlier start of this run has done is taken over: weights of trained stages, and the
        newest checkpoint of one that is not.
        """
        trained = {name: read_trained(self.run, name) for name in self.training}
        left = {name: how for name, how in self.training.items() if trained[name] is None}
        # These first: they refuse what they cannot do, and prior images take long.
        modules = {name: self._module(name, how) for name, how in left.items()}
        trainers = {name: self._trainer(name, how) for name, how in left.items()}
        on_rank_zero(lambda: self.run.write_names(asdict(self.names)))
        photos = self._photos(self.subject.photos)
        on_rank_zero(lambda: self.run.save_images("photos", photos))
        # All of them of the frozen model, and now: training changes it.
        with timed(self.run, "prior_images"):
            prior = {name: self.encode_prior(name) for name in left}
        self.draw_missing(
            self._class_jobs("before", min(_NUM_BEFORE, self.drawing.num_class_images))
        )
        if self.base_state is not None:
            self.method.load_state(self.backbone.stages["base"], self.base_state)
        for name, state in trained.items():
            stage = self.backbone.stages[name]
            if state is None:
                self._fit(modules[name], trainers[name], prior[name], left[name].batch_size)
                on_rank_zero(partial(save_trained, self.run, name, self.method.state(stage)))
                stop_if_requested()
            else:
                log.info("%s: trained already", name)
                self.method.load_state(stage, state)
        on_rank_zero(self._save)

    def _save(self) -> None:
        if not self.run.weights.exists():
            with atomic_folder(self.run.weights) as folder:
                folder.mkdir()
                self.method.save(self.backbone, folder)

    def _fit(
        self, module: TwoTermModule, trainer: L.Trainer, prior: Encoded | None, batch_size: int
    ) -> None:
        stage, steps = module.stage, trainer.max_steps
        draws = TrainingDraws(
            stage.encode(self.subject.photos(stage.resolution_px)),
            prior,
            stage.schedule,
            self.timesteps,
            steps * batch_size,
            self.seed,
            stage.name,
            partial(stage.added_condition, noise_level=self.sr.noise_level),
            self.prior.caption_dropout,
        )
        of_steps = Batches(steps, batch_size, lambda: module.global_step, rank(), num_ranks())
        checkpoint = newest_checkpoint(self.run, stage.name)
        if checkpoint is not None:
            log.info("%s: going on from %s", stage.name, checkpoint)
        started = time.monotonic()
        loader = DataLoader(draws, batch_sampler=of_steps)
        trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
        log.info("%s: %d steps, in %.1f s", stage.name, steps, time.monotonic() - started)

    def _module(self, stage_name: str, how: Training) -> TwoTermModule:
        names, steps = list(self.training), [one.max_steps for one in self.training.values()]
        module: TwoTermModule = how.module(
            stage=self.backbone.stages[stage_name],
            method=self.method,
            prompts=self.method.prompts(self.names),
            prior_weight=self.prior.weight,
            steps_before=sum(steps[: names.index(stage_name)]) / sum(steps),
            steps_here=how.max_steps / sum(steps),
        )
        return module

    def _trainer(self, stage_name: str, how: Training) -> L.Trainer:
        callbacks = [*self.callbacks(stage_name)]
        if self.ema_decay is not None:
            callbacks.insert(0, EMAWeightAveraging(decay=self.ema_decay))  # score_curves draws it
        return self.trainer(
            callbacks=callbacks,
            logger=self.loggers,
            max_steps=how.max_steps,
            # Said, since Lightning else takes an allocation of SLURM that it is started in for
            # one that has started it.
            plugins=[
                AtomicCheckpoints(),
                TorchElasticEnvironment() if num_ranks() > 1 else LightningEnvironment(),
            ],
            use_distributed_sampler=False,  # the loader's batches are each rank's own
        )

    def _photos(self, photos: Callable[[int], Tensor]) -> list[Picture]:
        """At the resolution of the last stage."""
        resolution_px = list(self.backbone.stages.values())[-1].resolution_px
        return pictures_of(photos(resolution_px), self.names.subject_prompt)

    def draw(self) -> None:
        """The subject under every prompt of its set, and the class under its own prompt; of what is
        there already, nothing."""
        jobs = [
            ("prompts", template, template.format(self.names.subject), i)
            for template in self.subject.prompts
            for i in range(self.drawing.images_per_prompt)
        ]
        self.draw_missing(jobs + self._class_jobs("class", self.drawing.num_class_images))
        if "sr" in self.backbone.stages:
            stop_if_requested()
            on_rank_zero(self._restore)

    def _class_jobs(self, image_set: str, count: int) -> list[tuple[str, str, str, int]]:
        return [(image_set, "a {}", self.names.class_prompt, i) for i in range(count)]

    def draw_missing(self, jobs: Sequence[tuple[str, str, str, int]]) -> None:
        """Pictures of (image set, template, prompt, index), saved batch by batch, or as many
        batches as there are ranks. A batch of which a picture is missing is drawn as a whole: its
        size may be in the bits."""
        to_device(self.backbone, self.device)
        every = batches(jobs, self.backbone.batch_size)
        left = on_rank_zero(lambda: [b for b in every if not all(map(self._is_drawn, b))])
        log.info("drawing %d pictures of %d", sum(map(len, left)), len(jobs))
        for at_once in batches(left, num_ranks()):
            stop_if_requested()
            some = [job for batch in at_once for job in batch]
            images = draw_pictures(self.backbone, [job[1:] for job in some], self.sampling)
            on_rank_zero(partial(self._save_drawn, some, images))

    def _save_drawn(
        self, jobs: Sequence[tuple[str, str, str, int]], pictures: Sequence[Picture]
    ) -> None:
        for image_set in dict.fromkeys(job[0] for job in jobs):
            chosen = [p for p, job in zip(pictures, jobs, strict=True) if job[0] == image_set]
            self.run.save_images(image_set, chosen)

    def _is_drawn(self, job: tuple[str, str, str, int]) -> bool:
        image_set, template, prompt, index = job
        return self.run.has_image(image_set, prompt, index, template)

    def _restore(self) -> None:
        """Photos of the subject, if possible not those of the training, shrunk to the base stage's
        resolution and enlarged again: what super-resolution does to a known truth."""
        photos = self.subject.held_out or self.subject.photos
        self.run.save_images("originals", self._photos(photos))
        originals = self.run.read_images("originals")
        if all(self._is_drawn(("restored", p.template, p.prompt, p.index)) for p in originals):
            return
        low = self.backbone.stages["base"].resolution_px
        pixels = from_uint8(torch.stack([p.pixels for p in originals]))
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
        pairs = ("restored", "originals") if "sr" in self.backbone.stages else ()
        pictures = [self.run.read_images(name) for name in ("prompts", "class", *pairs)]
        sets = PictureSets(self.subject, self.names.identifier, *pictures)
        scores = evaluate(self.scorers, sets, self.seed)

        def write() -> None:
            self.run.write_scores(scores.rows)
            self.run.write_metrics(scores.metrics)
            publish(self.loggers, scores.metrics, scores.rows, sets.scored)

        on_rank_zero(write)
        log.info("scores: %s", summary_line(scores.metrics) or "none (metrics=none)")
        return scores.metrics


def to_device(backbone: Backbone, device: torch.device) -> Backbone:
    """All stages: Lightning moves the one it trains only, and takes it back to the CPU."""
    for stage in backbone.stages.values():
        stage.denoiser.to(device)
    return backbone


def draw_pictures(
    backbone: Backbone, jobs: Sequence[tuple[str, str, int]], sampling: Sampling
) -> list[Picture]:
    """Pictures of (template, prompt, index). The noise follows from template and index alone, so
    that all runs of a sweep, whatever they call the subject, are compared on the same noise. Each
    batch is drawn by one rank; all get all."""

    def draw(batch: Sequence[tuple[str, str, int]]) -> Tensor:
        keys: list[tuple] = [("image", template, index) for template, _, index in batch]
        return backbone.generate([prompt for _, prompt, _ in batch], keys, sampling)

    images = [
        image
        for drawn in map_over_ranks(draw, batches(jobs, backbone.batch_size))
        for image in drawn
    ]
    return [
        Picture(image, prompt, index, template)
        for image, (template, prompt, index) in zip(images, jobs, strict=True)
    ]


def pictures_of(images: Tensor, prompt: str) -> list[Picture]:
    """Images [-1, 1] (N, 3, H, W) as pictures of a prompt."""
    return [Picture(image, prompt, index) for index, image in enumerate(to_uint8(images))]
