"""How a stage of a run is fine-tuned: its module, its trainer, its data, and where it resumes."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import lightning as L
from lightning.fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader

from dreambooth.backbones.stage import Encoded, Stage
from dreambooth.distributed.ranks import num_ranks, rank
from dreambooth.methods.method import Method, TermPrompts
from dreambooth.methods.two_terms import TwoTermModule
from dreambooth.runs.run import Run
from dreambooth.runs.settings import Prior, Training
from dreambooth.schedules import TimestepDistribution
from dreambooth.subjects.subject import Subject
from dreambooth.training.checkpoints import AtomicCheckpoints, newest_checkpoint
from dreambooth.training.draws import Batches, TrainingDraws

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FineTuning:
    """The fine-tuning of a run's stages."""

    run: Run
    subject: Subject
    method: Method
    prompts: TermPrompts
    prior: Prior
    stages: Mapping[str, Training]  # the stages to fine-tune, in this order
    timesteps: TimestepDistribution
    sr_noise_level: float | None  # of an SR stage's low-resolution images
    ema_decay: float | None  # if given, the moving average of the weights is saved
    make_trainer: Callable[..., L.Trainer]  # called with callbacks, loggers and max_steps
    callbacks: Callable[[str], Sequence[L.Callback]]  # called with the stage's name
    loggers: Sequence[Logger]
    seed: int

    def module(self, stage: Stage) -> TwoTermModule:
        names, steps = list(self.stages), [t.max_steps for t in self.stages.values()]
        training = self.stages[stage.name]
        module: TwoTermModule = training.module(
            stage=stage,
            method=self.method,
            prompts=self.prompts,
            prior_weight=self.prior.weight,
            prior_kind=self.prior.kind,
            steps_before=sum(steps[: names.index(stage.name)]) / sum(steps),
            steps_here=training.max_steps / sum(steps),
        )
        return module

    def trainer(self, stage_name: str) -> L.Trainer:
        callbacks = [*self.callbacks(stage_name)]
        if self.ema_decay is not None:
            # Before score_curves, which draws with the averaged weights.
            callbacks.insert(0, EMAWeightAveraging(decay=self.ema_decay))
        return self.make_trainer(
            callbacks=callbacks,
            logger=self.loggers,
            max_steps=self.stages[stage_name].max_steps,
            # The environment is explicit: inside a SLURM allocation, Lightning would otherwise
            # assume that SLURM has started this process as one of its tasks.
            plugins=[
                AtomicCheckpoints(),
                TorchElasticEnvironment() if num_ranks() > 1 else LightningEnvironment(),
            ],
            use_distributed_sampler=False,  # Batches divides each batch over the ranks
        )

    def fit(self, module: TwoTermModule, trainer: L.Trainer, prior: Encoded | None) -> None:
        """Train a stage, from its newest checkpoint if there is one."""
        stage, steps = module.stage, trainer.max_steps
        batch_size = self.stages[stage.name].batch_size
        photos = stage.encode(self.subject.photos(stage.resolution_px))
        if self.prior.weight and not self.prior.has_images:
            prior = photos  # at which the frozen model predicts
        draws = TrainingDraws(
            photos,
            prior,
            stage.schedule,
            self.timesteps,
            steps * batch_size,
            self.seed,
            stage.name,
            partial(stage.added_condition, noise_level=self.sr_noise_level),
            1.0 if self.prior.kind == "blank" else self.prior.caption_dropout,
            len(self.prompts.subject),
        )
        batch_sampler = Batches(steps, batch_size, lambda: module.global_step, rank(), num_ranks())
        checkpoint = newest_checkpoint(self.run, stage.name)
        if checkpoint is not None:
            log.info("%s: resuming from %s", stage.name, checkpoint)
        started = time.monotonic()
        loader = DataLoader(draws, batch_sampler=batch_sampler)
        trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
        log.info("%s: %d steps in %.1f s", stage.name, steps, time.monotonic() - started)
