"""Adapters of peft inside a denoiser or a text encoder: adding one, its tensors, and its file."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dreambooth.backbones.stage import Stage
from dreambooth.backbones.text_encoder import forget_prompts

TENSORS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of the names in peft's files


def add_adapter(
    module: nn.Module, make_config: Callable[..., Any], layers: Iterable[str], seed: int
) -> None:
    """Replace layers of the module by layers with an adapter, whose random weights follow `seed`.

    `make_config`: makes a peft config, called with `target_modules`. `layers`: the names of the
    layers. ValueError if the adapter does not fit them.
    """
    from peft import get_peft_model

    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = get_peft_model(module, make_config(target_modules=list(layers)))
    except Exception as error:  # each adapter of peft has its own errors for what does not fit
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"this adapter does not fit the model ({reason})") from error
    # A tuple, because a module would be registered as a part of the other.
    module.peft_model = (model,)  # type: ignore[assignment]


def peft_model(module: nn.Module | None) -> Any:
    """The PeftModel around a module with an adapter; None if it has none."""
    return getattr(module, "peft_model", (None,))[0]


def adapted_parts(stage: Stage) -> list[nn.Module]:
    """The denoiser and the text encoder, if they have an adapter.

    A text encoder that cannot train has none. It is not asked for, since T5 would be loaded.
    """
    parts = [stage.denoiser, *([stage.text_encoder] if stage.can_train_text_encoder else [])]
    return [part for part in parts if peft_model(part) is not None]


@contextmanager
def scaled_adapter(stage: Stage, scale: float) -> Iterator[None]:
    """Multiply the change that a stage's adapter makes by `scale`, as diffusers' `scale` does."""
    if scale == 1:
        yield
        return
    _set_scale(stage, scale)
    try:
        yield
    finally:
        _set_scale(stage, 1.0)


def _set_scale(stage: Stage, scale: float) -> None:
    adapted = adapted_parts(stage)
    for module in adapted:
        layers: list[Any] = [layer for layer in module.modules() if hasattr(layer, "set_scale")]
        for layer in layers:
            layer.set_scale("default", scale)
    if any(part is not stage.denoiser for part in adapted):
        forget_prompts(stage)


def is_lora(adapter: Any) -> bool:
    """Whether a model of peft has a LoRA or a DoRA."""
    return bool(adapter.peft_config["default"].peft_type == "LORA")


def adapter_state(module: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors, by the names of peft's files."""
    from peft import get_peft_model_state_dict

    state: dict[str, Tensor] = get_peft_model_state_dict(peft_model(module))
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def load_adapter_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Set the tensors of an adapter that the module already has. ValueError if they do not fit."""
    from peft import set_peft_model_state_dict

    expected = {name: tuple(value.shape) for name, value in adapter_state(module).items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    if different := sorted(expected.items() ^ given.items()):
        name = different[0][0]
        raise ValueError(
            f"the adapter's file is of another model: its {name} is {given.get(name, 'absent')}, "
            f"and this model's is {expected.get(name, 'absent')}"
        )
    set_peft_model_state_dict(peft_model(module), dict(state))


def save_adapter(module: nn.Module, folder: Path) -> None:
    """Save the adapter in peft's layout, which `PeftModel.from_pretrained` reads."""
    folder.mkdir(parents=True)
    save_file(adapter_state(module), folder / TENSORS, metadata={"format": "pt"})
    peft_model(module).peft_config["default"].save_pretrained(folder)


def read_adapter(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter that `save_adapter` saved."""
    return load_file(folder / TENSORS)
