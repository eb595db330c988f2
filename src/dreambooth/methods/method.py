"""What a personalization method is: what it changes in a backbone, what it keeps of a run.

The two-term loss and its LightningModule (two_terms.py) are shared by all methods.
docs/extending.md shows how to add one, and which checks it must pass.
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
    """What trains in a stage."""

    modules: Mapping[str, nn.Module]  # that hold it, by name
    groups: Sequence[dict[str, Any]]  # of parameters, as a torch optimizer takes them
    text: bool = False  # whether the text of the prompts depends on it

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.groups for parameter in group["params"]]


@dataclass(frozen=True)
class TermPrompts:
    """The prompts of the two terms. A Draw says by its number which one an image has."""

    subject: Sequence[str]
    prior: Sequence[str]  # the class prompt, and the empty prompt of dropped captions


class Method(Protocol):
    """Fine-tuning, an adapter, new tokens: all that a run trains and keeps follows from it."""

    def prepare(self, stage: Stage) -> None:
        """Adds to the stage what is new in it and freezes what does not train."""

    def trained(self, stage: Stage) -> Trained:
        """What trains in a prepared stage."""

    def prompts(self, names: PromptNames) -> TermPrompts:
        """What the two terms see as text."""

    def state(self, stage: Stage) -> dict[str, Tensor]:
        """The values of a trained stage, as few as tell it from the pretrained one."""

    def load_state(self, stage: Stage, state: Mapping[str, Tensor]) -> None:
        """Turns a stage as it was pretrained into the trained one that `state` was taken of."""

    def save(self, backbone: Backbone, folder: Path) -> None:
        """Writes into an empty folder what a finished run keeps, in a format that other tools
        read."""

    def load(self, pretrained: Callable[..., Backbone], folder: Path) -> Backbone:
        """The fine-tuned model from what `save` wrote.

        `pretrained()` loads the model that the run started from; `pretrained(folder)` loads one in
        the same format from another folder.
        """
