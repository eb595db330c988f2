"""AdamW with 8-bit states (Dettmers et al., arXiv 2110.02861), of the package bitsandbytes."""

from collections.abc import Iterable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

_BLOCK, _SMALLEST = 256, 4096  # values that share a scale; smaller tensors keep 32-bit states


def adamw_8bit(groups: Any, *, fused: bool = True, **settings: Any) -> torch.optim.Optimizer:
    """`bitsandbytes.optim.AdamW8bit`, whose only implementation is fused. It needs a GPU."""
    optim: Any = import_module("bitsandbytes.optim")  # an optional dependency
    optimizer: torch.optim.Optimizer = optim.AdamW8bit(groups, **settings)
    return optimizer


def states_8bit(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Empty tensors of the sizes of `adamw_8bit`'s two states of each parameter."""
    states: list[Tensor] = []
    for p in parameters:
        if p.numel() < _SMALLEST:
            states += [torch.empty_like(p, dtype=torch.float32) for _ in range(2)]
        else:
            states += [torch.empty_like(p, dtype=torch.uint8) for _ in range(2)]
            states += [torch.empty(-(-p.numel() // _BLOCK)) for _ in range(2)]
    return states
