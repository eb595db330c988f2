"""One DreamBooth run, from photos to scores; each step reads and writes the run folder."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from lightning import Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor

from dreambooth.backbones.drawing import Drawing, Job, pictures_of, release, to_device
from dreambooth.backbones.parity import check_parity
from dreambooth.backbones.stage import Backbone, Encoded, Sampling
from dreambooth.distributed.preemption import stop_if_requested
from dreambooth.distributed.ranks import num_ranks, on_rank_zero
from dreambooth.methods.fine_tuning import FineTuning
from dreambooth.methods.memory import report_memory, what_to_try
from dreambooth.methods.method import Method
from dreambooth.methods.prior import encode_prior
from dreambooth.methods.two_terms import TwoTermModule
from dreambooth.metrics.evaluation import PictureSets, Scorer, evaluate, summary_line
from dreambooth.runs.pictures import Picture
from dreambooth.runs.provenance import record_costs, timed
from dreambooth.runs.records import Metric
from dreambooth.runs.run import Run
from dreambooth.runs.settings import DrawingSettings, Prior
from dreambooth.subjects.masks import overlay
from dreambooth.subjects.prompts import PromptNames
from dreambooth.subjects.subject import Subject
from dreambooth.training.checkpoints import read_trained, save_trained
from dreambooth.training.loggers import log_image, publish

log = logging.getLogger(__name__)

_NUM_BEFORE_TRAINING = 8  # class images drawn by the pretrained model, for comparison


@dataclass(frozen=True)
class Experiment:
    """The parts of a run, built and checked by `assemble`, and its three steps: `train`, `draw` and
    `score`."""

    run: Run
    subject: Subject
    names: PromptNames
    backbone: Backbone
    fingerprint: str  # of the pretrained model; "" without prior images
    method: Method
    prior: Prior
    prior_sampling: Sampling
    fine_tuning: FineTuning
    drawing: Drawing
    drawing_settings: DrawingSettings
    loggers: Sequence[Logger]
    scorers: Sequence[Scorer]
    seed: int
    smaller_presets: Sequence[str] = ()  # of conf/trainer: with less memory than the chosen one
    check: bool = True  # whether a training forward is compared with the model's own pipeline
    base_state: Mapping[str, Tensor] | None = None  # the trained base stage of an earlier run

    def train(self) -> None:
        """Fine-tune the stages, one after the other, and save the model.

        A run that is started again loads the stages that it has trained, and resumes the training
        of the next one from its newest checkpoint.
        """
        states = {name: read_trained(self.run, name) for name in self.fine_tuning.stages}
        untrained = [name for name, state in states.items() if state is None]
        # Built first, because they may raise ValueError and prior images take long.
        modules = {n: self.fine_tuning.module(self.backbone.stages[n]) for n in untrained}
        trainers = {name: self.fine_tuning.trainer(name) for name in untrained}
        for name in untrained:
            on_rank_zero(partial(self._report_memory, modules[name], trainers[name]))
        if untrained and self.check:
            on_rank_zero(self._check_parity)
        on_rank_zero(lambda: self.run.write_names(asdict(self.names)))
        families = {prompt: self.subject.family_of(prompt) for prompt in self.subject.prompts}
        on_rank_zero(lambda: self.run.write_prompts(families))
        photos = self._captioned(self._photos(self.subject.photos))
        on_rank_zero(partial(self._save_photos, photos))
        # The prior images of all stages, before training changes the model.
        with timed(self.run, "prior_images"):
            prior = {name: self.encode_prior(name) for name in untrained}
        num_before = min(_NUM_BEFORE_TRAINING, self.drawing_settings.num_class_images)
        self.drawing.draw(self._class_jobs("before", num_before))
        if self.base_state is not None:
            self.method.load_state(self.backbone.stages["base"], self.base_state)
        for name, state in states.items():
            stage = self.backbone.stages[name]
            if state is None:
                # Only the denoiser that trains needs a GPU's memory: the trainer moves it there.
                release(to_device(self.backbone, "cpu"))
                self._fit(modules[name], trainers[name], prior[name])
                on_rank_zero(partial(save_trained, self.run, name, self.method.state(stage)))
                stop_if_requested()
            else:
                log.info("%s: already trained", name)
                self.method.load_state(stage, state)
        on_rank_zero(self._save)
        on_rank_zero(lambda: record_costs(self.run, self._num_trained()))

    def _report_memory(self, module: TwoTermModule, trainer: Trainer) -> None:
        noise_level = self.fine_tuning.sr_noise_level
        settings = self._batch_size(module), self.drawing, self.smaller_presets, noise_level
        report_memory(module, trainer, *settings)

    def _batch_size(self, module: TwoTermModule) -> int:
        """The number of images of each term in a step, on each device."""
        return self.fine_tuning.stages[module.stage.name].batch_size // num_ranks()

    def _fit(self, module: TwoTermModule, trainer: Trainer, prior: Encoded | None) -> None:
        try:
            self.fine_tuning.fit(module, trainer, prior)
        except torch.OutOfMemoryError as error:
            batch_size, device = self._batch_size(module), self.drawing.device
            remedy = what_to_try(module, batch_size, device, self.smaller_presets)
            raise ValueError(f"training does not fit into the GPU's memory: {remedy}") from error

    def _check_parity(self) -> None:
        with self.drawing.ready() as backbone:
            if sentence := check_parity(backbone):
                log.info("%s", sentence)

    def encode_prior(self, stage_name: str) -> Encoded | None:
        """The prior images, encoded for a stage; None if the prior term has none."""
        if not self.prior.has_images:
            return None
        prompt, model = self.names.class_prompt, self.fingerprint
        settings = self.prior, self.prior_sampling, self.drawing.precision
        with self.drawing.ready() as backbone:
            return encode_prior(backbone, model, stage_name, prompt, *settings)

    def _save(self) -> None:
        if not self.run.weights.exists():
            self.run.save_weights(partial(self.method.save, self.backbone))

    def _num_trained(self) -> int:
        stages = [self.backbone.stages[name] for name in self.fine_tuning.stages]
        return sum(p.numel() for stage in stages for p in self.method.trained(stage).parameters)

    def _photos(self, photos: Callable[[int], Tensor]) -> list[Picture]:
        """Photos of the subject as images, at the resolution of the last stage."""
        resolution_px = list(self.backbone.stages.values())[-1].resolution_px
        return pictures_of(photos(resolution_px), self.names.subject_prompt)

    def _captioned(self, photos: list[Picture]) -> list[Picture]:
        """The photos with their captions as prompts."""
        if not self.subject.captions:
            return photos
        return [
            photo if text is None else replace(photo, prompt=text.format(self.names.subject))
            for photo, text in zip(photos, self.subject.captions, strict=True)
        ]

    def _save_photos(self, photos: Sequence[Picture]) -> None:
        self.run.images.save("photos", photos)
        if self.subject.masks is not None:
            masks = self.subject.masks(photos[0].pixels.shape[-1])
            photos = [
                replace(photo, pixels=overlay(photo.pixels, mask))
                for photo, mask in zip(photos, masks, strict=True)
            ]
        path = self.run.images.save_contact_sheet("photos", photos)
        log_image(self.loggers, "photos", path)
        log.info("the photos as training sees them: %s", path)

    def draw(self) -> None:
        """Draw the subject under each of its prompts, and the class under the class prompt.

        With an SR stage, also photos of the subject, held-out ones if it has any, shrunk and
        restored. Images that the run folder has are not drawn again.
        """
        jobs = [
            Job("prompts", template, template.format(self.names.subject), i)
            for template in self.subject.prompts
            for i in range(self.drawing_settings.images_per_prompt)
        ]
        jobs += self._class_jobs("class", self.drawing_settings.num_class_images)
        self.drawing.draw(jobs)
        if "sr" in self.backbone.stages:
            stop_if_requested()
            photos = self._photos(self.subject.held_out or self.subject.photos)
            on_rank_zero(lambda: self.drawing.restore(photos))

    def _class_jobs(self, image_set: str, count: int) -> list[Job]:
        return [Job(image_set, "a {}", self.names.class_prompt, i) for i in range(count)]

    def score(self) -> dict[str, Metric]:
        """Score the images that `draw` has drawn; write scores.csv and metrics.json."""
        sr_sets = ("restored", "originals") if "sr" in self.backbone.stages else ()
        pictures = [self.run.images.read(name) for name in ("prompts", "class", *sr_sets)]
        names = self.names
        sets = PictureSets(self.subject, names.identifier, *pictures, in_text=names.in_text)
        scores = evaluate(self.scorers, sets, self.seed)

        def write_and_publish() -> None:
            self.run.write_scores(scores.rows)
            self.run.write_metrics(scores.metrics)
            publish(self.loggers, scores.metrics, scores.rows, sets.scored)

        on_rank_zero(write_and_publish)
        log.info("scores: %s", summary_line(scores.metrics) or "none")
        return scores.metrics
