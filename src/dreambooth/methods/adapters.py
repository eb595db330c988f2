"""DreamBooth with an adapter: small new weights are trained, the pretrained ones stay frozen."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor

from dreambooth.backbones.adapters import (
    adapter_state,
    add_adapter,
    load_adapter_state,
    peft_model,
)
from dreambooth.backbones.stage import Backbone, Stage
from dreambooth.methods.dreambooth import DreamBooth
from dreambooth.methods.method import TermPrompts, Trained
from dreambooth.runs.settings import Layers
from dreambooth.subjects.prompts import PromptNames
from dreambooth.subjects.subject import Subject


def dreambooth(
    train: Layers, train_sr: Layers, adapter: Mapping[str, Any], seed: int
) -> "DreamBooth | AdapterTuning":
    """DreamBooth with the adapter of the group `adapter`, or of the weights themselves."""
    if adapter["config"] is None:
        return DreamBooth(train=train, train_sr=train_sr)
    return AdapterTuning(adapter["config"], adapter["targets"], seed, train, train_sr)


@dataclass(frozen=True)
class AdapterTuning:
    """A Method that adds an adapter of peft to each stage, trains it, and saves the adapter alone.

    `config`: makes the peft config (LoraConfig, OFTConfig, ...), called with the layers' names as
    `target_modules`. `targets`: a regular expression for the whole name of a layer. `train` (`all`
    or `cross_attention`) restricts them in the base stage, `train_sr` in the SR stage. `seed`: of
    the adapter's random weights. An adapter changes nothing until it is trained.
    """

    config: Callable[..., Any]
    targets: str
    seed: int
    train: Layers = "all"
    train_sr: Layers = "all"
    stages: ClassVar[Sequence[str]] = ("base", "sr")

    def names(self, names: PromptNames, subject: Subject, backbone: Backbone) -> PromptNames:
        return names

    def prepare(self, stage: Stage) -> None:
        if peft_model(stage.denoiser) is None:
            add_adapter(stage.denoiser, self.config, self._layers(stage), self.seed)
        stage.denoiser.train()

    def trained(self, stage: Stage) -> Trained:
        parameters = [p for p in stage.denoiser.parameters() if p.requires_grad]
        return Trained({"denoiser": stage.denoiser}, [{"params": parameters}])

    def prompts(self, names: PromptNames, backbone: Backbone) -> TermPrompts:
        return TermPrompts.of(names)

    def state(self, stage: Stage) -> dict[str, Tensor]:
        return adapter_state(stage.denoiser)

    def load_state(self, stage: Stage, state: Mapping[str, Tensor]) -> None:
        self.prepare(stage)
        load_adapter_state(stage.denoiser, state)

    def save(self, backbone: Backbone, folder: Path) -> None:
        backbone.save_adapters(folder)

    def load(self, pretrained: Callable[..., Backbone], folder: Path) -> Backbone:
        backbone = pretrained()
        for name, state in backbone.read_adapters(folder).items():
            self.load_state(backbone.stages[name], state)
            backbone.stages[name].denoiser.eval()
        return backbone

    def _layers(self, stage: Stage) -> list[str]:
        """The names of the layers to adapt. In diffusers, `attn2` is the cross-attention."""
        train = self.train if stage.name == "base" else self.train_sr
        found = [
            name
            for name, _ in stage.denoiser.named_modules()
            if re.fullmatch(self.targets, name) and (train == "all" or ".attn2." in name)
        ]
        if not found:
            raise ValueError(
                f"adapter.targets={self.targets} matches no layer of stage {stage.name}: give a "
                "regular expression for whole names of layers, as .*attn[12].to_[qkv]"
            )
        return found
