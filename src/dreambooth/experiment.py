"""One DreamBooth run, from photos to scores. Each step reads and writes the run folder."""

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
from dreambooth.distributed.preemption import stop_if_asked
from dreambooth.distributed.ranks import batches, map_over_ranks, num_ranks, on_rank_zero, rank
from dreambooth.methods.method import Method
from dreambooth.methods.two_terms import TwoTermModule
from dreambooth.metrics.evaluation import PictureSets, Scorer, evaluate, summary_line
from dreambooth.runs.files import whole_folder
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

_NUM_IMAGES_BEFORE = 8  # class images drawn by the pretrained model, for comparison


@dataclass
class Experiment:
    """The parts of a run, built and checked by `assemble`, and its three steps: `train`, `draw` and
    `score`."""

    run: Run
    subject: Subject
    names: PromptNames
    backbone: Backbone
    method: Method
    prior: Prior
    prior_sampling: Sampling
    sampling: Sampling  # for all images but the prior images
    drawing: Drawing
    sr: SuperResolution
    training: Mapping[str, Training]  # the stages to fine-tune, in this order
    timesteps: TimestepDistribution
    ema_decay: float | None  # if given, the moving average of the weights is saved
    trainer: Callable[..., L.Trainer]  # called with callbacks, loggers and max_steps
    callbacks: Callable[[str], Sequence[L.Callback]]  # called with the stage's name
    loggers: Sequence[Logger]
    scorers: Sequence[Scorer]
    seed: int
    device: torch.device  # the device that draws images
    base_state: Mapping[str, Tensor] | None = None  # the trained base stage of an earlier run

    def encode_prior(self, stage_name: str) -> Encoded | None:
        """The prior images, encoded for a stage; None if lambda is 0.

        They are samples of the frozen model under the class prompt. Those that the cache lacks are
        drawn now.
        """
        if self.prior.weight == 0:
            return None
        stage = self.backbone.stages[stage_name]
        sampler = self.prior_sampling.samplers[stage_name]
        cache_key: dict[str, str | int | float] = {
            "model": self.backbone.fingerprint(),
            "stage": stage_name,
            "prompt": self.names.class_prompt,
            "sampler": sampler.name,
            "steps": sampler.num_steps,
            "guidance": sampler.guidance_scale,
            "resolution_px": stage.resolution_px,
        }
        if stage_name != "base":  # these images depend on the base stage's sampler too
            base = self.prior_sampling.samplers["base"]
            cache_key["base"] = f"{base.name} {base.num_steps} {base.guidance_scale:g}"
        digest = key_digest(cache_key)
        to_device(self.backbone, self.device)

        def make(indices: list[int]) -> Any:
            noise_keys: list[tuple] = [("prior", digest, i) for i in indices]
            prompts = [self.names.class_prompt] * len(indices)
            sampling = replace(self.prior_sampling, last_stage=stage_name)
            images = self.backbone.generate(prompts, noise_keys, sampling)
            return images.permute(0, 2, 3, 1).numpy()

        prior = prior_images(
            self.prior.cache, cache_key, self.prior.num_images, make, batch_size=16
        )
        log.info(
            "prior images: %d of %r (%d made now)",
            len(prior.images),
            self.names.class_prompt,
            prior.made,
        )
        images = from_uint8(torch.from_numpy(prior.images).permute(0, 3, 1, 2))
        return stage.encode(images)

    def train(self) -> None:
        """Fine-tune the stages, one after the other, and save the model.

        A run that is started again loads the stages that it has trained, and resumes the training
        of the next one from its newest checkpoint.
        """
        states = {name: read_trained(self.run, name) for name in self.training}
        untrained = {name: t for name, t in self.training.items() if states[name] is None}
        # Built first, because they may raise ValueError and prior images take long.
        modules = {name: self._module(name, training) for name, training in untrained.items()}
        trainers = {name: self._trainer(name, training) for name, training in untrained.items()}
        on_rank_zero(lambda: self.run.write_names(asdict(self.names)))
        photos = self._photos(self.subject.photos)
        on_rank_zero(lambda: self.run.save_images("photos", photos))
        # The prior images of all stages, before training changes the model.
        with timed(self.run, "prior_images"):
            prior = {name: self.encode_prior(name) for name in untrained}
        num_before = min(_NUM_IMAGES_BEFORE, self.drawing.num_class_images)
        self.draw_missing(self._class_jobs("before", num_before))
        if self.base_state is not None:
            self.method.load_state(self.backbone.stages["base"], self.base_state)
        for name, state in states.items():
            stage = self.backbone.stages[name]
            if state is None:
                self._fit(modules[name], trainers[name], prior[name], untrained[name].batch_size)
                on_rank_zero(partial(save_trained, self.run, name, self.method.state(stage)))
                stop_if_asked()
            else:
                log.info("%s: already trained", name)
                self.method.load_state(stage, state)
        on_rank_zero(self._save)

    def _save(self) -> None:
        if not self.run.weights.exists():
            with whole_folder(self.run.weights) as folder:
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
        batch_sampler = Batches(steps, batch_size, lambda: module.global_step, rank(), num_ranks())
        checkpoint = newest_checkpoint(self.run, stage.name)
        if checkpoint is not None:
            log.info("%s: resuming from %s", stage.name, checkpoint)
        started = time.monotonic()
        loader = DataLoader(draws, batch_sampler=batch_sampler)
        trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
        log.info("%s: %d steps in %.1f s", stage.name, steps, time.monotonic() - started)

    def _module(self, stage_name: str, training: Training) -> TwoTermModule:
        names, steps = list(self.training), [t.max_steps for t in self.training.values()]
        module: TwoTermModule = training.module(
            stage=self.backbone.stages[stage_name],
            method=self.method,
            prompts=self.method.prompts(self.names),
            prior_weight=self.prior.weight,
            steps_before=sum(steps[: names.index(stage_name)]) / sum(steps),
            steps_here=training.max_steps / sum(steps),
        )
        return module

    def _trainer(self, stage_name: str, training: Training) -> L.Trainer:
        callbacks = [*self.callbacks(stage_name)]
        if self.ema_decay is not None:
            # Before score_curves, which draws with the averaged weights.
            callbacks.insert(0, EMAWeightAveraging(decay=self.ema_decay))
        return self.trainer(
            callbacks=callbacks,
            logger=self.loggers,
            max_steps=training.max_steps,
            # The environment is explicit: inside a SLURM allocation, Lightning would otherwise
            # assume that SLURM has started this process as one of its tasks.
            plugins=[
                AtomicCheckpoints(),
                TorchElasticEnvironment() if num_ranks() > 1 else LightningEnvironment(),
            ],
            use_distributed_sampler=False,  # Batches divides each batch over the ranks
        )

    def _photos(self, photos: Callable[[int], Tensor]) -> list[Picture]:
        """Photos of the subject as pictures, at the resolution of the last stage."""
        resolution_px = list(self.backbone.stages.values())[-1].resolution_px
        return pictures_of(photos(resolution_px), self.names.subject_prompt)

    def draw(self) -> None:
        """Draw the subject under each of its prompts, and the class under the class prompt.

        Pictures that the run folder has are not drawn again.
        """
        jobs = [
            ("prompts", template, template.format(self.names.subject), i)
            for template in self.subject.prompts
            for i in range(self.drawing.images_per_prompt)
        ]
        self.draw_missing(jobs + self._class_jobs("class", self.drawing.num_class_images))
        if "sr" in self.backbone.stages:
            stop_if_asked()
            on_rank_zero(self._restore_originals)

    def _class_jobs(self, image_set: str, count: int) -> list[tuple[str, str, str, int]]:
        return [(image_set, "a {}", self.names.class_prompt, i) for i in range(count)]

    def draw_missing(self, jobs: Sequence[tuple[str, str, str, int]]) -> None:
        """Draw the pictures (image set, template, prompt, index) that the run folder lacks.

        The ranks draw one batch each at a time, and rank 0 saves the pictures. A batch with a
        missing picture is drawn as a whole, since the bits of an image may depend on the size of
        its batch.
        """
        to_device(self.backbone, self.device)
        all_batches = batches(jobs, self.backbone.batch_size)
        unfinished = on_rank_zero(
            lambda: [batch for batch in all_batches if not all(map(self._is_drawn, batch))]
        )
        log.info("drawing %d of %d pictures", sum(map(len, unfinished)), len(jobs))
        for batch_per_rank in batches(unfinished, num_ranks()):
            stop_if_asked()
            chunk = [job for batch in batch_per_rank for job in batch]
            pictures = draw_pictures(self.backbone, [job[1:] for job in chunk], self.sampling)
            on_rank_zero(partial(self._save_drawn, chunk, pictures))

    def _save_drawn(
        self, jobs: Sequence[tuple[str, str, str, int]], pictures: Sequence[Picture]
    ) -> None:
        for image_set in dict.fromkeys(job[0] for job in jobs):
            of_set = [p for p, job in zip(pictures, jobs, strict=True) if job[0] == image_set]
            self.run.save_images(image_set, of_set)

    def _is_drawn(self, job: tuple[str, str, str, int]) -> bool:
        image_set, template, prompt, index = job
        return self.run.has_image(image_set, prompt, index, template)

    def _restore_originals(self) -> None:
        """Shrink photos of the subject to the base stage's resolution, and restore them with the SR
        stage, to compare the result with the originals.

        The photos are held-out ones if the subject has any, else the training photos.
        """
        photos = self.subject.held_out or self.subject.photos
        self.run.save_images("originals", self._photos(photos))
        originals = self.run.read_images("originals")
        if all(self._is_drawn(("restored", p.template, p.prompt, p.index)) for p in originals):
            return
        low_resolution_px = self.backbone.stages["base"].resolution_px
        images = from_uint8(torch.stack([p.pixels for p in originals]))
        restored = self.backbone.super_resolve(
            F.adaptive_avg_pool2d(images, low_resolution_px),
            [p.prompt for p in originals],
            [("restored", p.index) for p in originals],
            self.sampling,
        )
        pairs = zip(originals, restored, strict=True)
        self.run.save_images("restored", [replace(p, pixels=pixels) for p, pixels in pairs])

    def score(self) -> dict[str, Metric]:
        """Score the pictures that `draw` has drawn; write scores.csv and metrics.json."""
        sr_sets = ("restored", "originals") if "sr" in self.backbone.stages else ()
        pictures = [self.run.read_images(name) for name in ("prompts", "class", *sr_sets)]
        sets = PictureSets(self.subject, self.names.identifier, *pictures)
        scores = evaluate(self.scorers, sets, self.seed)

        def write_and_publish() -> None:
            self.run.write_scores(scores.rows)
            self.run.write_metrics(scores.metrics)
            publish(self.loggers, scores.metrics, scores.rows, sets.scored)

        on_rank_zero(write_and_publish)
        log.info("scores: %s", summary_line(scores.metrics) or "none (metrics=none)")
        return scores.metrics


def to_device(backbone: Backbone, device: torch.device) -> Backbone:
    """Move all stages to a device.

    Lightning moves only the stage that it trains, and moves it back to the CPU afterwards.
    """
    for stage in backbone.stages.values():
        stage.denoiser.to(device)
    return backbone


def draw_pictures(
    backbone: Backbone, jobs: Sequence[tuple[str, str, int]], sampling: Sampling
) -> list[Picture]:
    """Draw one picture for each (template, prompt, index).

    The noise follows from template and index alone: all runs of a sweep, whatever they call the
    subject, are compared on the same noise. The ranks share the batches, and each returns all
    pictures.
    """

    def draw_batch(batch: Sequence[tuple[str, str, int]]) -> Tensor:
        noise_keys: list[tuple] = [("image", template, index) for template, _, index in batch]
        return backbone.generate([prompt for _, prompt, _ in batch], noise_keys, sampling)

    drawn_batches = map_over_ranks(draw_batch, batches(jobs, backbone.batch_size))
    images = [image for drawn in drawn_batches for image in drawn]
    return [
        Picture(image, prompt, index, template)
        for image, (template, prompt, index) in zip(images, jobs, strict=True)
    ]


def pictures_of(images: Tensor, prompt: str) -> list[Picture]:
    """Turn images [-1, 1] (N, 3, H, W) into pictures of one prompt."""
    return [Picture(image, prompt, index) for index, image in enumerate(to_uint8(images))]
