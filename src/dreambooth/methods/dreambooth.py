"""DreamBooth: fine-tune the denoiser itself (Ruiz et al., arXiv 2208.12242, section 3)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreambooth.backbones.stage import Backbone, Stage
from dreambooth.methods.method import TermPrompts, Trained
from dreambooth.runs.settings import Layers
from dreambooth.subjects.prompts import PromptNames
from dreambooth.subjects.subject import Subject


@dataclass(frozen=True)
class DreamBooth:
    """A Method that trains the whole denoiser or only its cross-attention, and saves a whole model.

    `train` (`all` or `cross_attention`) is for the base stage, `train_sr` for the SR stage.
    """

    train: Layers = "all"
    train_sr: Layers = "all"
    stages: ClassVar[Sequence[str]] = ("base", "sr")

    def names(self, names: PromptNames, subject: Subject, backbone: Backbone) -> PromptNames:
        return names

    def prepare(self, stage: Stage) -> None:
        stage.denoiser.train().requires_grad_(False)
        for parameter in self._parameters(stage):
            parameter.requires_grad_(True)

    def trained(self, stage: Stage) -> Trained:
        return Trained({"denoiser": stage.denoiser}, [{"params": self._parameters(stage)}])

    def prompts(self, names: PromptNames, backbone: Backbone) -> TermPrompts:
        return TermPrompts.of(names)

    def state(self, stage: Stage) -> dict[str, Tensor]:
        state: dict[str, Tensor] = stage.denoiser.state_dict()
        return state

    def load_state(self, stage: Stage, state: Mapping[str, Tensor]) -> None:
        stage.denoiser.load_state_dict(state)

    def save(self, backbone: Backbone, folder: Path) -> None:
        """Save the model in the diffusers layout."""
        backbone.save(folder)

    def load(self, pretrained: Callable[..., Backbone], folder: Path) -> Backbone:
        return pretrained(folder)

    def _parameters(self, stage: Stage) -> list[nn.Parameter]:
        """The parameters to train. In diffusers, `attn2` is the cross-attention to the text."""
        layers = self.train if stage.name == "base" else self.train_sr
        named = stage.denoiser.named_parameters()
        found = [p for name, p in named if layers == "all" or ".attn2." in name]
        if not found:
            key = "method.tuning.train" if stage.name == "base" else "sr.train"
            raise ValueError(
                f"{key}={layers}: this model has no layers of cross-attention alone (attn2), give "
                f"{key}=all or an adapter"
            )
        return found
