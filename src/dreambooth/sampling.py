"""Ancestral and fast sampling with classifier-free guidance, by the solvers of a noise schedule.

Each image has a random generator of its own, which gives its initial noise and the noise of each
ancestral step: an image does not depend on the batch that it was made in.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from dreambooth.schedules import NoiseSchedule, Solver


class DenoisingStage(Protocol):
    """What is drawn from: of a stage (backbones/stage.py) as much as a sampler needs."""

    denoiser: nn.Module
    schedule: NoiseSchedule
    x_shape: tuple[int, ...]

    def predict(self, z_t: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The output of the network, in the parametrisation of `schedule.prediction_type`."""


@torch.no_grad()
def sample(
    stage: DenoisingStage,
    condition: Mapping[str, Tensor],
    null_condition: Mapping[str, Tensor],
    generators: Sequence[torch.Generator],
    solver: Solver,
    guidance_scale: float,
) -> Tensor:
    """x (B, *stage.x_shape), drawn from pure noise under a condition of B rows.

    `null_condition`, of B rows too, is what guidance leads away from; unused at guidance_scale 1.
    `generators`: B of them, on CPU. `solver`: a fresh one of the stage's schedule. The denoiser
    runs in eval mode, and is afterwards as it was before.
    """
    from diffusers.utils.torch_utils import randn_tensor

    rows = list(generators)  # a list is what diffusers draws from image by image
    assert all(len(value) == len(rows) for value in condition.values()), "one generator an image"
    device = next(iter(condition.values())).device
    if guidance_scale != 1:
        condition = {k: torch.cat([null_condition[k], condition[k]]) for k in condition}
    with evaluation_mode(stage.denoiser):
        z_t = randn_tensor((len(rows), *stage.x_shape), generator=rows, device=device)
        for t in solver.timesteps:
            x_hat = guided_x(stage, z_t, t.item(), condition, guidance_scale)
            z_t = solver.step(x_hat, t, z_t, generator=rows).prev_sample
    return z_t


def guided_x(
    stage: DenoisingStage,
    z_t: Tensor,
    t: float,
    condition: Mapping[str, Tensor],
    guidance_scale: float,
) -> Tensor:
    """x_hat of null + guidance_scale * (conditional - null), both from one forward.

    Arguments as in `sample`, except `condition`: with guidance it has 2B rows, null ones first.
    The prediction becomes x_hat here, so that every solver sees the same clipping to
    [-1, 1] (Imagen's static thresholding, arXiv 2205.11487, section 2.3) for pixel models.
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
    """Eval mode inside; afterwards each submodule is in its own mode of before."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, training in modes:
            child.training = training
