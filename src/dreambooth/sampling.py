"""Ancestral and fast sampling with classifier-free guidance, on diffusers' schedulers.

Each image has a random generator of its own, which gives its initial noise and the noise of each
ancestral step: an image does not depend on the batch that it was made in.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dreambooth.schedules import NoiseSchedule

SAMPLERS = ("ancestral", "ddim", "dpm")


class DenoisingStage(Protocol):
    """What is drawn from: of a stage (backbones/stage.py) as much as a sampler needs."""

    denoiser: nn.Module
    schedule: NoiseSchedule
    x_shape: tuple[int, int, int]

    def predict(self, z_t: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The output of the network, in the parametrisation of `schedule.prediction_type`."""


@dataclass(frozen=True)
class Sampler:
    """How images are drawn.

    `ancestral`: DDPM's (Ho et al., arXiv 2006.11239, equation 7), the paper's choice for prior
    images. `ddim`: deterministic, eta = 0 (Song et al., arXiv 2010.02502). `dpm`: DPM-Solver++ of
    second order (Lu et al., arXiv 2211.01095). guidance_scale 1 is no guidance.
    """

    name: str
    num_steps: int
    guidance_scale: float

    def __post_init__(self) -> None:
        if self.name not in SAMPLERS:
            raise ValueError(f"sampler {self.name!r} is unknown: take {', '.join(SAMPLERS)}")
        if not isinstance(self.num_steps, int) or self.num_steps < 1:
            raise ValueError(f"num_steps is {self.num_steps!r}: give a whole number from 1 up")
        if not isinstance(self.guidance_scale, int | float) or not self.guidance_scale >= 0:
            raise ValueError(
                f"guidance_scale is {self.guidance_scale!r}: give a number, 1 for no guidance"
            )


@torch.no_grad()
def sample(
    stage: DenoisingStage,
    condition: Mapping[str, Tensor],
    null_condition: Mapping[str, Tensor],
    generators: Sequence[torch.Generator],
    sampler: Sampler,
) -> Tensor:
    """x (B, *stage.x_shape), drawn from pure noise under a condition of B rows.

    `null_condition`, of B rows too, is what guidance leads away from; unused at guidance_scale 1.
    `generators`: B of them, on CPU. The denoiser runs in eval mode, and is then as it was before.
    """
    from diffusers.utils.torch_utils import randn_tensor

    rows = list(generators)  # a list is what diffusers draws from image by image
    assert all(len(value) == len(rows) for value in condition.values()), "one generator an image"
    device = next(iter(condition.values())).device
    scheduler = scheduler_of(sampler, stage.schedule)
    if sampler.guidance_scale != 1:
        condition = {k: torch.cat([null_condition[k], condition[k]]) for k in condition}
    with evaluation_mode(stage.denoiser):
        z_t = randn_tensor((len(rows), *stage.x_shape), generator=rows, device=device)
        for t in scheduler.timesteps:
            x_hat = guided_x(stage, z_t, int(t), condition, sampler.guidance_scale)
            z_t = scheduler.step(x_hat, t, z_t, generator=rows).prev_sample
    return z_t


def guided_x(
    stage: DenoisingStage,
    z_t: Tensor,
    t: int,
    condition: Mapping[str, Tensor],
    guidance_scale: float,
) -> Tensor:
    """x_hat of null + guidance_scale * (conditional - null), both from one forward.

    Arguments as in `sample`, but for `condition`: with guidance it has 2B rows, null ones first.
    The prediction is turned to x_hat here, so that every scheduler sees the same clipping to
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


def scheduler_of(sampler: Sampler, schedule: NoiseSchedule) -> Any:
    """diffusers' scheduler of a sampler, with its timesteps set; its model output is x_hat.

    Two faults of diffusers 0.42 are stepped around. Its DDIMScheduler steps to t - T // num_steps,
    which is not the next timestep where num_steps does not divide T; DPM-Solver++ of first order
    *is* DDIM (arXiv 2211.01095) and steps right. Its trailing timesteps are one too
    many, with t = -1 last, for some num_steps (61 of 1000).
    """
    from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

    if sampler.num_steps > schedule.num_timesteps:
        raise ValueError(
            f"num_steps is {sampler.num_steps}, more than the {schedule.num_timesteps} timesteps "
            "that the model was trained with: take fewer"
        )
    # At zero terminal SNR, DPM-Solver's log SNR would be infinite; 2^-24 is diffusers' own floor.
    alphas_cumprod = schedule.alphas_cumprod.double().clamp(min=2**-24)
    previous = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])
    settings = {
        "num_train_timesteps": schedule.num_timesteps,
        "trained_betas": (1 - alphas_cumprod / previous).tolist(),
        "prediction_type": "sample",
    }
    if sampler.name == "ancestral":
        scheduler = DDPMScheduler(**settings, clip_sample=False)
    else:
        order = {"ddim": 1, "dpm": 2}[sampler.name]
        scheduler = DPMSolverMultistepScheduler(**settings, solver_order=order)
    scheduler.set_timesteps(timesteps=trailing_timesteps(schedule.num_timesteps, sampler.num_steps))
    return scheduler


def trailing_timesteps(num_timesteps: int, num_steps: int) -> list[int]:
    """Evenly spaced, falling, from the last timestep (Lin et al., arXiv 2305.08891, table 2)."""
    return [round(num_timesteps * i / num_steps) - 1 for i in range(num_steps, 0, -1)]


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
