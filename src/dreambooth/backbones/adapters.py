"""Adapters of peft inside a denoiser: adding one, its tensors, and its file."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

TENSORS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of the names in peft's files


def add_adapter(
    denoiser: nn.Module, make_config: Callable[..., Any], layers: Iterable[str], seed: int
) -> None:
    """Replace layers of the denoiser by layers with an adapter, whose random weights follow `seed`.

    `make_config`: makes a peft config, called with `target_modules`. `layers`: the names of the
    layers. ValueError if the adapter does not fit them.
    """
    from peft import get_peft_model

    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = get_peft_model(denoiser, make_config(target_modules=list(layers)))
    except (AssertionError, ImportError, KeyError, NotImplementedError, TypeError, ValueError) as e:
        reason = " ".join(str(e).split()).rstrip(".")
        raise ValueError(f"this adapter does not fit the model ({reason})") from e
    # A tuple, because a module would be registered as a part of the denoiser.
    denoiser.peft_model = (model,)  # type: ignore[assignment]


def peft_model(denoiser: nn.Module) -> Any:
    """The PeftModel around a denoiser with an adapter; None if it has none."""
    return getattr(denoiser, "peft_model", (None,))[0]


@contextmanager
def scaled_adapter(denoiser: nn.Module, scale: float) -> Iterator[None]:
    """Multiply the change that the adapter makes by `scale`, as diffusers' `scale` does."""
    layers: list[Any] = [layer for layer in denoiser.modules() if hasattr(layer, "set_scale")]
    for layer in layers if scale != 1 else []:
        layer.set_scale("default", scale)
    try:
        yield
    finally:
        for layer in layers if scale != 1 else []:
            layer.set_scale("default", 1.0)


def adapter_state(denoiser: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors, by the names of peft's files."""
    from peft import get_peft_model_state_dict

    state: dict[str, Tensor] = get_peft_model_state_dict(peft_model(denoiser))
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def load_adapter_state(denoiser: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Set the tensors of an adapter that the denoiser already has."""
    from peft import set_peft_model_state_dict

    found: Any = set_peft_model_state_dict(peft_model(denoiser), dict(state))
    if found.unexpected_keys:
        raise ValueError(
            f"the adapter's file has tensors that this model lacks, as {found.unexpected_keys[0]}: "
            "it was trained with another model"
        )


def save_adapter(denoiser: nn.Module, folder: Path) -> None:
    """Save the adapter in peft's layout, which `PeftModel.from_pretrained` reads."""
    folder.mkdir(parents=True)
    save_file(adapter_state(denoiser), folder / TENSORS, metadata={"format": "pt"})
    peft_model(denoiser).peft_config["default"].save_pretrained(folder)


def read_adapter(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter that `save_adapter` saved."""
    return load_file(folder / TENSORS)
