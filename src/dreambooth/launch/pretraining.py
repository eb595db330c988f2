"""The settings of src/pretrain.py, checked before anything is loaded."""

from pathlib import Path

from pydantic.dataclasses import dataclass

from dreambooth.runs.checks import check_writable
from dreambooth.runs.values import (
    Count,
    FromZero,
    MaybePositive,
    MaybeText,
    Positive,
    Probability,
    Text,
)


@dataclass(frozen=True)
class PartSettings:
    """How one part of the miniature is trained."""

    num_steps: Count
    batch_size: Count
    learning_rate: Positive
    ema_decay: Probability
    samples: MaybeText = None  # of the oracle alone: a .npy file


@dataclass(frozen=True)
class Pretraining:
    part: Text
    weights: Text
    work: Text
    num_scenes: Count
    max_minutes: MaybePositive
    seed: FromZero
    parts: dict[str, PartSettings]

    def check(self) -> None:
        """ValueError for what the types cannot tell."""
        if self.part != "all" and self.part not in self.parts:
            known = ", ".join(self.parts)
            raise ValueError(f"part={self.part} is not known; choose all or one of {known}")
        for key in ("weights", "work"):
            check_writable(key, getattr(self, key))
        samples = self.parts["oracle"].samples if "oracle" in self.parts else None
        if self.part in ("all", "oracle") and samples and not Path(samples).is_file():
            raise ValueError(f"parts.oracle.samples={samples}: give a .npy file, or null")
