"""Weights in half precision while a model trains or draws in mixed precision."""

import functools
from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # autocast computes them in half precision


def half_precision(precision: str) -> torch.dtype:
    """That of a precision in Lightning's words, such as bf16-mixed."""
    return torch.float16 if precision.startswith("16") else torch.bfloat16


def convertible(module: nn.Module, trained_too: bool = False) -> list[nn.Parameter]:
    """The frozen weights that autocast converts in each step anyway; `trained_too`: all of them.

    The first weight of a model is none of them: diffusers reads the model's precision off it, and
    would draw noise and keep latents in half precision.
    """
    models = [child for child in module.modules() if hasattr(child, "dtype")]
    first = {id(next(model.parameters(), None)) for model in models}
    layers = [layer for layer in module.modules() if isinstance(layer, _LAYERS)]
    weights = [p for layer in layers for p in layer.parameters(recurse=False)]
    return [
        p
        for p in weights
        if p.dtype == torch.float32 and id(p) not in first and (trained_too or not p.requires_grad)
    ]


class HalvedWeights:
    """Keeps the weights `convertible` of a module in half precision on its device, and the
    originals on the CPU. A forward in mixed precision then takes half of their memory and computes
    the same bits, except with adapters that compute with these weights themselves, such as DoRA.
    """

    def __init__(self, module: nn.Module, precision: str, trained_too: bool = False):
        self.dtype = half_precision(precision)
        weights = convertible(module, trained_too) if precision.endswith("mixed") else []
        self.originals: list[tuple[nn.Parameter, Tensor]] = [(p, p.data.cpu()) for p in weights]
        self.halve()

    def halve(self) -> None:
        for parameter, original in self.originals:
            parameter.data = original.to(parameter.device, self.dtype)

    def restore(self, device: str | None = None, but: Container[int] = ()) -> None:
        """Put the originals back, on the device of the module or another one.

        `but`: the ids of parameters that stay as they are.
        """
        for parameter, original in self.originals:
            if id(parameter) not in but:
                parameter.data = original.to(device or parameter.device)


@contextmanager
def full_precision(module: Any) -> Iterator[None]:
    """Inside the context, a LightningModule with `halved` weights has the originals, but for those
    of its denoiser, which draws with halved ones (`denoiser_on_device`)."""
    halved = getattr(module, "halved", None)
    if halved is not None:
        halved.restore(but={id(p) for p in module.stage.denoiser.parameters()})
    try:
        yield
    finally:
        if halved is not None:
            halved.halve()


@contextmanager
def denoiser_on_device(module: nn.Module, device: torch.device, precision: str) -> Iterator[None]:
    """Inside the context, a denoiser is on a device and computes in a precision of Lightning.

    In mixed precision it is autocast and returns float32. If it was elsewhere, its weights are
    halved before they are moved, and afterwards it is as it was, on the CPU. In any other precision
    it stays on the device as it is.
    """
    if not precision.endswith("mixed"):
        module.to(device)
        yield
        return
    was_there = _is_on(module, device)
    halved = None if was_there else HalvedWeights(module, precision, trained_too=True)
    module.to(device)
    try:
        with _autocast(module, device, half_precision(precision)):
            yield
    finally:
        if halved is not None:
            halved.restore("cpu")
            module.to("cpu")


def _is_on(module: nn.Module, device: torch.device) -> bool:
    return next(module.parameters()).device.type == device.type


@contextmanager
def _autocast(module: Any, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    forward = module.forward

    @functools.wraps(forward)  # parity.py reads the signature
    def in_half(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device.type, dtype):
            output = forward(*args, **kwargs)
        return tree_map_only(Tensor, Tensor.float, output)

    module.forward = in_half
    try:
        yield
    finally:
        del module.forward
