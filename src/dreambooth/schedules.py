"""How noise enters an image, what a denoiser predicts, and how a step of sampling takes noise away.

Two families share one protocol, `NoiseSchedule`:

    VariancePreserving   z_t = alpha_t x + sigma_t eps,   alpha_t^2 + sigma_t^2 = 1
    FlowMatching         z_t = (1 - sigma) x + sigma eps,   the model predicts eps - x

snr(t) is the square of the factor of x over that of eps. A denoiser predicts x in one of several
parametrisations, named as in diffusers: `epsilon` predicts eps, `sample` predicts x,
`v_prediction` predicts v = alpha_t eps - sigma_t x (Salimans & Ho, arXiv 2202.00512, appendix D),
`flow_prediction` predicts eps - x (Lipman et al., arXiv 2210.02747).
"""

from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")  # of a variance-preserving schedule
DISTRIBUTIONS = ("uniform", "logit_normal")


@dataclass(frozen=True)
class TimestepDistribution:
    """From which distribution training draws its timesteps, as u in (0, 1); 1 is pure noise.

    `uniform`, or `logit_normal`: u = 1 / (1 + exp(-n)) with n from N(0, 1). Then u is shifted to
    shift u / (1 + (shift - 1) u): above 1 towards noise (Esser et al., arXiv 2403.03206, 3.1, 5.3).
    """

    name: str = "uniform"
    shift: float = 1.0

    def draw(self, generator: torch.Generator) -> Tensor:
        """One u, a float32 scalar."""
        if self.name == "uniform":
            u = torch.rand((), generator=generator)
        else:
            assert self.name == "logit_normal", self.name
            u = torch.randn((), generator=generator).sigmoid()
        return shifted(u, self.shift)


def shifted(u: Tensor, shift: float) -> Tensor:
    return shift * u / (1 + (shift - 1) * u)


class Solver(Protocol):
    """The steps from noise to an image, as diffusers' schedulers have them."""

    timesteps: Any  # an iterable of falling scalar tensors, each a t of the schedule

    def step(self, x_hat: Tensor, t: Tensor, z_t: Tensor, generator: Any) -> Any:
        """`.prev_sample` of the result is z at the next timestep. x_hat, z_t (B, ...)."""


class NoiseSchedule(Protocol):
    """In all methods x, eps, z_t and predictions are (B, ...) of any number of dimensions, t is
    (B,); the result is on their device."""

    @property
    def prediction_type(self) -> str:
        """The parametrisation of the denoiser."""

    @property
    def clip_sample(self) -> bool:
        """Whether samplers clip x_hat to [-1, 1]: for pixels, not for latents."""

    def draw_t(self, distribution: TimestepDistribution, generator: torch.Generator) -> Tensor:
        """The t of one training image, a scalar."""

    def snr(self, t: Tensor) -> Tensor:
        """The signal-to-noise ratio of z_t, (B,)."""

    def corrupt(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """z_t."""

    def target(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What a perfect denoiser predicts."""

    def to_x(self, prediction: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        """The x_hat that a prediction at z_t means."""

    def solver(self, name: str, num_steps: int) -> Solver:
        """That of a sampler (sampling.py), over evenly spaced timesteps. ValueError where this
        schedule has no such sampler, or fewer timesteps."""


def schedule_of(scheduler: Any) -> NoiseSchedule:
    """What a model was trained with, from any diffusers scheduler of its folder."""
    if hasattr(scheduler, "alphas_cumprod"):
        return VariancePreserving.from_scheduler(scheduler)
    if type(scheduler).__name__.startswith("FlowMatch"):
        return FlowMatching(scheduler.config.get("shift", 1.0))
    raise ValueError(
        f"{type(scheduler).__name__} is neither a variance-preserving noise schedule (it has no "
        "alphas_cumprod) nor flow matching: give a model with a DDPM-like or FlowMatch scheduler"
    )


@dataclass(frozen=True, eq=False)
class VariancePreserving:
    """A NoiseSchedule of int64 timesteps t = 0 .. T - 1, with alpha_t and sigma_t for each."""

    alphas_cumprod: Tensor  # (T,) float32 on CPU: alpha_t^2, falling
    prediction_type: str = "epsilon"
    clip_sample: bool = False

    def __post_init__(self) -> None:
        if self.prediction_type not in PREDICTION_TYPES:
            raise ValueError(
                f"prediction_type {self.prediction_type!r} is not supported: "
                f"take a model with one of {', '.join(PREDICTION_TYPES)}"
            )
        if self.prediction_type == "epsilon" and self.alphas_cumprod[-1] == 0:
            raise ValueError(
                "prediction_type 'epsilon' cannot be sampled on a schedule that ends at zero SNR, "
                "where z_t = eps says nothing of x: train with v_prediction, or do not rescale "
                "the betas to zero terminal SNR"
            )

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> Self:
        return cls(
            alphas_cumprod=scheduler.alphas_cumprod.float().cpu(),
            prediction_type=scheduler.config.get("prediction_type", "epsilon"),
            clip_sample=scheduler.config.get("clip_sample", False),
        )

    @property
    def num_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def draw_t(self, distribution: TimestepDistribution, generator: torch.Generator) -> Tensor:
        if distribution == TimestepDistribution():
            return torch.randint(self.num_timesteps, (), generator=generator)
        t = (distribution.draw(generator) * self.num_timesteps).long()
        return t.clamp(max=self.num_timesteps - 1)  # u may round to 1

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t, each (B,)."""
        alpha_squared = self.alphas_cumprod.to(t.device)[t]
        return alpha_squared.sqrt(), (1 - alpha_squared).sqrt()

    def snr(self, t: Tensor) -> Tensor:
        alpha_squared = self.alphas_cumprod.to(t.device)[t]
        return alpha_squared / (1 - alpha_squared)

    def corrupt(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """z_t = alpha_t x + sigma_t eps; of unit variance where x has it."""
        alpha, sigma = _against(x, *self.alpha_sigma(t))
        return alpha * x + sigma * eps

    def target(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """eps, x, or v."""
        if self.prediction_type == "epsilon":
            return eps
        if self.prediction_type == "sample":
            return x
        alpha, sigma = _against(x, *self.alpha_sigma(t))
        return alpha * eps - sigma * x

    def to_x(self, prediction: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = _against(z_t, *self.alpha_sigma(t))
        if self.prediction_type == "epsilon":
            return (z_t - sigma * prediction) / alpha
        if self.prediction_type == "v_prediction":
            return alpha * z_t - sigma * prediction
        return prediction

    def solver(self, name: str, num_steps: int) -> Solver:
        """A diffusers scheduler whose model output is x_hat.

        Two faults of diffusers 0.42 are avoided. Its DDIMScheduler steps to t - T // num_steps,
        which is not the next timestep where num_steps does not divide T; DPM-Solver++ of first
        order *is* DDIM (arXiv 2211.01095) and steps correctly. Its trailing timesteps are one too
        many, with t = -1 last, for some num_steps (61 of 1000).
        """
        from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

        if num_steps > self.num_timesteps:
            raise ValueError(
                f"num_steps is {num_steps}, more than the {self.num_timesteps} timesteps that the "
                "model was trained with: give fewer"
            )
        # At zero terminal SNR, DPM-Solver's log SNR would be infinite; 2^-24 is diffusers' floor.
        alphas_cumprod = self.alphas_cumprod.double().clamp(min=2**-24)
        previous = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])
        settings = {
            "num_train_timesteps": self.num_timesteps,
            "trained_betas": (1 - alphas_cumprod / previous).tolist(),
            "prediction_type": "sample",
        }
        if name == "ancestral":
            scheduler = DDPMScheduler(**settings, clip_sample=False)
        else:
            order = {"ddim": 1, "dpm": 2}[name]
            scheduler = DPMSolverMultistepScheduler(**settings, solver_order=order)
        scheduler.set_timesteps(timesteps=trailing_timesteps(self.num_timesteps, num_steps))
        return scheduler


def trailing_timesteps(num_timesteps: int, num_steps: int) -> list[int]:
    """Evenly spaced, falling, from the last timestep (Lin et al., arXiv 2305.08891, table 2)."""
    return [round(num_timesteps * i / num_steps) - 1 for i in range(num_steps, 0, -1)]


@dataclass(frozen=True)
class FlowMatching:
    """A NoiseSchedule on the straight line from x to eps; t is sigma itself, float32 in (0, 1].

    `shift` moves the timesteps of sampling towards noise, as in `TimestepDistribution`.
    """

    shift: float = 1.0
    prediction_type: str = "flow_prediction"
    clip_sample: bool = False

    def draw_t(self, distribution: TimestepDistribution, generator: torch.Generator) -> Tensor:
        return distribution.draw(generator).clamp(min=1e-5)  # at 0 there is no noise to predict

    def snr(self, t: Tensor) -> Tensor:
        return ((1 - t) / t).square()

    def corrupt(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """z_t = (1 - t) x + t eps."""
        (sigma,) = _against(x, t)
        return (1 - sigma) * x + sigma * eps

    def target(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The velocity eps - x, the same at every t."""
        return eps - x

    def to_x(self, prediction: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        (sigma,) = _against(z_t, t)
        return z_t - sigma * prediction

    def solver(self, name: str, num_steps: int) -> Solver:
        if name != "ddim":
            raise ValueError(
                f"sampler {name!r} is not available for a flow-matching model: give ddim, which "
                "is Euler's method here"
            )
        return _Euler(shifted(torch.arange(num_steps, -1, -1) / num_steps, self.shift))


class _Euler:
    """z' = z + (sigma' - sigma) v with v = (z - x_hat) / sigma."""

    def __init__(self, sigmas: Tensor):  # (num_steps + 1,), from 1 to 0
        self.timesteps = sigmas[:-1]
        self._next = dict(zip(sigmas.tolist(), sigmas[1:], strict=False))

    def step(self, x_hat: Tensor, t: Tensor, z_t: Tensor, generator: Any) -> Any:
        from diffusers.schedulers.scheduling_utils import SchedulerOutput

        return SchedulerOutput(x_hat + self._next[float(t)] / t * (z_t - x_hat))


def _against(x: Tensor, *values: Tensor) -> list[Tensor]:
    """Values (B,) in the shape (B, 1, ...) of x's dimensions."""
    return [value.view(-1, *[1] * (x.ndim - 1)) for value in values]
