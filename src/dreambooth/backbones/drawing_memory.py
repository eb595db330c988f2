"""The memory that drawing takes, computed before it is taken; and how such a computation is made.

Fake tensors have shapes but no data (torch's FakeTensorMode). A program runs on them, and after
each operation the bytes of all tensors that are still needed are added up. So a figure follows from
the layers of the model and the precision, without a guess.

Not in it: what a kernel needs inside an operation, what the allocator cannot use between tensors,
and the context of CUDA, about 0.6 GB.
"""

import weakref
from collections.abc import Container, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from dreambooth.backbones.drawing import Drawing
from dreambooth.backbones.latent_stage import scale_of
from dreambooth.backbones.precision import convertible, half_precision
from dreambooth.backbones.stage import Backbone, Sampling, Stage
from dreambooth.randomness import generator
from dreambooth.sampling import evaluation_mode
from dreambooth.schedules import TimestepDistribution


@dataclass(frozen=True)
class DrawingMemory:
    """The memory of drawing at its peak on one device, in bytes."""

    weights: int  # of all denoisers and the VAE
    peak: int  # these and what is computed from them at once
    where: str  # the peak is: such as "the VAE's decoder"

    def __str__(self) -> str:
        rest = self.peak - self.weights
        return (
            f"{self.peak / 1e9:.1f} GB ({self.weights / 1e9:.1f} weights, {rest / 1e9:.1f} in "
            f"{self.where})"
        )


def drawing_memory(
    backbone: Backbone, sampling: Sampling, precision: str = "32-true", gpu: bool = True
) -> DrawingMemory:
    """The memory of drawing `backbone.batch_size` images at once, and of encoding one.

    `precision`: in Lightning's words. `gpu`: whether autocast is that of a GPU. No weight changes.
    """
    stages, vae = backbone.stages, getattr(backbone, "vae", None)
    inputs = {
        name: _inputs(stage, _batch_size(backbone, sampling, name))
        for name, stage in stages.items()
    }
    low, mixed = half_precision(precision), precision.endswith("mixed")
    modules = [*(stage.denoiser for stage in stages.values()), *([] if vae is None else [vae])]
    halved = {id(p) for s in stages.values() for p in convertible(s.denoiser, True) if mixed}
    with ExitStack() as stack:
        fake = stack.enter_context(fake_tensors())
        fakes: list[Tensor] = []
        for module in modules:
            fakes += stack.enter_context(fake_weights(module, halved, low)).values()
            stack.enter_context(evaluation_mode(module))
        stack.enter_context(torch.no_grad())
        if gpu:
            stack.enter_context(float32_norms())
        peaks = {}
        for name, stage in stages.items():
            given = tree_map_only(Tensor, fake.from_tensor, inputs[name])
            with Live(fakes) as live, torch.autocast("cpu", low, enabled=mixed):
                stage.predict(*given)
            peaks[f"the denoiser of the stage {name}"] = live.peak
        if vae is not None:
            size_px = stages["base"].resolution_px
            size, channels = size_px // scale_of(vae), vae.config.latent_channels
            for part, call, shape in (
                ("encoder", vae.encode, (1, 3, size_px, size_px)),
                ("decoder", vae.decode, (backbone.batch_size, channels, size, size)),
            ):
                with Live(fakes) as live:
                    call(torch.empty(shape))
                peaks[f"the VAE's {part}"] = live.peak
        where = max(peaks, key=lambda name: peaks[name])
        return DrawingMemory(bytes_of(fakes), peaks[where], where)


def advice_on_drawing(drawing: Drawing, memory: DrawingMemory) -> str:
    """What to change where drawing does not fit."""
    backbone, vae = drawing.backbone, getattr(drawing.backbone, "vae", None)
    if not drawing.precision.endswith("mixed"):
        return "try trainer=gpu, which generates in half precision"
    if "VAE" in memory.where and vae is not None and not vae.use_tiling:
        return "try drawing.vae_tiling=true"
    if backbone.batch_size > 1:
        return f"lower model.backbone.batch_size (it is {backbone.batch_size})"
    return "try a smaller model.backbone.resolution_px, or a smaller model"


def _batch_size(backbone: Backbone, sampling: Sampling, stage_name: str) -> int:
    """How many images a stage's denoiser is given at once: with guidance, each twice."""
    guided = sampling.samplers[stage_name].guidance_scale != 1
    twice = guided and getattr(backbone.stages[stage_name], "guided_at_once", True)
    return backbone.batch_size * (2 if twice else 1)


def _inputs(stage: Stage, batch_size: int) -> tuple[Any, ...]:
    """Arguments of `stage.predict`, with zeros in place of images."""
    rng, z_t = generator("memory"), torch.zeros(batch_size, *stage.x_shape)
    t = torch.stack([stage.schedule.draw_t(TimestepDistribution(), rng)] * batch_size)
    added = stage.added_condition(z_t[0], rng, None)
    added = {name: torch.stack([value] * batch_size) for name, value in added.items()}
    return z_t, t, {**stage.encode_prompts([""] * batch_size), **added}


@contextmanager
def fake_tensors() -> Iterator[FakeTensorMode]:
    """Inside the context, new tensors are fake, and modules are moved nowhere."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, _without_data():
        yield mode


@contextmanager
def fake_weights(
    module: nn.Module, halved: Container[int], low: torch.dtype
) -> Iterator[dict[int, Tensor]]:
    """Inside the context, a module has fake parameters; those of the ids `halved` are `low`.

    Yields id of a parameter -> its fake.
    """
    fakes: dict[int, Tensor] = {}
    for parameter in module.parameters():
        dtype = low if id(parameter) in halved else parameter.dtype
        like = torch.empty(parameter.shape, dtype=dtype, device="cpu")
        fakes[id(parameter)] = nn.Parameter(like, parameter.requires_grad)
    named = module.named_parameters(remove_duplicate=False)
    with _reparametrize_module(module, {name: fakes[id(p)] for name, p in named}):
        yield fakes


def bytes_of(tensors: Iterable[Tensor]) -> int:
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
def float32_norms() -> Iterator[None]:
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


class Live(TorchDispatchMode):
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
