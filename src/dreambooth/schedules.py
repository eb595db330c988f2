"""The forward process of a variance-preserving diffusion model, and what its denoiser predicts.

    z_t = alpha_t x + sigma_t eps,   alpha_t^2 + sigma_t^2 = 1,   snr(t) = alpha_t^2 / sigma_t^2

A denoiser says x in one of three parametrisations, named as in diffusers: `epsilon` predicts eps,
`sample` predicts x, and `v_prediction` predicts v = alpha_t eps - sigma_t x (Salimans & Ho, arXiv
2202.00512, appendix D). Given z_t, any of them gives the other two.
"""

from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """alpha_t and sigma_t for t = 0 .. T - 1, and the denoiser's parametrisation.

    In all methods x, eps, z_t and predictions are (B, ...) of four dimensions, t is (B,) int64;
    the result is on their device.
    """

    alphas_cumprod: Tensor  # (T,) float32 on CPU: alpha_t^2, falling
    prediction_type: str = "epsilon"
    clip_sample: bool = False  # samplers clip x_hat to [-1, 1]: for pixels, not for latents

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
        """What a model was trained with, from any diffusers scheduler of its folder."""
        if not hasattr(scheduler, "alphas_cumprod"):
            raise ValueError(
                f"{type(scheduler).__name__} is not a variance-preserving noise schedule (it has "
                "no alphas_cumprod): flow-matching models are not supported, take a DDPM-like one"
            )
        return cls(
            alphas_cumprod=scheduler.alphas_cumprod.float().cpu(),
            prediction_type=scheduler.config.get("prediction_type", "epsilon"),
            clip_sample=scheduler.config.get("clip_sample", False),
        )

    @property
    def num_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t, each (B, 1, 1, 1)."""
        alpha_squared = self.alphas_cumprod.to(t.device)[t, None, None, None]
        return alpha_squared.sqrt(), (1 - alpha_squared).sqrt()

    def snr(self, t: Tensor) -> Tensor:
        """alpha_t^2 / sigma_t^2, (B,)."""
        alpha_squared = self.alphas_cumprod.to(t.device)[t]
        return alpha_squared / (1 - alpha_squared)

    def corrupt(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """z_t = alpha_t x + sigma_t eps; of unit variance where x has it."""
        alpha, sigma = self.alpha_sigma(t)
        return alpha * x + sigma * eps

    def target(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What a perfect denoiser says in its own parametrisation: eps, x, or v."""
        if self.prediction_type == "epsilon":
            return eps
        if self.prediction_type == "sample":
            return x
        alpha, sigma = self.alpha_sigma(t)
        return alpha * eps - sigma * x

    def to_x(self, prediction: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        """x_hat that a prediction at z_t means."""
        alpha, sigma = self.alpha_sigma(t)
        if self.prediction_type == "epsilon":
            return (z_t - sigma * prediction) / alpha
        if self.prediction_type == "v_prediction":
            return alpha * z_t - sigma * prediction
        return prediction

    def to_eps(self, prediction: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        """eps_hat that a prediction at z_t means."""
        alpha, sigma = self.alpha_sigma(t)
        if self.prediction_type == "sample":
            return (z_t - alpha * prediction) / sigma
        if self.prediction_type == "v_prediction":
            return sigma * z_t + alpha * prediction
        return prediction
