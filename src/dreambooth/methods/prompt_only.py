"""Prompt engineering: the pretrained model as it is, and a description in place of the subject."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor

from dreambooth.backbones.stage import Backbone, Stage
from dreambooth.methods.method import TermPrompts, Trained
from dreambooth.subjects.prompts import PromptNames
from dreambooth.subjects.subject import Subject


@dataclass(frozen=True)
class PromptOnly:
    """A Method that trains nothing: prompts describe the subject, "a brown spotted dog".

    It is the baseline without training of Ruiz et al., arXiv 2208.12242, section 1, who find that
    no description, however long, gives back a subject.
    """

    stages: ClassVar[Sequence[str]] = ()

    def names(self, names: PromptNames, subject: Subject, backbone: Backbone) -> PromptNames:
        description = subject.description.strip()
        if not description:
            raise ValueError(
                "subject.description is empty, and method=prompt_only uses nothing else: give the "
                "subject in words, as subject.description='brown dog with white paws'"
            )
        try:
            backbone.check_prompt(f"a {description}")
        except ValueError as error:
            raise ValueError(f"subject.description={description}: {error}") from error
        return PromptNames(description, None, names.prior_noun, in_text=subject.class_noun)

    def prepare(self, stage: Stage) -> None:
        """Nothing is added."""

    def trained(self, stage: Stage) -> Trained:
        return Trained({}, [])

    def prompts(self, names: PromptNames, backbone: Backbone) -> TermPrompts:
        return TermPrompts([names.subject_prompt], [])

    def state(self, stage: Stage) -> dict[str, Tensor]:
        return {}

    def load_state(self, stage: Stage, state: Mapping[str, Tensor]) -> None:
        """The pretrained stage is the trained one."""

    def save(self, backbone: Backbone, folder: Path) -> None:
        """Nothing is saved: the description is in the run's names.json."""

    def load(self, pretrained: Callable[..., Backbone], folder: Path) -> Backbone:
        return pretrained()
