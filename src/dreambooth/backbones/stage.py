"""What a personalization method needs from a model: stages that denoise, and a backbone of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dreambooth.sampling import Sampler
from dreambooth.schedules import NoiseSchedule

Condition = Mapping[str, Tensor]
"""All that a stage is conditioned on, each tensor batch first: `text` (B, tokens, width), and what
the stage adds (pooled text, the low-resolution image and its noise level)."""


def concatenate(conditions: Sequence[Condition]) -> Condition:
    """One batch from several; all have the same keys."""
    return {key: torch.cat([c[key] for c in conditions]) for key in conditions[0]}


def repeat(condition: Condition, index: Tensor) -> Condition:
    """Rows `index` (B,) of a condition, as a batch."""
    return {key: value[index] for key, value in condition.items()}


def trainable_parameters(denoiser: nn.Module, policy: str) -> list[nn.Parameter]:
    """`all`, or `cross_attention`: the attention layers from image to text (`attn2`)."""
    if policy == "all":
        return list(denoiser.parameters())
    if policy == "cross_attention":
        return [p for name, p in denoiser.named_parameters() if ".attn2." in name]
    raise ValueError(f"train={policy!r} is not known; choose all or cross_attention")


@dataclass(frozen=True)
class Encoded:
    """Images in a stage's own space: a normal distribution, since a VAE's encoder gives one.

    `std` is None where the encoding is exact (pixels).
    """

    mean: Tensor  # (N, *x_shape)
    std: Tensor | None = None

    def sample(self, index: int, generator: torch.Generator) -> Tensor:
        """x of image `index`, of shape `x_shape`."""
        if self.std is None:
            return self.mean[index]
        noise = torch.randn(self.mean.shape[1:], generator=generator)
        return self.mean[index] + self.std[index] * noise


class Stage(Protocol):
    """One denoiser with its noise schedule and its conditioning."""

    name: str  # "base", or "sr"
    denoiser: nn.Module
    schedule: NoiseSchedule
    x_shape: tuple[int, int, int]
    noise_level: float  # an SR stage's: variance of the noise on what it enlarges, in training
    resolution_px: int  # of the images that `encode` takes and `decode` gives

    def encode(self, images: Tensor) -> Encoded:
        """Images [-1, 1] (N, 3, resolution_px, resolution_px) to the stage's space; no gradient."""

    def decode(self, x: Tensor) -> Tensor:
        """x (N, *x_shape) to images [-1, 1] (N, 3, resolution_px, resolution_px); no gradient."""

    def condition(self, prompts: Sequence[str]) -> Condition:
        """The text part of the condition, one row a prompt; no gradient."""

    def added_condition(self, x: Tensor, generator: torch.Generator) -> Condition:
        """What the condition of one training image x (*x_shape) holds beside text, no batch
        dimension: an SR stage's noisy low-resolution image and its noise level; else nothing."""

    def predict(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The denoiser's output, in the parametrisation of `schedule.prediction_type`.

        z_t (B, *x_shape); t (B,) int64 timesteps; returns (B, *x_shape), float32.
        """

    def trainable_parameters(self, policy: str) -> list[nn.Parameter]:
        """What trains: `all` of the denoiser, or `cross_attention`; else ValueError."""


class Backbone(Protocol):
    """A pretrained text-to-image model: its stages, its tokenizer, and how a picture is drawn."""

    name: str
    tokenizer: Any  # of transformers
    stages: Mapping[str, Stage]
    batch_size: int  # how many images are drawn at once

    def fingerprint(self) -> str:
        """A hash of all weights: what the prior cache is keyed by."""

    def check_prompt(self, prompt: str, identifier: str = "") -> None:
        """ValueError where the text encoder cannot take the prompt (too long, unknown words)."""

    def generate(
        self,
        prompts: Sequence[str],
        keys: Sequence[tuple],
        sampling: Mapping[str, Sampler],
        last_stage: str | None = None,
    ) -> Tensor:
        """Images, uint8 (N, 3, H, W), one a prompt; image i's noise comes from `keys[i]` alone.

        `sampling` names a sampler for each stage; the images are those of the last stage, or of
        `last_stage`.
        """

    def set_super_resolution(self, enabled: bool, noise_level: float | None) -> None:
        """Whether pictures are drawn with the SR stage or enlarged plainly, and at which variance
        of the noise on its condition (None: as before). ValueError where there is no SR stage."""

    def super_resolve(
        self,
        low: Tensor,
        prompts: Sequence[str],
        keys: Sequence[tuple],
        sampling: Mapping[str, Sampler],
    ) -> Tensor:
        """As `generate`, from images of the base stage's resolution, [-1, 1] (N, 3, h, w)."""

    def save(self, folder: Path) -> None:
        """The weights, in the diffusers layout that `load` (and plain diffusers) reads."""
