"""The memory that fine-tuning a stage takes, computed before it is taken.

One step of the training itself is made with fake tensors, which have shapes but no data (torch's
meta device): both terms of the loss, their gradient, the optimizer's update. After each operation,
the bytes of all tensors that are still needed are added up. So the figure follows from the layers
of the model, the method, the adapter, the precision and gradient checkpointing, without a guess.

Not in it: averaged weights (`method.ema_decay`), the second copy of the gradients that DDP keeps,
what a kernel needs inside an operation, what the allocator cannot use between tensors, and the
context of CUDA, about half a GB.
"""

import logging
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from lightning import Trainer
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from dreambooth.methods.two_terms import TwoTermModule
from dreambooth.randomness import generator
from dreambooth.schedules import TimestepDistribution
from dreambooth.training.draws import Draw
from dreambooth.training.fsdp import Sharded
from dreambooth.training.optimizers import adamw_8bit, states_8bit
from dreambooth.training.precision import convertible, half_precision
from dreambooth.training.presets import advice

log = logging.getLogger(__name__)

LARGE = 10**9  # bytes of weights from which on the memory of a training is of interest
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
    return f"{smaller}{advice(presets, num_weights, size_of(device))}"


def report_memory(
    module: TwoTermModule,
    trainer: Trainer,
    batch_size: int,
    device: torch.device,
    presets: Sequence[str],
    sr_noise_level: float | None,
) -> None:
    """Log what training a large stage is expected to take, and what to try if that is too much.

    `batch_size`: on each device. `presets`: those with less memory. FSDP, which divides the
    weights, is not computed.
    """
    large = sum(p.nbytes for p in module.parameters()) >= LARGE
    if not large or isinstance(trainer.strategy, Sharded):
        return
    gpu, precision, name = device.type == "cuda", str(trainer.precision), module.stage.name
    try:
        memory = memory_of(module, batch_size, precision, gpu, sr_noise_level)
    except Exception as error:  # a layer that reads the values of its tensors: no reason to stop
        log.warning("%s: the memory of the training cannot be computed (%r)", name, error)
        return
    log.info("%s: expected peak memory of the training: %s", name, memory)
    has = size_of(device)
    if has is not None and memory.peak + CONTEXT > has:
        remedy = what_to_try(module, batch_size, device, presets)
        log.warning("training is not expected to fit into %.1f GB: %s", has / 1e9, remedy)


def size_of(device: torch.device) -> int | None:
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
        fake = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_without_data())
        fakes: dict[int, Tensor] = {}  # id of a parameter -> its fake

        def replaced(part: nn.Module) -> None:
            names = dict(part.named_parameters())
            for parameter in names.values():
                half = id(parameter) in halved or precision in ("bf16-true", "16-true")
                dtype = low if half else parameter.dtype
                like = torch.empty(parameter.shape, dtype=dtype, device="cpu")
                fakes[id(parameter)] = nn.Parameter(like, parameter.requires_grad)
            new = {name: fakes[id(parameter)] for name, parameter in names.items()}
            stack.enter_context(_reparametrize_module(part, new))

        groups = module.trained.groups  # of the real parameters
        replaced(module)
        if module.frozen is not None and module.frozen.copy is not None:
            replaced(module.frozen.copy)
        groups = [{**g, "params": [fakes[id(p)] for p in g["params"]]} for g in groups]
        trained = [parameter for group in groups for parameter in group["params"]]
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
        state = _state(module.optimizer, groups, module.learning_rate)
        weights, gradients = _size(fakes.values()), _size(p.grad for p in trained)
        if gpu:
            stack.enter_context(_float32_norms())
        with _Live([*fakes.values(), *(p.grad for p in trained), *state]) as live:
            subject, prior = (
                tree_map_only(Tensor, fake.from_tensor, draw)._replace(prompt=draw.prompt)
                for draw in draws
            )
            with torch.autocast("cpu", low, enabled=mixed):
                loss = module.calc_loss(subject, prior if module.prior_weight else None).total
            for parameter in trained:  # after the forward, as Lightning does
                parameter.grad = None
            loss.backward()
        return Memory(weights, gradients, _size(state), live.peak)


def draws_of(module: TwoTermModule, batch_size: int, sr_noise_level: float | None = None) -> Any:
    """A batch of both terms, whose values are those of no photo."""
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


def _size(tensors: Iterable[Tensor]) -> int:
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


@contextmanager
def _without_data() -> Iterator[None]:
    """No fake tensor has a random state, which checkpointing keeps, or a device to be moved to."""
    with (
        patch("torch.get_rng_state", lambda: None),
        patch("torch.set_rng_state", lambda _: None),
        patch.object(nn.Module, "to", lambda module, *_, **__: module),
    ):
        yield


@contextmanager
def _float32_norms() -> Iterator[None]:
    """Autocast normalizes in float32 on a GPU, and not on a CPU."""

    def in_float32(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Tensor:
            if torch.is_autocast_enabled("cpu"):
                args, kwargs = tree_map_only(Tensor, Tensor.float, (args, kwargs))
            normalized: Tensor = function(*args, **kwargs)
            return normalized

        return call

    norms = {name: in_float32(getattr(F, name)) for name in ("layer_norm", "group_norm")}
    with patch.multiple(F, **norms):
        yield


class _Live(TorchDispatchMode):
    """Adds up the bytes of all tensors that are needed; `peak` is the most at any time."""

    def __init__(self, tensors: Iterable[Tensor]):
        super().__init__()
        self.now, self.peak = 0, 0
        self.known: set[int] = set()
        for tensor in tensors:
            self._add(tensor)

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            weakref.finalize(storage, self._drop, key, size)
            self.now += size
            self.peak = max(self.peak, self.now)

    def _drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._add(value)
        return result
