"""The two-term loss on one stage of a backbone, as a LightningModule for any method."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from dreambooth.backbones.precision import HalvedWeights
from dreambooth.backbones.stage import Condition, Stage, concatenate, select_rows
from dreambooth.loss import Losses, loss_weights, two_term_loss, weighted_mse
from dreambooth.methods.method import Method, TermPrompts
from dreambooth.methods.prior import FrozenStage
from dreambooth.training.compiling import compiled_forward, with_forward
from dreambooth.training.draws import Draw
from dreambooth.training.fsdp import Sharded


class DivergedError(RuntimeError):
    """The loss is no longer a number."""


class TwoTermModule(L.LightningModule):
    """Trains one stage with a personalization method on the two-term loss (paper, section 3.3).

    `prior_weight` is lambda >= 0; with 0 there is no prior term. `prior_kind`: "images", or
    "output" or "blank", with which the frozen model's predictions are that term's targets.
    The learning rate is constant, or falls linearly to 0 over the last `cooldown_fraction` (0..1)
    of the steps.
    `optimizer`: called with the parameter groups and `lr`. `fraction_before`: the fraction (0..1)
    of the run's steps that earlier stages take. `fraction_here`: the fraction of this stage.
    `gradient_checkpointing`: the denoiser's activations are computed again in the backward pass
    instead of being kept, which takes less memory and more time.
    `compile`: training steps call the denoiser compiled by `torch.compile`.
    """

    def __init__(
        self,
        stage: Stage,
        method: Method,
        prompts: TermPrompts,
        prior_weight: float,
        learning_rate: float,
        optimizer: Callable[..., torch.optim.Optimizer],
        weighting: str = "uniform",
        cooldown_fraction: float = 0.0,
        fraction_before: float = 0.0,
        fraction_here: float = 1.0,
        prior_kind: str = "images",
        gradient_checkpointing: bool = False,
        compile: bool = False,
    ):
        super().__init__()
        self.stage, self.method, self.prior_weight = stage, method, prior_weight
        self.learning_rate, self.optimizer = learning_rate, optimizer
        self.weighting, self.cooldown_fraction = weighting, cooldown_fraction
        self.fraction_before, self.fraction_here = fraction_before, fraction_here
        self.prefix = "" if stage.name == "base" else f"{stage.name}/"
        method.prepare(stage)
        if gradient_checkpointing:
            denoiser: Any = stage.denoiser
            if not hasattr(denoiser, "enable_gradient_checkpointing"):  # none of diffusers
                raise ValueError(
                    "method.module.gradient_checkpointing=true: the denoiser of this model has no "
                    "gradient checkpointing, give false"
                )
            denoiser.enable_gradient_checkpointing()
        self._set_trained()
        # Checkpoints contain only what trains.
        self.register_state_dict_post_hook(_drop_frozen)
        self.register_load_state_dict_post_hook(_allow_frozen)
        self.prompts = {"subject": prompts.subject}
        if prior_weight:
            self.prompts["prior"] = prompts.prior
        self.halved: HalvedWeights | None = None
        self.forward_in_steps = compiled_forward(stage.denoiser) if compile else None
        has_frozen = bool(prior_weight) and prior_kind != "images"
        self.frozen = FrozenStage(stage) if has_frozen else None
        # By term. If training changes the encoding, these are the frozen model's, for its targets.
        self.encoded_prompts: dict[str, Condition] = {}
        if has_frozen or not self.trained.changes_prompts:
            self._encode_prompts()

    def configure_model(self) -> None:
        """Cast the frozen weights to half precision, or shard the stage (trainer.strategy=fsdp).

        Not both, because FSDP needs one precision in each block.
        """
        if not isinstance(self.trainer.strategy, Sharded):
            if self.halved is None:
                self.halved = HalvedWeights(self, str(self.trainer.precision))
            else:  # EMAWeightAveraging has called this hook before
                self.halved.halve()
        else:
            if self.trained.changes_prompts:
                raise ValueError(
                    "trainer.strategy=fsdp splits the denoiser, and this method trains the text "
                    "encoder: give trainer.strategy=auto"
                )
            self.trainer.strategy.shard(self.stage)
            self._set_trained()

    def on_fit_start(self) -> None:
        if not self.trained.changes_prompts:
            self._encode_prompts()  # the training of an earlier stage may have changed the encoding

    def on_train_end(self) -> None:
        self.zero_grad()  # else they move to the GPU with the weights when images are generated
        if self.halved is not None:
            self.halved.restore("cpu")  # the trainer moves the module there next
        if isinstance(self.trainer.strategy, Sharded):
            self.trainer.strategy.gather(self.stage)
            self._set_trained()

    def _encode_prompts(self) -> None:
        encode = self.stage.encode_prompts
        self.encoded_prompts = {term: encode(prompts) for term, prompts in self.prompts.items()}

    def _set_trained(self) -> None:
        self.trained = self.method.trained(self.stage)
        self.trained_modules = nn.ModuleDict(self.trained.modules)

    def training_step(self, batch: dict[str, Any], _batch_idx: int) -> Tensor:
        with with_forward(self.stage.denoiser, self.forward_in_steps):
            losses = self.calc_loss(batch["subject"], batch.get("prior"), batch.get("mask"))
        if not torch.isfinite(losses.total):
            key = "method.module" if self.stage.name == "base" else self.stage.name
            raise DivergedError(
                f"the loss became {losses.total.item()} at step {self.global_step}: "
                f"lower {key}.learning_rate (it is {self.learning_rate:g})"
            )
        for name, value in (("subject", losses.subject), ("prior", losses.prior)):
            if value is not None:
                name, size = f"{self.prefix}loss/{name}", len(batch["subject"].t)
                self.log(name, value, prog_bar=True, batch_size=size, sync_dist=True)
        return losses.total

    def calc_loss(self, subject: Draw, prior: Draw | None, mask: Tensor | None = None) -> Losses:
        """Both terms of the loss, from one forward pass over both batches.

        `mask`: [0, 1], (B, 1, *x_shape[1:]), where the subject term counts.
        """
        draws = {"subject": subject} | ({} if prior is None else {"prior": prior})
        x = torch.cat([draw.x for draw in draws.values()])
        eps = torch.cat([draw.eps for draw in draws.values()])
        t = torch.cat([draw.t for draw in draws.values()])

        schedule = self.stage.schedule
        z_t = schedule.corrupt(x, eps, t)
        condition = concatenate([self._condition(name, draw) for name, draw in draws.items()])
        prediction = self.stage.predict(z_t, t, condition)
        target = schedule.target(x, eps, t)
        if self.frozen is not None:  # on the same batch, so that equal weights give equal bits
            if self.trained.changes_prompts:
                condition = concatenate([self._encoded_before(*item) for item in draws.items()])
            target[len(subject.t) :] = self.frozen.predict(z_t, t, condition)[len(subject.t) :]
        weights = loss_weights(self.weighting, schedule.snr(t), schedule.prediction_type)

        sizes = [len(draw.t) for draw in draws.values()]
        splits = (tensor.split(sizes) for tensor in (prediction, target, weights))
        masks = [mask if name == "subject" else None for name in draws]
        terms = [weighted_mse(p, y, w, m) for p, y, w, m in zip(*splits, masks, strict=True)]
        return two_term_loss(terms[0], terms[1] if prior is not None else None, self.prior_weight)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.trained.groups, lr=self.learning_rate)
        num_steps = self.trainer.max_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, num_steps, self.cooldown_fraction)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.trained.after_step()

    def _condition(self, name: str, draw: Draw) -> Condition:
        """The condition of each image in the draw of the term `name`."""
        if self.trained.changes_prompts:
            prompts = [self.prompts[name][i] for i in draw.prompt.tolist()]
            return {**self.stage.encode_prompts(prompts, with_gradient=True), **draw.added}
        return self._encoded_before(name, draw)

    def _encoded_before(self, name: str, draw: Draw) -> Condition:
        """The condition of each image in the draw, from prompts encoded before training."""
        text = {key: value.to(self.device) for key, value in self.encoded_prompts[name].items()}
        return {**select_rows(text, draw.prompt), **draw.added}


def _drop_frozen(module: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    for name in _frozen(module):
        state.pop(prefix + name, None)


def _allow_frozen(module: nn.Module, found: Any) -> None:
    frozen = _frozen(module)
    found.missing_keys[:] = [
        key for key in found.missing_keys if not any(key.endswith(name) for name in frozen)
    ]


def _frozen(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if not p.requires_grad}


def learning_rate_factor(step: int, num_steps: int, fraction: float) -> float:
    """1 up to the last `fraction` (0..1) of the steps, then linearly down to 0."""
    remaining = 1 - step / num_steps
    return min(1.0, remaining / fraction) if fraction else 1.0
