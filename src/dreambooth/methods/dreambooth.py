"""DreamBooth: fine-tune the denoiser itself (Ruiz et al., arXiv 2208.12242, section 3)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreambooth.backbones.stage import Backbone, Stage
from dreambooth.backbones.text_encoder import forget_prompts, joined, parted
from dreambooth.methods.method import TermPrompts, Trained
from dreambooth.methods.text_encoder import check_text_encoder, with_text_encoder
from dreambooth.runs.values import Layers, MaybePositive, Switch
from dreambooth.subjects.prompts import PromptNames
from dreambooth.subjects.subject import Subject


@dataclass(frozen=True)
class DreamBooth:
    """A Method that trains the whole denoiser or only its cross-attention, and saves a whole model.

    `train` (`all` or `cross_attention`) is for the base stage, `train_sr` for the SR stage. With
    `train_text_encoder` the text encoder trains beside the base stage, at its own learning rate.
    """

    train: Layers = "all"
    train_sr: Layers = "all"
    train_text_encoder: Switch = False
    text_encoder_learning_rate: MaybePositive = None  # None: that of the denoiser
    stages: ClassVar[Sequence[str]] = ("base", "sr")

    def names(self, names: PromptNames, subject: Subject, backbone: Backbone) -> PromptNames:
        check_text_encoder(self.train_text_encoder, backbone)
        return names

    def prepare(self, stage: Stage) -> None:
        stage.denoiser.train().requires_grad_(False)
        for parameter in self._parameters(stage):
            parameter.requires_grad_(True)
        if self._trains_text(stage):
            stage.text_encoder.requires_grad_(True)

    def trained(self, stage: Stage) -> Trained:
        trained = Trained({"denoiser": stage.denoiser}, [{"params": self._parameters(stage)}])
        if self._trains_text(stage):
            return with_text_encoder(trained, stage, self.text_encoder_learning_rate)
        return trained

    def prompts(self, names: PromptNames, backbone: Backbone) -> TermPrompts:
        return TermPrompts.of(names)

    def state(self, stage: Stage) -> dict[str, Tensor]:
        text_encoder = stage.text_encoder.state_dict() if self._trains_text(stage) else {}
        return joined(stage.denoiser.state_dict(), text_encoder)

    def load_state(self, stage: Stage, state: Mapping[str, Tensor]) -> None:
        denoiser, text_encoder = parted(state)
        stage.denoiser.load_state_dict(denoiser)
        if self._trains_text(stage):
            stage.text_encoder.load_state_dict(text_encoder)
            forget_prompts(stage)

    def save(self, backbone: Backbone, folder: Path) -> None:
        """Save the model in the diffusers layout."""
        backbone.save(folder)

    def load(self, pretrained: Callable[..., Backbone], folder: Path) -> Backbone:
        return pretrained(folder)

    def _trains_text(self, stage: Stage) -> bool:
        return self.train_text_encoder and stage.name == "base"

    def _parameters(self, stage: Stage) -> list[nn.Parameter]:
        """The parameters to train. In diffusers, `attn2` is the cross-attention to the text."""
        layers = self.train if stage.name == "base" else self.train_sr
        named = stage.denoiser.named_parameters()
        found = [p for name, p in named if layers == "all" or ".attn2." in name]
        if not found:
            raise ValueError(no_cross_attention(stage.name, layers))
        return found


def train_key(stage_name: str) -> str:
    """The setting for which layers of a stage train."""
    return "method.tuning.train" if stage_name == "base" else "sr.train"


def no_cross_attention(stage_name: str, train: str) -> str:
    """The message for `train=cross_attention` where the model has no such layers."""
    key = train_key(stage_name)
    return (
        f"{key}={train}: this model has no layers of cross-attention alone (attn2), give {key}=all"
    )
