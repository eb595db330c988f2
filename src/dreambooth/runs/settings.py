"""What a config says of the parts of a run, checked as it is said."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.distributed.ranks import check_batch_size, num_ranks


@dataclass(frozen=True)
class Prior:
    """The prior term: lambda, its images and where they are kept.

    In a share `caption_dropout` (0 <= share < 1) of it the prompt is empty, as in the pretraining
    of a model with classifier-free guidance. Without that, the empty prompt, which guidance leads
    away from, comes to draw the subject too, and guidance then leads away from the subject.
    """

    weight: float
    num_images: int
    cache: Path
    caption_dropout: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.caption_dropout, int | float) or not 0 <= self.caption_dropout < 1:
            raise ValueError(
                f"prior.caption_dropout={self.caption_dropout}: give a share from 0 to below 1"
            )
        if self.weight:
            check_count("prior.num_images", self.num_images)


@dataclass(frozen=True)
class Drawing:
    """What is drawn once the model is trained."""

    images_per_prompt: int
    num_class_images: int

    def __post_init__(self) -> None:
        check_count("drawing.images_per_prompt", self.images_per_prompt)
        check_count("drawing.num_class_images", self.num_class_images)


@dataclass(frozen=True)
class Training:
    """How one stage is fine-tuned."""

    module: Callable[..., Any]  # of a stage, its two conditions and lambda: a LightningModule
    max_steps: int
    batch_size: int
    group: str = "method"  # of the config
    ema_decay: float | None = None  # of a moving average of the weights, which is what is kept

    def __post_init__(self) -> None:
        check_count(f"{self.group}.max_steps", self.max_steps)
        check_count(f"{self.group}.batch_size", self.batch_size)
        check_batch_size(self.group, self.batch_size, num_ranks())
        decay = self.ema_decay
        if decay is not None and not (isinstance(decay, int | float) and 0 < decay < 1):
            raise ValueError(
                f"method.ema_decay={decay}: give a number between 0 and 1, as 0.99, or null"
            )


@dataclass(frozen=True)
class SuperResolution:
    """How pictures are enlarged: by the SR stage or plainly."""

    enabled: bool
    noise_level: float | None  # told and applied when pictures are drawn; None: the model's own


def check_count(key: str, value: Any) -> None:
    """ValueError unless it is a whole number from 1 up."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{key}={value}: give a whole number from 1 up")
