"""DreamBooth with an adapter: small new weights are trained, the pretrained ones stay frozen."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreambooth.backbones.adapters import (
    adapter_state,
    add_adapter,
    load_adapter_state,
    peft_model,
)
from dreambooth.backbones.stage import Backbone, Stage
from dreambooth.backbones.text_encoder import forget_prompts, joined, parted
from dreambooth.methods.dreambooth import DreamBooth, no_cross_attention, train_key
from dreambooth.methods.method import TermPrompts, Trained
from dreambooth.methods.text_encoder import check_text_encoder, with_text_encoder
from dreambooth.runs.settings import read
from dreambooth.runs.values import Layers, MaybePositive, SaveFormat, Switch
from dreambooth.subjects.prompts import PromptNames
from dreambooth.subjects.subject import Subject


def dreambooth(
    train: Layers,
    train_sr: Layers,
    adapter: Mapping[str, Any],
    seed: int,
    train_text_encoder: bool = False,
    text_encoder_learning_rate: float | None = None,
) -> "DreamBooth | AdapterTuning":
    """DreamBooth with the adapter of the group `adapter`, or of the weights themselves."""
    tuned = DreamBooth(
        train=train,
        train_sr=train_sr,
        train_text_encoder=train_text_encoder,
        text_encoder_learning_rate=text_encoder_learning_rate,
    )
    allowed: Any = SaveFormat
    save_format = read(allowed, adapter.get("save_format", "diffusers"), "adapter.save_format")
    if adapter["config"] is None:
        if save_format != "diffusers":
            raise ValueError(
                f"adapter.save_format={save_format} is of an adapter: add adapter=lora"
            )
        return tuned
    return AdapterTuning(
        config=adapter["config"],
        targets=adapter["targets"],
        seed=seed,
        train=train,
        train_sr=train_sr,
        train_text_encoder=train_text_encoder,
        text_encoder_learning_rate=text_encoder_learning_rate,
        text_encoder_targets=adapter.get("text_encoder_targets", ""),  # older runs lack these two
        save_format=save_format,
    )


@dataclass(frozen=True)
class AdapterTuning:
    """A Method that adds an adapter of peft to each stage, trains it, and saves the adapter alone.

    `config`: makes the peft config (LoraConfig, OFTConfig, ...), called with the layers' names as
    `target_modules`. `targets`: a regular expression for the whole name of a layer. `train` (`all`
    or `cross_attention`) restricts them in the base stage, `train_sr` in the SR stage. `seed`: of
    the adapter's random weights. An adapter changes nothing until it is trained.

    With `train_text_encoder` the text encoder has an adapter too, in its layers
    `text_encoder_targets`, which trains beside the base stage's at a learning rate of its own.
    `save_format`: one of `Backbone.adapter_formats`.
    """

    config: Callable[..., Any]
    targets: str
    seed: int
    train: Layers = "all"
    train_sr: Layers = "all"
    train_text_encoder: Switch = False
    text_encoder_learning_rate: MaybePositive = None  # None: that of the denoiser
    text_encoder_targets: str = ""
    save_format: SaveFormat = "diffusers"
    stages: ClassVar[Sequence[str]] = ("base", "sr")

    def names(self, names: PromptNames, subject: Subject, backbone: Backbone) -> PromptNames:
        check_text_encoder(self.train_text_encoder, backbone)
        if self.save_format not in backbone.adapter_formats:
            raise ValueError(
                f"adapter.save_format={self.save_format}: an adapter of {backbone.name} has no "
                f"such format, give {' or '.join(backbone.adapter_formats)}"
            )
        if self.save_format == "kohya" and not _is_plain_lora(self.config(target_modules=["x"])):
            raise ValueError(
                "adapter.save_format=kohya is for adapter=lora: give adapter.save_format=diffusers"
            )
        return names

    def prepare(self, stage: Stage) -> None:
        if peft_model(stage.denoiser) is None:
            add_adapter(stage.denoiser, self.config, self._layers(stage), self.seed)
        if self._trains_text(stage) and peft_model(stage.text_encoder) is None:
            targets, key = self.text_encoder_targets, "adapter.text_encoder_targets"
            layers = _matching(stage.text_encoder, targets, key, "the text encoder")
            add_adapter(stage.text_encoder, self.config, layers, self.seed)
        stage.denoiser.train()

    def trained(self, stage: Stage) -> Trained:
        parameters = [p for p in stage.denoiser.parameters() if p.requires_grad]
        trained = Trained({"denoiser": stage.denoiser}, [{"params": parameters}])
        if self._trains_text(stage):
            return with_text_encoder(trained, stage, self.text_encoder_learning_rate)
        return trained

    def prompts(self, names: PromptNames, backbone: Backbone) -> TermPrompts:
        return TermPrompts.of(names)

    def state(self, stage: Stage) -> dict[str, Tensor]:
        text_encoder = adapter_state(stage.text_encoder) if self._trains_text(stage) else {}
        return joined(adapter_state(stage.denoiser), text_encoder)

    def load_state(self, stage: Stage, state: Mapping[str, Tensor]) -> None:
        self.prepare(stage)
        denoiser, text_encoder = parted(state)
        load_adapter_state(stage.denoiser, denoiser)
        if self._trains_text(stage):
            load_adapter_state(stage.text_encoder, text_encoder)
            forget_prompts(stage)

    def save(self, backbone: Backbone, folder: Path) -> None:
        backbone.save_adapters(folder, self.save_format)

    def load(self, pretrained: Callable[..., Backbone], folder: Path) -> Backbone:
        backbone = pretrained()
        for name, state in backbone.read_adapters(folder).items():
            self.load_state(backbone.stages[name], state)
            backbone.stages[name].denoiser.eval()
        return backbone

    def _layers(self, stage: Stage) -> list[str]:
        """The names of the layers to adapt. In diffusers, `attn2` is the cross-attention."""
        train = self.train if stage.name == "base" else self.train_sr
        where = f"stage {stage.name}"
        layers = _matching(stage.denoiser, self.targets, "adapter.targets", where)
        found = [name for name in layers if train == "all" or ".attn2." in name]
        if not found:
            if not any(".attn2." in name for name, _ in stage.denoiser.named_modules()):
                raise ValueError(no_cross_attention(stage.name, train))
            key = train_key(stage.name)
            raise ValueError(
                f"adapter.targets={self.targets} matches no layer of cross-attention (attn2) in "
                f"{where}, and {key}={train} trains no other: give other targets or {key}=all"
            )
        return found

    def _trains_text(self, stage: Stage) -> bool:
        return self.train_text_encoder and stage.name == "base"


def _is_plain_lora(config: Any) -> bool:
    return bool(config.peft_type == "LORA" and not config.use_dora)


def _matching(module: nn.Module, targets: str, key: str, where: str) -> list[str]:
    """The names of the layers that a regular expression, the setting `key`, matches as a whole."""
    layers = [name for name, _ in module.named_modules()]
    try:
        found = [name for name in layers if re.fullmatch(targets, name)]
    except re.error as error:
        raise ValueError(f"{key}={targets} is no regular expression ({error})") from error
    if not found:
        raise ValueError(
            f"{key}={targets} matches no layer of {where}: give a regular expression for whole "
            f"names of layers, such as {layers[-1]}"
        )
    return found
