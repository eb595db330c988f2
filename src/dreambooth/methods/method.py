"""The interface of a personalization method: what it trains in a backbone, and what it saves.

All methods share the two-term loss and its LightningModule (two_terms.py). docs/extending.md shows
how to add a method, and which checks it must pass.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from dreambooth.backbones.stage import Backbone, Stage
from dreambooth.runs.settings import Settings
from dreambooth.subjects.prompts import PromptNames
from dreambooth.subjects.subject import Subject


@dataclass(frozen=True)
class Trained:
    """The trainable parts of a stage."""

    modules: Mapping[str, nn.Module]  # the modules that contain the trainable parameters, by name
    groups: Sequence[dict[str, Any]]  # the parameter groups of the optimizer
    changes_prompts: bool = False  # whether the encoded prompts depend on these parameters
    after_step: Callable[[], None] = lambda: None  # called after each step of the optimizer

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.groups for parameter in group["params"]]


@dataclass(frozen=True)
class TermPrompts:
    """The prompts of the two terms. `Draw.prompt` is an index into them."""

    subject: Sequence[str]  # of several, each training sample draws one
    # The class prompt, then the empty prompt, for caption dropout. Empty: there is no prior term.
    prior: Sequence[str]

    @classmethod
    def of(cls, names: PromptNames) -> "TermPrompts":
        """DreamBooth's: "a [V] [class noun]" for the subject, "a [class noun]" for the prior."""
        return cls([names.subject_prompt], [names.class_prompt, ""])


class Method(Protocol):
    """A personalization method, such as fine-tuning, an adapter, or new tokens."""

    stages: ClassVar[Sequence[str]]  # those that it can fine-tune, of "base" and "sr"

    def names(self, names: PromptNames, subject: Subject, backbone: Backbone) -> PromptNames:
        """Check the subject and the pretrained model, and return the words of the run's prompts.

        These are `names`, or other words for the subject. ValueError if the subject or the model
        does not fit the method.
        """

    def prepare(self, stage: Stage) -> None:
        """Add the method's new parts to the stage, and freeze everything that does not train."""

    def trained(self, stage: Stage) -> Trained:
        """The trainable parts of a prepared stage."""

    def prompts(self, names: PromptNames, backbone: Backbone) -> TermPrompts:
        """The prompts of the two terms, which the pretrained model can take."""

    def state(self, stage: Stage) -> dict[str, Tensor]:
        """What makes a pretrained stage this trained one: at least the tensors that differ."""

    def load_state(self, stage: Stage, state: Mapping[str, Tensor]) -> None:
        """Turn a pretrained stage into the trained one, from what `state` returned."""

    def save(self, backbone: Backbone, folder: Path) -> None:
        """Save the result of a run into an empty folder, in a format that other tools read."""

    def load(self, pretrained: Callable[..., Backbone], folder: Path) -> Backbone:
        """Load the fine-tuned model from what `save` wrote.

        `pretrained()` loads the model that the run started from. `pretrained(folder)` loads a model
        of the same format from another folder.
        """


def check_method(method: Method, settings: Settings, prompts: TermPrompts) -> None:
    """ValueError for settings of a term or a stage that the method does not have."""
    if settings.prior.weight and not prompts.prior:
        raise ValueError(
            f"prior.lambda={settings.prior.weight:g}: this method has no prior term, give prior=off"
        )
    if settings.sr.noise_level is not None and "sr" not in method.stages:
        raise ValueError(
            f"sr.noise_level={settings.sr.noise_level:g}: this method does not fine-tune the SR "
            "stage, give sr=frozen"
        )


def check_photos(method: Method, subject: Subject, names: PromptNames, backbone: Backbone) -> None:
    """ValueError for a caption without the subject, and for masks that do not fit the model."""
    if not method.stages:
        return  # nothing is trained on them
    for text in filter(None, subject.captions):
        if "{}" not in text and f" {names.identifier} " not in f" {' '.join(text.split())} ":
            raise ValueError(
                f"the caption {text!r} does not name the subject: write {{}} for the subject, as "
                f"in 'a {{}} on a sofa', or the identifier {names.identifier}"
            )
        backbone.check_prompt(text.format(names.subject), names.identifier)
    for stage in backbone.stages.values():
        if subject.masks is not None and len(stage.x_shape) != 3:
            raise ValueError("this model does not take masks: move them out of the photos' folder")


def takes_prompt(backbone: Backbone, prompt: str, identifier: str = "") -> bool:
    """Whether a prompt passes `check_prompt` of the model: the miniature knows few words."""
    try:
        backbone.check_prompt(prompt, identifier)
    except ValueError:
        return False
    return True
