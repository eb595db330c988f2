"""A stage whose text encoder has changed: its encoded prompts, and both parts in one state."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dreambooth.backbones.stage import Stage

_PREFIX = "text_encoder."


def forget_prompts(stage: Stage) -> None:
    """Encode all prompts anew from now on.

    An encoding with gradient clears the cache of the stage; its result is not used.
    """
    with torch.no_grad():
        stage.encode_prompts([""], with_gradient=True)


def joined(denoiser: Mapping[str, Tensor], text_encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The states of both as one; that of the denoiser alone is kept as it is."""
    return {**denoiser, **{_PREFIX + name: value for name, value in text_encoder.items()}}


def parted(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The states of the denoiser and the text encoder, which `joined` has joined."""
    of_text = {k.removeprefix(_PREFIX): v for k, v in state.items() if k.startswith(_PREFIX)}
    return {k: v for k, v in state.items() if not k.startswith(_PREFIX)}, of_text
