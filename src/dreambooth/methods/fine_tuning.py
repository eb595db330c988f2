"""How a stage of a run is fine-tuned: its module, its trainer, its data, and where it resumes."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import lightning as L
import torch.nn.functional as F
from lightning.fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import Logger
from torch import Tensor
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
    captions: Sequence[str | None]  # of each photo, None without one; empty if no photo has one
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
        module: TwoTermModule = training.make_module(
            stage=stage,
            method=self.method,
            prompts=replace(
                self.prompts, subject=[*self.prompts.subject, *filter(None, self.captions)]
            ),
            prior_weight=self.prior.weight,
            prior_kind=self.prior.kind,
            fraction_before=sum(steps[: names.index(stage.name)]) / sum(steps),
            fraction_here=training.max_steps / sum(steps),
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
        num_prompts = len(self.prompts.subject)
        index = count(num_prompts)  # in the module's prompts the captions follow the shared ones
        draws = TrainingDraws(
            photos=photos,
            prior=prior,
            schedule=stage.schedule,
            timesteps=self.timesteps,
            num_samples=steps * batch_size,
            seed=self.seed,
            stage=stage.name,
            added_condition=partial(stage.added_condition, noise_level=self.sr_noise_level),
            caption_dropout=1.0 if self.prior.kind == "blank" else self.prior.caption_dropout,
            num_prompts=num_prompts,
            own_prompts=[None if caption is None else next(index) for caption in self.captions],
            masks=self._masks(stage),
        )
        batch_sampler = Batches(steps, batch_size, lambda: module.global_step, rank(), num_ranks())
        checkpoint = newest_checkpoint(self.run, stage.name)
        if checkpoint is not None:
            log.info("%s: resuming from %s", stage.name, checkpoint)
        started = time.monotonic()
        loader = DataLoader(draws, batch_sampler=batch_sampler)
        trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
        log.info("%s: %d steps in %.1f s", stage.name, steps, time.monotonic() - started)

    def _masks(self, stage: Stage) -> Tensor | None:
        """The masks of the photos in the space of x, reduced by averaging areas."""
        if self.subject.masks is None:
            return None
        height, width = stage.x_shape[-2:]
        return F.adaptive_avg_pool2d(self.subject.masks(stage.resolution_px), (height, width))
