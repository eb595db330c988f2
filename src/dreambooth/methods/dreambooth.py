"""DreamBooth as a LightningModule: the two-term loss on one stage of a backbone."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from dreambooth.backbones.stage import Condition, Stage, concatenate, repeat
from dreambooth.loss import Losses, loss_weights, term, two_term_loss
from dreambooth.training.fsdp import Sharded

Draw = dict[str, Any]
"""What a term trains on: `x` and `eps` (B, *x_shape), `t` (B,); where its condition has more than
one row, each image's `row` (B,); and what the condition holds beside these rows, `added`."""


class DivergedError(RuntimeError):
    """The loss is no number any more."""


class DreamBooth(L.LightningModule):
    """Fine-tunes a stage's denoiser on a subject (paper, section 3).

    `subject_condition` is one row, c = "a [V] [class noun]"; `prior_condition` is c_pr = "a [class
    noun]" and, where captions are dropped, the empty prompt in a second row. `prior_weight` is
    lambda >= 0; with 0 there is no prior branch.
    `train`: what trains, see `Stage.trainable_parameters`. The learning rate is constant, or falls
    linearly to nothing over the last `decay_share` (0..1) of the steps.
    """

    def __init__(
        self,
        stage: Stage,
        subject_condition: Condition,
        prior_condition: Condition | None,
        prior_weight: float = 1.0,
        learning_rate: float = 1e-5,
        weighting: str = "uniform",
        train: str = "all",
        weight_decay: float = 0.01,
        decay_share: float = 0.0,
    ):
        super().__init__()
        check_prior_weight(prior_weight)
        self.group = "method.module" if stage.name == "base" else stage.name  # of the config
        if not isinstance(learning_rate, int | float) or not 0 < learning_rate < float("inf"):
            raise ValueError(f"{self.group}.learning_rate={learning_rate}: give a number above 0")
        if not isinstance(decay_share, int | float) or not 0 <= decay_share <= 1:
            raise ValueError(f"method.module.decay_share={decay_share}: give a share from 0 to 1")
        loss_weights(weighting, torch.ones(1), stage.schedule.prediction_type)  # a known one?
        assert (prior_condition is None) == (prior_weight == 0)
        self.stage, self.train_policy = stage, train
        self.subject_condition, self.prior_condition = subject_condition, prior_condition
        self.prior_weight, self.weighting = prior_weight, weighting
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.decay_share = decay_share
        self.share = (0.0, 1.0)  # of the run's steps: those before, and these
        self.prefix = "" if stage.name == "base" else f"{stage.name}/"
        stage.denoiser.train().requires_grad_(False)
        self._take_denoiser()
        for parameter in self.trained:
            parameter.requires_grad_(True)

    def configure_model(self) -> None:
        """With trainer.strategy=fsdp, what trains is split over the devices."""
        if isinstance(self.trainer.strategy, Sharded):
            self.trainer.strategy.split(self.stage)
            self._take_denoiser()

    def on_train_end(self) -> None:
        if isinstance(self.trainer.strategy, Sharded):
            self.trainer.strategy.join(self.stage)
            self._take_denoiser()

    def _take_denoiser(self) -> None:
        self.denoiser = self.stage.denoiser
        self.trained = self.stage.trainable_parameters(self.train_policy)

    def training_step(self, batch: dict[str, Draw], _batch_idx: int) -> Tensor:
        losses = self.calc_loss(batch["subject"], batch.get("prior"))
        if not torch.isfinite(losses.total):
            raise DivergedError(
                f"the loss became {losses.total.item()} at step {self.global_step}: "
                f"lower {self.group}.learning_rate (it is {self.learning_rate:g})"
            )
        size = len(batch["subject"]["t"])
        for name, value in (("subject", losses.subject), ("prior", losses.prior)):
            if value is not None:
                name = f"{self.prefix}loss/{name}"
                self.log(name, value, prog_bar=True, batch_size=size, sync_dist=True)
        return losses.total

    def calc_loss(self, subject: Draw, prior: Draw | None) -> Losses:
        """Both terms, from one forward of the denoiser over both batches."""
        draws, conditions = [subject], [self._rows(self.subject_condition, subject)]
        if prior is not None:
            assert self.prior_condition is not None
            draws.append(prior)
            conditions.append(self._rows(self.prior_condition, prior))
        x, eps, t = (torch.cat([draw[name] for draw in draws]) for name in ("x", "eps", "t"))

        schedule = self.stage.schedule
        z_t = schedule.corrupt(x, eps, t)
        prediction = self.stage.predict(z_t, t, concatenate(conditions))
        target = schedule.target(x, eps, t)
        weights = loss_weights(self.weighting, schedule.snr(t), schedule.prediction_type)

        sizes = [len(draw["t"]) for draw in draws]
        parts = zip(*(part.split(sizes) for part in (prediction, target, weights)), strict=True)
        terms = [term(*part) for part in parts]
        return two_term_loss(terms[0], terms[1] if prior is not None else None, self.prior_weight)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            self.trained, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
        )
        num_steps = self.trainer.max_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: decayed(step, num_steps, self.decay_share)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rows(self, condition: Condition, draw: Draw) -> Condition:
        """The condition of every image of the draw."""
        rows = draw["row"].cpu() if "row" in draw else torch.zeros(len(draw["t"]), dtype=torch.long)
        text = {k: v.to(self.device) for k, v in repeat(condition, rows).items()}
        return text | draw.get("added", {})


def decayed(step: int, num_steps: int, share: float) -> float:
    """Factor of the learning rate: 1, and over the last `share` of the steps linearly to 0."""
    remaining = 1 - step / num_steps
    return min(1.0, remaining / share) if share else 1.0


def check_prior_weight(prior_weight: Any) -> None:
    """ValueError unless lambda is a number >= 0."""
    number = isinstance(prior_weight, int | float) and not isinstance(prior_weight, bool)
    if not number or not 0 <= prior_weight < float("inf"):
        raise ValueError(
            f"prior.lambda={prior_weight} is not a weight: give a number of 0 (no prior "
            "preservation) or more, 1 in the paper"
        )
