"""Scores during training, which show when a run begins to overfit."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.seed import isolate_rng

from dreambooth.backbones.precision import full_precision
from dreambooth.metrics.evaluation import PictureSets, Scorer, evaluate
from dreambooth.runs.pictures import Picture
from dreambooth.runs.settings import check_count
from dreambooth.subjects.prompts import PromptNames
from dreambooth.subjects.subject import Subject

log = logging.getLogger(__name__)


class ScoreCurves(L.Callback):
    """Draws and scores a few images during training, and logs the scores as `curves/NAME`.

    Before the first step, after every `every_n_steps` steps and after the last one, the same images
    are drawn from the same noise: one for each of at most `num_prompts` prompts of the subject,
    evenly spaced in their list, and `num_class_images` of the class prompt. Scores that need
    several images of a prompt are left out. With method.ema_decay the averaged weights draw the
    images, since these are the weights that the run saves. Training is not affected: neither its
    random numbers nor the train/eval mode of its modules changes.

    `curves/seconds` is the time of one point; the log has the total. For the SR stage the names
    begin with `sr/`.

    `draw`: a function from (template, prompt, index) of each image to the images.
    """

    def __init__(
        self,
        draw: Callable[[Sequence[tuple[str, str, int]]], list[Picture]],
        subject: Subject,
        names: PromptNames,
        scorers: Sequence[Scorer],
        every_n_steps: int,
        num_prompts: int = 8,
        num_class_images: int = 8,
    ):
        for key, value in (
            ("every_n_steps", every_n_steps),
            ("num_prompts", num_prompts),
            ("num_class_images", num_class_images),
        ):
            check_count(f"callbacks.score_curves.{key}", value)
        if not scorers:
            raise ValueError(
                "callbacks=score_curves has no scores to draw curves of with metrics=none: "
                "give other metrics, or callbacks=default"
            )
        self.draw, self.subject, self.names, self.scorers = draw, subject, names, scorers
        self.every_n_steps = every_n_steps
        templates = subject.prompts[:: math.ceil(len(subject.prompts) / num_prompts)]
        self.jobs = [(template, template.format(names.subject), 0) for template in templates]
        self.class_jobs = [("a {}", names.class_prompt, i) for i in range(num_class_images)]
        self.seconds = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step == 0:
            self._score(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        if step % self.every_n_steps == 0 or step == trainer.max_steps:
            self._score(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        log.info(
            "score curves: %d images at each point, %.1f s in total",
            len(self.jobs + self.class_jobs),
            self.seconds,
        )

    def _score(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        started = time.monotonic()
        with isolate_rng(), averaged(trainer, pl_module), full_precision(pl_module):
            pictures = self.draw(self.jobs), self.draw(self.class_jobs)
            names = self.names
            sets = PictureSets(self.subject, names.identifier, *pictures, in_text=names.in_text)
            metrics = evaluate(self.scorers, sets).metrics
        seconds = time.monotonic() - started
        self.seconds += seconds
        values = {name: m.value for name, m in metrics.items() if math.isfinite(m.value)}
        values["seconds"] = seconds
        prefix = getattr(pl_module, "prefix", "")  # "sr/" for the SR stage
        curves = {f"{prefix}curves/{name}": value for name, value in values.items()}
        for logger in trainer.loggers:
            logger.log_metrics(curves, step=trainer.global_step)


@contextmanager
def averaged(trainer: L.Trainer, pl_module: L.LightningModule) -> Iterator[None]:
    """Inside the context, the module has its averaged weights, if the trainer averages weights."""
    callbacks: Sequence[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    averagings = [callback for callback in callbacks if isinstance(callback, WeightAveraging)]
    for averaging in averagings:
        averaging.on_validation_epoch_start(trainer, pl_module)  # swaps the weights
    try:
        yield
    finally:
        for averaging in averagings:
            averaging.on_validation_epoch_end(trainer, pl_module)  # swaps them back
