"""The interface of a personalization method: what it trains in a backbone, and what it saves.

All methods share the two-term loss and its LightningModule (two_terms.py). docs/extending.md shows
how to add a method, and which checks it must pass.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from dreambooth.backbones.stage import Backbone, Stage
from dreambooth.subjects.prompts import PromptNames


@dataclass(frozen=True)
class Trained:
    """The trainable parts of a stage."""

    modules: Mapping[str, nn.Module]  # the modules that contain the trainable parameters, by name
    groups: Sequence[dict[str, Any]]  # the parameter groups of the optimizer
    text: bool = False  # whether the encoded prompts depend on these parameters

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.groups for parameter in group["params"]]


@dataclass(frozen=True)
class TermPrompts:
    """The prompts of the two terms. `Draw.prompt` is an index into them."""

    subject: Sequence[str]
    prior: Sequence[str]  # the class prompt, then the empty prompt, for caption dropout

    @classmethod
    def of(cls, names: PromptNames) -> "TermPrompts":
        """DreamBooth's: "a [V] [class noun]" for the subject, "a [class noun]" for the prior."""
        return cls([names.subject_prompt], [names.class_prompt, ""])


class Method(Protocol):
    """A personalization method, such as fine-tuning, an adapter, or new tokens."""

    def prepare(self, stage: Stage) -> None:
        """Add the method's new parts to the stage, and freeze everything that does not train."""

    def trained(self, stage: Stage) -> Trained:
        """The trainable parts of a prepared stage."""

    def prompts(self, names: PromptNames) -> TermPrompts:
        """The prompts of the two terms."""

    def state(self, stage: Stage) -> dict[str, Tensor]:
        """The tensors in which a trained stage differs from the pretrained one."""

    def load_state(self, stage: Stage, state: Mapping[str, Tensor]) -> None:
        """Turn a pretrained stage into the trained one, from what `state` returned."""

    def save(self, backbone: Backbone, folder: Path) -> None:
        """Save the result of a run into an empty folder, in a format that other tools read."""

    def load(self, pretrained: Callable[..., Backbone], folder: Path) -> Backbone:
        """Load the fine-tuned model from what `save` wrote.

        `pretrained()` loads the model that the run started from. `pretrained(folder)` loads a model
        of the same format from another folder.
        """
