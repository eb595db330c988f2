"""A denoiser compiled by `torch.compile`, in training steps alone.

Images are generated, and the model is checked and saved, with the denoiser as it is. Its
parameters, their names and their layout in memory do not change.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn


@contextmanager
def with_forward(denoiser: Any, forward: Callable[..., Any] | None) -> Iterator[None]:
    """Inside the context, `denoiser.forward` is `forward`; None changes nothing."""
    if forward is not None:
        denoiser.forward = forward
    try:
        yield
    finally:
        if forward is not None:
            del denoiser.forward


def compiled_forward(denoiser: nn.Module) -> Callable[..., Any]:
    """The forward of a denoiser, to be compiled when it is first called."""
    forward: Callable[..., Any] = torch.compile(denoiser.forward)
    return forward


@cache
def check_compiler(device: torch.device) -> None:
    """Compile one addition. ValueError if that fails, as without a compiler for C++."""
    try:
        torch.compile(torch.add)(torch.zeros(2, device=device), 1)
    except Exception as error:  # each missing tool has an error of its own
        reason = next(line for line in str(error).splitlines() if line).rstrip(". ")
        raise ValueError(
            f"method.module.compile=true: torch.compile does not work on this machine ({reason}): "
            "install a compiler for C++, such as g++, or give method.module.compile=false"
        ) from error
