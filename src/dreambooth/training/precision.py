"""Frozen weights in half precision while a model trains in mixed precision."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # autocast computes them in half precision


def half_precision(precision: str) -> torch.dtype:
    """That of a precision in Lightning's words, such as bf16-mixed."""
    return torch.float16 if precision.startswith("16") else torch.bfloat16


def convertible(module: nn.Module) -> list[nn.Parameter]:
    """The frozen weights that autocast converts in each step anyway."""
    layers = [layer for layer in module.modules() if isinstance(layer, _LAYERS)]
    weights = [p for layer in layers for p in layer.parameters(recurse=False)]
    return [p for p in weights if not p.requires_grad and p.dtype == torch.float32]


class HalvedWeights:
    """Keeps the frozen weights of a module in half precision on its device, and the originals on
    the CPU. A step of mixed precision then takes half of their memory and computes the same bits,
    except with adapters that compute with these weights themselves, such as DoRA.
    """

    def __init__(self, module: nn.Module, precision: str):
        self.dtype = half_precision(precision)
        weights = convertible(module) if precision.endswith("mixed") else []
        self.originals: list[tuple[nn.Parameter, Tensor]] = [(p, p.data.cpu()) for p in weights]
        self.halve()

    def halve(self) -> None:
        for parameter, original in self.originals:
            parameter.data = original.to(parameter.device, self.dtype)

    def restore(self, device: str | None = None) -> None:
        """Put the originals back, on the device of the module or another one."""
        for parameter, original in self.originals:
            parameter.data = original.to(device or parameter.device)


@contextmanager
def full_precision(module: nn.Module) -> Iterator[None]:
    """Inside the context, a module with `halved` weights has the originals."""
    halved = getattr(module, "halved", None)
    if halved is not None:
        halved.restore()
    try:
        yield
    finally:
        if halved is not None:
            halved.halve()
