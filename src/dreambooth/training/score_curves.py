"""Scores while training goes on: where a run begins to overfit."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.seed import isolate_rng

from dreambooth.metrics.evaluation import PictureSets, Scorer, evaluate
from dreambooth.runs.pictures import Picture
from dreambooth.runs.settings import check_count
from dreambooth.subjects.prompts import PromptNames
from dreambooth.subjects.subject import Subject

log = logging.getLogger(__name__)


class ScoreCurves(L.Callback):
    """`curves/NAME` to the loggers, of every score that needs no second picture of a prompt.

    Before the first step and after every `every_n_steps` the same small set is drawn from the same
    noise: one picture of each of at most `num_prompts` of the subject's prompts, spread over their
    list, and `num_class_images` of the class prompt. The training is not touched: neither its
    random numbers nor the mode of its modules. With method.ema_decay the moving averages of the
    weights draw, since they are what is kept in the end. `curves/seconds` is what one point took; a
    line at the end tells the whole cost. Where the SR stage is trained the names begin with `sr/`.

    `draw`: (template, prompt, index) of each picture -> the pictures.
    """

    def __init__(
        self,
        draw: Callable[[Sequence[tuple[str, str, int]]], list[Picture]],
        subject: Subject,
        names: PromptNames,
        scorers: Sequence[Scorer],
        every_n_steps: int = 100,
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
            raise ValueError("callbacks=score_curves has nothing to draw curves of: metrics=none")
        self.draw, self.subject, self.names, self.scorers = draw, subject, names, scorers
        self.every_n_steps = every_n_steps
        chosen = subject.prompts[:: math.ceil(len(subject.prompts) / num_prompts)]
        self.jobs = [(template, template.format(names.subject), 0) for template in chosen]
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
        if trainer.global_step % self.every_n_steps == 0:
            self._score(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        log.info(
            "score curves: %d pictures at each point, %.1f s in all",
            len(self.jobs + self.class_jobs),
            self.seconds,
        )

    def _score(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        started = time.monotonic()
        with isolate_rng(), averaged(trainer, pl_module):
            pictures = self.draw(self.jobs), self.draw(self.class_jobs)
            sets = PictureSets(self.subject, self.names.identifier, *pictures)
            metrics = evaluate(self.scorers, sets).metrics
        seconds = time.monotonic() - started
        self.seconds += seconds
        values = {name: m.value for name, m in metrics.items() if math.isfinite(m.value)}
        values["seconds"] = seconds
        prefix = getattr(pl_module, "prefix", "")  # of its stage
        curves = {f"{prefix}curves/{name}": value for name, value in values.items()}
        for logger in trainer.loggers:
            logger.log_metrics(curves, step=trainer.global_step)


@contextmanager
def averaged(trainer: L.Trainer, pl_module: L.LightningModule) -> Iterator[None]:
    """The moving averages of the weights in the weights' place, where there are any."""
    callbacks: Sequence[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    averages = [one for one in callbacks if isinstance(one, WeightAveraging)]
    for one in averages:
        one.on_validation_epoch_start(trainer, pl_module)  # swaps them
    try:
        yield
    finally:
        for one in averages:
            one.on_validation_epoch_end(trainer, pl_module)  # and back
