"""What a personalization method needs from a model: stages that denoise, and a backbone of them.

docs/extending.md shows how to add one, and which checks it must pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dreambooth.runs.settings import Sampler
from dreambooth.schedules import NoiseSchedule

Condition = Mapping[str, Tensor]
"""All that a stage is conditioned on, by name, each tensor batch first: what its text encoders give
(`text` (B, tokens, width), pooled text, attention masks), and what it adds for one image (sizes,
the low-resolution image and its noise level). Only the stage itself reads the names."""


def concatenate(conditions: Sequence[Condition]) -> Condition:
    """One batch from several; all have the same keys."""
    return {key: torch.cat([c[key] for c in conditions]) for key in conditions[0]}


def repeat(condition: Condition, index: Tensor) -> Condition:
    """Rows `index` (B,) of a condition, as a batch."""
    return {key: value[index] for key, value in condition.items()}


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
    x_shape: tuple[int, ...]
    resolution_px: int  # of the images that `encode` takes

    def encode(self, images: Tensor) -> Encoded:
        """Images [-1, 1] (N, 3, resolution_px, resolution_px) to the stage's space; no gradient."""

    def encode_prompts(self, prompts: Sequence[str], with_gradient: bool = False) -> Condition:
        """The text part of the condition, one row for each prompt.

        Without gradient what has been encoded before may be kept; with gradient it is encoded anew,
        and what was kept is forgotten, since the text encoder is training.
        """

    def added_condition(
        self, x: Tensor, generator: torch.Generator, noise_level: float | None
    ) -> Condition:
        """What the condition of one training image x (*x_shape) holds beside text, without batch
        dimension. An SR stage: the image at low resolution, with noise of variance `noise_level`
        (None: as it was pretrained), and that level. Often nothing."""

    def predict(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The denoiser's output, in the parametrisation of `schedule.prediction_type`.

        z_t (B, *x_shape); t (B,) of the schedule; returns (B, *x_shape), float32.
        """


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn by a backbone."""

    samplers: Mapping[str, Sampler]  # of each stage, by name
    super_resolution: bool = True  # False: the base stage's pictures are enlarged plainly (bicubic)
    noise_level: float | None = None  # variance on the SR stage's condition; None: the model's own
    last_stage: str | None = None  # whose pictures are wanted; None: the last one


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

    def generate(self, prompts: Sequence[str], keys: Sequence[tuple], sampling: Sampling) -> Tensor:
        """Images, uint8 (N, 3, H, W), one for each prompt; the noise of image i follows from
        `keys[i]` alone."""

    def super_resolve(
        self, low: Tensor, prompts: Sequence[str], keys: Sequence[tuple], sampling: Sampling
    ) -> Tensor:
        """As `generate`, from images of the base stage's resolution, [-1, 1] (N, 3, h, w). Only of
        a model with an SR stage."""

    def save(self, folder: Path) -> None:
        """The weights, in the diffusers layout that `load` (and plain diffusers) reads."""
