"""How noise enters an image, what a denoiser predicts, and how a sampling step removes noise.

Two families share one protocol, `NoiseSchedule`:

    VariancePreserving   z_t = alpha_t x + sigma_t eps,   alpha_t^2 + sigma_t^2 = 1
    FlowMatching         z_t = (1 - sigma) x + sigma eps,   the model predicts eps - x

snr(t) is the squared ratio of the factor of x to the factor of eps. A denoiser has one of several
parametrisations, named as in diffusers: `epsilon` predicts eps, `sample` predicts x,
`v_prediction` predicts v = alpha_t eps - sigma_t x (Salimans & Ho, arXiv 2202.00512, appendix D),
`flow_prediction` predicts eps - x (Lipman et al., arXiv 2210.02747).
"""

from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")  # for a variance-preserving schedule


@dataclass(frozen=True)
class TimestepDistribution:
    """The distribution of the timesteps in training, as u in (0, 1); 1 is pure noise.

    `uniform`, or `logit_normal`: u = 1 / (1 + exp(-n)) with n from N(0, 1). Then u is shifted to
    shift u / (1 + (shift - 1) u), which for shift > 1 is nearer to pure noise (Esser et al.,
    arXiv 2403.03206, sections 3.1 and 5.3).
    """

    name: str = "uniform"
    shift: float = 1.0

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw one u, a float32 scalar."""
        if self.name == "uniform":
            u = torch.rand((), generator=generator)
        else:
            assert self.name == "logit_normal", self.name
            u = torch.randn((), generator=generator).sigmoid()
        return shifted(u, self.shift)


def shifted(u: Tensor, shift: float) -> Tensor:
    """shift u / (1 + (shift - 1) u)."""
    return shift * u / (1 + (shift - 1) * u)


class Solver(Protocol):
    """The steps from noise to an image: what `sample` uses of a diffusers scheduler."""

    timesteps: Any  # an iterable of decreasing scalar tensors, each a t of the schedule

    def step(self, x_hat: Tensor, t: Tensor, z_t: Tensor, generator: Any) -> Any:
        """Step to the next timestep: `.prev_sample` of the result is z there. x_hat, z_t (B, ...).

        `generator`: one, or a list of B, for the noise that an ancestral step adds.
        """


class NoiseSchedule(Protocol):
    """How noise enters x, and how a prediction becomes x_hat.

    In all methods x, eps, z_t and predictions have the shape (B, ...), with any number of
    dimensions, and t has the shape (B,). Results are on the device of the arguments.
    """

    @property
    def prediction_type(self) -> str:
        """The parametrisation of the denoiser."""

    @property
    def clip_sample(self) -> bool:
        """Whether samplers clip x_hat to [-1, 1]: true for pixels, false for latents."""

    def draw_t(self, distribution: TimestepDistribution, generator: torch.Generator) -> Tensor:
        """Draw the t of one training image, a scalar."""

    def snr(self, t: Tensor) -> Tensor:
        """The signal-to-noise ratio of z_t, (B,)."""

    def corrupt(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """z_t, from x and eps."""

    def target(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What a perfect denoiser predicts."""

    def to_x(self, prediction: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        """x_hat, from a prediction at z_t."""

    def solver(self, name: str, num_steps: int) -> Solver:
        """The solver of the sampler `name`, over evenly spaced timesteps.

        ValueError if the schedule does not support the sampler, or has fewer timesteps than steps.
        """


def schedule_of(scheduler: Any) -> NoiseSchedule:
    """The noise schedule that a model was trained with, from the diffusers scheduler in its folder.

    A flow-matching model is trained on timesteps with its scheduler's shift, unless that shift is
    dynamic, which concerns sampling alone: so do diffusers' training scripts, through the sigmas
    that their scheduler has when it is made.

    ValueError if the scheduler is neither variance-preserving nor flow matching.
    """
    if hasattr(scheduler, "alphas_cumprod"):
        return VariancePreserving.from_scheduler(scheduler)
    if type(scheduler).__name__.startswith("FlowMatch"):
        is_dynamic = scheduler.config.get("use_dynamic_shifting", False)
        return FlowMatching(1.0 if is_dynamic else scheduler.config.get("shift", 1.0))
    raise ValueError(
        f"{type(scheduler).__name__} is neither a variance-preserving noise schedule (it has no "
        "alphas_cumprod) nor flow matching: give a model with a DDPM-like or FlowMatch scheduler"
    )


@dataclass(frozen=True, eq=False)
class VariancePreserving:
    """A NoiseSchedule with T discrete timesteps, int64 t = 0 .. T - 1."""

    alphas_cumprod: Tensor  # (T,) float32 on CPU: alpha_t^2, decreasing
    prediction_type: str = "epsilon"
    clip_sample: bool = False

    def __post_init__(self) -> None:
        if self.prediction_type not in PREDICTION_TYPES:
            raise ValueError(
                f"prediction_type {self.prediction_type!r} is not supported: "
                f"give a model with one of {', '.join(PREDICTION_TYPES)}"
            )
        if self.prediction_type == "epsilon" and self.alphas_cumprod[-1] == 0:
            raise ValueError(
                "prediction_type 'epsilon' cannot be sampled on a schedule that ends at zero SNR, "
                "where z_t = eps contains no x: train with v_prediction, or do not rescale the "
                "betas to zero terminal SNR"
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
        if distribution == TimestepDistribution():  # exactly uniform over the integers
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
        """z_t = alpha_t x + sigma_t eps, which has unit variance if x has."""
        alpha, sigma = _expand_to(x, *self.alpha_sigma(t))
        return alpha * x + sigma * eps

    def target(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """eps, x, or v."""
        if self.prediction_type == "epsilon":
            return eps
        if self.prediction_type == "sample":
            return x
        alpha, sigma = _expand_to(x, *self.alpha_sigma(t))
        return alpha * eps - sigma * x

    def to_x(self, prediction: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = _expand_to(z_t, *self.alpha_sigma(t))
        if self.prediction_type == "epsilon":
            return (z_t - sigma * prediction) / alpha
        if self.prediction_type == "v_prediction":
            return alpha * z_t - sigma * prediction
        return prediction

    def solver(self, name: str, num_steps: int) -> Solver:
        """A diffusers scheduler that takes x_hat as the model's output.

        Two faults of diffusers 0.42 are avoided. Its DDIMScheduler steps to t - T // num_steps,
        which is not the next timestep if num_steps does not divide T; first-order DPM-Solver++
        *is* DDIM (arXiv 2211.01095) and steps correctly. Its trailing timesteps are one too many,
        with t = -1 last, for some num_steps (such as 61, with T = 1000).
        """
        from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

        if name == "euler":
            raise ValueError(
                "sampler 'euler' is for flow-matching models, and this model is none: give "
                "ancestral, ddim or dpm"
            )
        if num_steps > self.num_timesteps:
            raise ValueError(
                f"num_steps is {num_steps}, more than the {self.num_timesteps} timesteps that the "
                f"model was trained with: give at most {self.num_timesteps}"
            )
        # At zero terminal SNR, DPM-Solver's log SNR would be infinite. 2^-24 is diffusers' minimum.
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
    """`num_steps` evenly spaced timesteps, decreasing from the last one (Lin et al.,
    arXiv 2305.08891, table 2)."""
    return [round(num_timesteps * i / num_steps) - 1 for i in range(num_steps, 0, -1)]


@dataclass(frozen=True)
class FlowMatching:
    """A NoiseSchedule on the straight line from x to eps; t is sigma, float32 in (0, 1].

    `shift` moves the timesteps of training and sampling towards noise, as in
    `TimestepDistribution`.
    """

    shift: float = 1.0
    prediction_type: str = "flow_prediction"
    clip_sample: bool = False

    def draw_t(self, distribution: TimestepDistribution, generator: torch.Generator) -> Tensor:
        u = shifted(distribution.draw(generator), self.shift)
        return u.clamp(min=1e-5)  # at t = 0 the SNR is infinite

    def snr(self, t: Tensor) -> Tensor:
        return ((1 - t) / t).square()

    def corrupt(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """z_t = (1 - t) x + t eps."""
        (sigma,) = _expand_to(x, t)
        return (1 - sigma) * x + sigma * eps

    def target(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The velocity eps - x, the same at every t."""
        return eps - x

    def to_x(self, prediction: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        (sigma,) = _expand_to(z_t, t)
        return z_t - sigma * prediction

    def solver(self, name: str, num_steps: int) -> Solver:
        if name != "euler":
            raise ValueError(
                f"sampler {name!r} is not available for a flow-matching model: give euler"
            )
        return _Euler(shifted(torch.arange(num_steps, -1, -1) / num_steps, self.shift))


class _Euler:
    """Euler's method: z' = z + (sigma' - sigma) v, with v = (z - x_hat) / sigma."""

    def __init__(self, sigmas: Tensor):  # (num_steps + 1,), from 1 to 0
        self.timesteps = sigmas[:-1]
        self._next_sigma = dict(zip(sigmas.tolist(), sigmas[1:], strict=False))

    def step(self, x_hat: Tensor, t: Tensor, z_t: Tensor, generator: Any) -> Any:
        from diffusers.schedulers.scheduling_utils import SchedulerOutput

        return SchedulerOutput(x_hat + self._next_sigma[float(t)] / t * (z_t - x_hat))


def _expand_to(x: Tensor, *values: Tensor) -> list[Tensor]:
    """Reshape values (B,) to (B, 1, ...), with as many dimensions as x."""
    return [value.view(-1, *[1] * (x.ndim - 1)) for value in values]
