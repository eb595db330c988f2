"""Ancestral and fast sampling with classifier-free guidance.

Each image has its own random generator, for its initial noise and the noise of each ancestral step:
the noise of an image does not depend on the batch that it is drawn in.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from dreambooth.schedules import NoiseSchedule, Solver


class DenoisingStage(Protocol):
    """The part of a stage (backbones/stage.py) that sampling needs."""

    denoiser: nn.Module
    schedule: NoiseSchedule
    x_shape: tuple[int, ...]

    def predict(self, z_t: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The denoiser's output, in the parametrisation of `schedule.prediction_type`."""


@torch.no_grad()
def sample(
    stage: DenoisingStage,
    condition: Mapping[str, Tensor],
    null_condition: Mapping[str, Tensor],
    generators: Sequence[torch.Generator],
    solver: Solver,
    guidance_scale: float,
) -> Tensor:
    """Sample x (B, *stage.x_shape) from pure noise, under a condition of B rows.

    `null_condition`: B rows that guidance leads away from; unused with guidance_scale 1.
    `generators`: B of them, on CPU. `solver`: a fresh one from the stage's schedule. The denoiser
    runs in eval mode; its own mode is restored afterwards.
    """
    from diffusers.utils.torch_utils import randn_tensor

    rngs = list(generators)  # diffusers needs a list to draw each image from its own generator
    assert all(len(v) == len(rngs) for v in condition.values()), "one generator for each image"
    device = next(iter(condition.values())).device
    if guidance_scale != 1:
        condition = {k: torch.cat([null_condition[k], condition[k]]) for k in condition}
    with evaluation_mode(stage.denoiser):
        z_t = randn_tensor((len(rngs), *stage.x_shape), generator=rngs, device=device)
        for t in solver.timesteps:
            x_hat = guided_x(stage, z_t, t.item(), condition, guidance_scale)
            z_t = solver.step(x_hat, t, z_t, generator=rngs).prev_sample
    return z_t


def guided_x(
    stage: DenoisingStage,
    z_t: Tensor,
    t: float,
    condition: Mapping[str, Tensor],
    guidance_scale: float,
) -> Tensor:
    """x_hat from the guided prediction, null + guidance_scale * (conditional - null).

    Both predictions come from one forward pass. Arguments as in `sample`, except `condition`: with
    guidance it has 2B rows, of which the first B are the null condition. For pixel models x_hat is
    clipped to [-1, 1] (Imagen's static thresholding, arXiv 2205.11487, section 2.3).
    """
    times = torch.full((len(z_t),), t, device=z_t.device)
    if guidance_scale == 1:
        prediction = stage.predict(z_t, times, condition)
    else:
        both = stage.predict(torch.cat([z_t, z_t]), torch.cat([times, times]), condition)
        null, conditional = both.chunk(2)
        prediction = null + guidance_scale * (conditional - null)
    x_hat = stage.schedule.to_x(prediction, z_t, times)
    return x_hat.clamp(-1, 1) if stage.schedule.clip_sample else x_hat


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode inside the context; afterwards each submodule is in its previous mode again."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, training in modes:
            child.training = training
