"""What a personalization method needs from a model: denoising stages, and the backbone they form.

docs/extending.md shows how to add a backbone, and which checks it must pass.
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
"""The conditioning of a stage: named tensors, each with the batch first.

They are the output of the text encoders (`text` (B, tokens, width), pooled text, attention masks),
and what the stage adds for each image (sizes, the low-resolution image and its noise level). Only
the stage itself reads the names."""


def concatenate(conditions: Sequence[Condition]) -> Condition:
    """Join conditions with the same keys into one batch."""
    return {key: torch.cat([c[key] for c in conditions]) for key in conditions[0]}


def select_rows(condition: Condition, index: Tensor) -> Condition:
    """Select the rows `index` (B,) of a condition; a row may be selected more than once."""
    return {key: value[index] for key, value in condition.items()}


@dataclass(frozen=True)
class Encoded:
    """Images encoded for a stage: a normal distribution for each, as from a VAE's encoder.

    `std` is None if the encoding is deterministic, as for pixels.
    """

    mean: Tensor  # (N, *x_shape)
    std: Tensor | None = None

    def sample(self, index: int, generator: torch.Generator) -> Tensor:
        """Draw x of image `index`, of shape `x_shape`."""
        if self.std is None:
            return self.mean[index]
        noise = torch.randn(self.mean.shape[1:], generator=generator)
        return self.mean[index] + self.std[index] * noise


class Stage(Protocol):
    """One denoiser with its noise schedule and its conditioning."""

    name: str  # "base" or "sr"
    denoiser: nn.Module
    schedule: NoiseSchedule
    x_shape: tuple[int, ...]
    resolution_px: int  # of the images that `encode` takes

    @property
    def can_train_text_encoder(self) -> bool:
        """Whether the text encoder can train beside the denoiser, and is saved with it."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the prompts, from transformers."""

    @property
    def text_encoder(self) -> Any:
        """The text encoder, from transformers; stages of a model may share it.

        None if a new word cannot be added to it, as where a model has several.
        """

    def encode(self, images: Tensor) -> Encoded:
        """Encode images [-1, 1] (N, 3, resolution_px, resolution_px), without gradient."""

    def encode_prompts(self, prompts: Sequence[str], with_gradient: bool = False) -> Condition:
        """Encode prompts: the text part of the condition, one row for each prompt.

        Without gradient, encoded prompts may be cached. With gradient the text encoder is training:
        the prompts are encoded anew, and the cache is cleared.
        """

    def added_condition(
        self, x: Tensor, generator: torch.Generator, noise_level: float | None
    ) -> Condition:
        """The condition of one training image x (*x_shape) besides text, without batch dimension.

        For an SR stage this is the image at low resolution, with noise of variance `noise_level`
        (None: the level of pretraining), and that level. Most other stages add nothing.
        """

    def predict(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The denoiser's output, in the parametrisation of `schedule.prediction_type`.

        z_t (B, *x_shape); t (B,), timesteps of `schedule`; returns (B, *x_shape), float32.
        """


@dataclass(frozen=True)
class Sampling:
    """How a backbone draws images."""

    samplers: Mapping[str, Sampler]  # by stage name
    super_resolution: bool = True  # False: enlarge the base stage's images with bicubic filtering
    noise_level: float | None = None  # variance on the SR stage's condition; None: the model's own
    last_stage: str | None = None  # stop after this stage; None: after the model's last stage
    negative_prompt: str = ""  # guidance leads away from it
    adapter_scale: float = 1.0  # factor of the change that an adapter makes; 1 as trained


@dataclass(frozen=True)
class ParityCheck:
    """One comparison of a training forward with the model's own pipeline; see parity.py.

    `difference`: the largest, relative to the largest value of the pipeline. `where`: in what.
    """

    name: str
    difference: float
    where: str

    @property
    def passed(self) -> bool:
        return self.difference <= 1e-3  # more than rounding, less than any mistake


class Backbone(Protocol):
    """A pretrained text-to-image model: its stages, its tokenizer, and how it draws images."""

    name: str
    tokenizer: Any  # from transformers
    stages: Mapping[str, Stage]
    batch_size: int  # how many images `generate` denoises at once
    adapter_formats: Sequence[str]  # "diffusers", and "kohya" if a LoRA can have kohya-ss's names

    def fingerprint(self) -> str:
        """A hash of all weights, for the key of the prior cache."""

    def check_prompt(self, prompt: str, identifier: str = "") -> None:
        """ValueError if the text encoder cannot take the prompt (too long, or an unknown word).

        The words of `identifier` are always allowed.
        """

    def generate(self, prompts: Sequence[str], keys: Sequence[tuple], sampling: Sampling) -> Tensor:
        """Draw one image for each prompt, uint8 (N, 3, H, W).

        The noise of image i follows from `keys[i]` alone.
        """

    def super_resolve(
        self, low: Tensor, prompts: Sequence[str], keys: Sequence[tuple], sampling: Sampling
    ) -> Tensor:
        """Like `generate`, but from given images `low` of the base stage, [-1, 1] (N, 3, h, w).

        ValueError if the model has no SR stage.
        """

    def parity(self) -> Sequence[ParityCheck]:
        """Compare the training forward with one step of the model's own pipeline (parity.py).

        Empty if the model has no pipeline but our own `sample`, which calls `Stage.predict` itself.
        """

    def recipe(self, weights: Path, prompt: str, key: tuple, sampling: Sampling) -> str:
        """Python code by which plain diffusers draws the same image from the folder `weights`.

        "" if diffusers has no pipeline for the model.
        """

    def save(self, folder: Path) -> None:
        """Save the weights in the diffusers layout, which `load` and diffusers itself read."""

    def save_adapters(self, folder: Path, save_format: str) -> None:
        """Save the adapters of the stages and of the text encoder, and no other weights, as other
        tools read them. `save_format`: one of `adapter_formats`."""

    def read_adapters(self, folder: Path) -> dict[str, dict[str, Tensor]]:
        """The adapters that `save_adapters` saved: for each stage with one, its tensors by the
        names of peft. `text_encoder.` begins those of the text encoder, which are the base stage's.
        """
