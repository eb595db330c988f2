"""The file of a LoRA: as diffusers' `load_lora_weights` reads it, or with the names of kohya-ss.

Both are one safetensors file. Other user interfaces read the names of kohya-ss's sd-scripts, as
"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"; `load_lora_weights` reads them too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dreambooth.backbones.adapters import PREFIX, adapter_state, peft_model

FILE = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for
_KOHYA = {"unet": "lora_unet", "text_encoder": "lora_te"}  # part of the pipeline -> its prefix
_KOHYA_MATRICES = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}

_MAGNITUDE = "lora_magnitude_vector"


def save_lora(
    pipeline: Any, parts: Mapping[str, nn.Module], folder: Path, save_format: str
) -> None:
    """Save the LoRA in the parts of a pipeline, by their names in it, in a format of this file."""
    layers = {name: _layers(name, module) for name, module in parts.items()}
    if save_format == "kohya":
        tensors = {k: v for n, m in parts.items() for k, v in _as_kohya(n, m, layers[n]).items()}
        save_file(tensors, folder / FILE, metadata={"format": "pt"})
        return
    arguments: dict[str, Any] = {f"{name}_lora_layers": value for name, value in layers.items()}
    for name, module in parts.items():
        config = peft_model(module).peft_config["default"].to_dict()
        config["target_modules"] = sorted(config["target_modules"])  # else a set: in any order
        arguments[f"{name}_lora_adapter_metadata"] = config
    type(pipeline).save_lora_weights(folder, **arguments)


def read_lora(parts: Mapping[str, nn.Module], folder: Path) -> dict[str, dict[str, Tensor]]:
    """The LoRA of each part that has one, by the names of peft. `parts` are without an adapter."""
    tensors = load_file(folder / FILE)
    if any(name.endswith("lora_down.weight") for name in tensors):
        tensors = _from_kohya(parts, tensors)
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        if part not in parts:
            raise ValueError(f"{folder / FILE} has the tensor {key}, which is of another model")
        name = name.removeprefix(_prefix(part, parts[part]))
        if name.endswith(f"{_MAGNITUDE}.weight"):
            name = name.removesuffix(".weight")
        states.setdefault(part, {})[PREFIX + name] = value
    return states


def _layers(part: str, module: nn.Module) -> dict[str, Tensor]:
    """The tensors of the LoRA in a part, by the names that they have in a file of diffusers."""
    prefix, state = _prefix(part, module), adapter_state(module)
    layers = {prefix + name.removeprefix(PREFIX): value for name, value in state.items()}
    if part.startswith(
        "text_encoder"
    ):  # without the ending, transformers leaves the magnitude of a DoRA as it was
        layers = {f"{k}.weight" if k.endswith(_MAGNITUDE) else k: v for k, v in layers.items()}
    return layers


def _prefix(part: str, module: nn.Module) -> str:
    """What a layer's name begins with in a file, and not in the module."""
    is_text = part.startswith("text_encoder") and not hasattr(module, "text_model")
    return "text_model." if is_text else ""  # transformers 5 leaves it out of CLIP's names


def _as_kohya(part: str, module: nn.Module, layers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A tensor for each matrix, and an alpha for each layer: its change is (alpha / r) B A."""
    config = peft_model(module).peft_config["default"]
    alpha = float(config.lora_alpha) * (config.r**0.5 if config.use_rslora else 1.0)
    tensors = {}
    for name, value in layers.items():
        layer, matrix = name.rsplit(".", 2)[0], ".".join(name.rsplit(".", 2)[1:])
        stem = f"{_KOHYA[part]}_{layer.replace('.', '_')}"
        tensors[f"{stem}.{_KOHYA_MATRICES[matrix]}"] = value
        tensors[f"{stem}.alpha"] = torch.tensor(alpha)
    return tensors


def _from_kohya(parts: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the names of diffusers. A dot and an underscore of a layer's name are one
    character in a file of kohya-ss, so the names are looked up among the model's layers."""
    stems = {}
    for part, module in parts.items():
        for layer, _ in module.named_modules():
            name = _prefix(part, module) + layer
            stems[f"{_KOHYA[part]}_{name.replace('.', '_')}"] = f"{part}.{name}"
    matrices = {kohya: peft for peft, kohya in _KOHYA_MATRICES.items()}
    found = {}
    for key, value in tensors.items():
        stem, _, matrix = key.partition(".")
        if matrix in matrices:
            found[f"{stems.get(stem, stem)}.{matrices[matrix]}"] = value
    return found
