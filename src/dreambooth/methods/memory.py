"""The memory that fine-tuning a stage takes, computed before it is taken.

One step of the training itself is made with fake tensors (backbones/drawing_memory.py): both terms
of the loss, their gradient, the optimizer's update. So the figure follows from the layers of the
model, the method, the adapter, the precision and gradient checkpointing, without a guess.

Not in it, besides what drawing_memory.py leaves out: averaged weights (`method.ema_decay`) and the
second copy of the gradients that DDP keeps.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from torch.utils._pytree import tree_map_only

from dreambooth.backbones.drawing import Drawing
from dreambooth.backbones.drawing_memory import (
    DrawingMemory,
    Live,
    advice_on_drawing,
    bytes_of,
    drawing_memory,
    fake_tensors,
    fake_weights,
    float32_norms,
)
from dreambooth.backbones.precision import convertible, half_precision
from dreambooth.methods.two_terms import TwoTermModule
from dreambooth.randomness import generator
from dreambooth.schedules import TimestepDistribution
from dreambooth.training.draws import Draw
from dreambooth.training.fsdp import Sharded
from dreambooth.training.optimizers import adamw_8bit, states_8bit
from dreambooth.training.presets import advice

log = logging.getLogger(__name__)

LARGE = 10**9  # bytes of weights from which on the memory of a training is of interest
_HALF = ("bf16-true", "16-true")
CONTEXT = 6 * 10**8  # bytes that CUDA itself takes


@dataclass(frozen=True)
class Memory:
    """The memory of a training step at its peak on one device, in bytes."""

    weights: int  # of what the trainer keeps on the device
    gradients: int
    optimizer: int  # its state
    peak: int  # all of these that are needed at once, with activations

    def __str__(self) -> str:
        parts = ("weights", "gradients", "optimizer")
        sizes = [f"{getattr(self, part) / 1e9:.1f} {part}" for part in parts]
        rest = self.peak - self.weights - self.gradients - self.optimizer
        return (
            f"{self.peak / 1e9:.1f} GB ({', '.join(sizes)}, {max(0, rest) / 1e9:.1f} activations)"
        )


def what_to_try(
    module: TwoTermModule, batch_size: int, device: torch.device, presets: Sequence[str]
) -> str:
    """What to change where training does not fit. `presets`: those with less memory."""
    num_weights = sum(p.numel() for p in module.stage.denoiser.parameters())
    smaller = f"lower method.batch_size (it is {batch_size}), or " if batch_size > 1 else ""
    return f"{smaller}{advice(presets, num_weights, gpu_bytes(device))}"


def report_memory(
    module: TwoTermModule,
    trainer: Trainer,
    batch_size: int,
    drawing: Drawing,
    presets: Sequence[str],
    sr_noise_level: float | None,
) -> None:
    """Log what a large stage is expected to take, the larger of its training and of `drawing`, and
    what to try if that is too much.

    `batch_size`: of the training, on each device. `presets`: those with less memory. FSDP, which
    divides the weights, is not computed.
    """
    large = sum(p.nbytes for p in module.parameters()) >= LARGE
    if not large or isinstance(trainer.strategy, Sharded):
        return
    device, name = drawing.device, module.stage.name
    gpu, has = device.type == "cuda", gpu_bytes(device)
    try:
        training = memory_of(module, batch_size, str(trainer.precision), gpu, sr_noise_level)
        of_drawing = drawing_memory(drawing.backbone, drawing.sampling, drawing.precision, gpu)
    except Exception as error:  # a layer that reads the values of its tensors: no reason to stop
        log.warning("%s: the memory of this run cannot be computed (%r)", name, error)
        return
    steps: dict[str, Memory | DrawingMemory] = {
        "training": training,
        "generating images": of_drawing,
    }
    less, most = sorted(steps, key=lambda step: steps[step].peak)
    peaks = most, steps[most], less, steps[less].peak / 1e9
    log.info("%s: expected peak memory, in %s: %s; in %s %.1f GB", name, *peaks)
    if has is None:
        return
    remedies = {
        "training": lambda: what_to_try(module, batch_size, device, presets),
        "generating images": lambda: advice_on_drawing(drawing, of_drawing),
    }
    for step, memory in steps.items():
        if memory.peak + CONTEXT > has:
            remedy = remedies[step]()
            log.warning("%s is not expected to fit into %.1f GB: %s", step, has / 1e9, remedy)


def gpu_bytes(device: torch.device) -> int | None:
    """The bytes of a GPU; None for a CPU."""
    if device.type != "cuda":
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)


def memory_of(
    module: TwoTermModule,
    batch_size: int,
    precision: str = "32-true",
    gpu: bool = True,
    sr_noise_level: float | None = None,
) -> Memory:
    """The memory of training `module` with `batch_size` images of each term on one device.

    `precision`: in Lightning's words. `gpu`: whether autocast is that of a GPU. The module and its
    weights are not changed.
    """
    draws = draws_of(module, batch_size, sr_noise_level)
    low, mixed = half_precision(precision), precision.endswith("mixed")
    halved = {id(p) for p in convertible(module)} if mixed else set()
    with ExitStack() as stack:
        fake = stack.enter_context(fake_tensors())
        copy = None if module.frozen is None else module.frozen.copy
        fakes: dict[int, Tensor] = {}  # id of a parameter -> its fake
        for part in (module, *([] if copy is None else [copy])):
            every = {id(p) for p in part.parameters()} if precision in _HALF else halved
            fakes |= stack.enter_context(fake_weights(part, every, low))
        groups = module.trained.groups  # of the real parameters
        groups = [{**g, "params": [fakes[id(p)] for p in g["params"]]} for g in groups]
        trained = [parameter for group in groups for parameter in group["params"]]
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
        state = _state(module.optimizer, groups, module.learning_rate)
        weights, gradients = bytes_of(fakes.values()), bytes_of(p.grad for p in trained)
        if gpu:
            stack.enter_context(float32_norms())
        with Live([*fakes.values(), *(p.grad for p in trained), *state]) as live:
            subject, prior = (
                tree_map_only(Tensor, fake.from_tensor, draw)._replace(prompt=draw.prompt)
                for draw in draws
            )
            with torch.autocast("cpu", low, enabled=mixed):
                loss = module.calc_loss(subject, prior if module.prior_weight else None).total
            for parameter in trained:  # after the forward, as Lightning does
                parameter.grad = None
            loss.backward()
        return Memory(weights, gradients, bytes_of(state), live.peak)


def draws_of(module: TwoTermModule, batch_size: int, sr_noise_level: float | None = None) -> Any:
    """A batch of both terms, with zeros in place of images."""
    stage, rng = module.stage, generator("memory")
    x = torch.zeros(batch_size, *stage.x_shape)
    t = torch.stack([stage.schedule.draw_t(TimestepDistribution(), rng)] * batch_size)
    added = stage.added_condition(x[0], rng, sr_noise_level)
    added = {name: torch.stack([value] * batch_size) for name, value in added.items()}
    return [Draw(x, x.clone(), t, torch.zeros(batch_size, dtype=torch.long), added)] * 2


def _state(make_optimizer: Any, groups: list[dict[str, Any]], rate: float) -> list[Tensor]:
    """The state that the optimizer keeps between steps."""
    if getattr(make_optimizer, "func", None) is adamw_8bit:  # its step is no operation of torch
        return states_8bit(p for group in groups for p in group["params"])
    optimizer = make_optimizer(groups, lr=rate)
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    return [value for value in states if isinstance(value, Tensor)]
