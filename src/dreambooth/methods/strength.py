"""A fine-tuned model at other strengths of its training: W0 + g (W1 - W0).

W0 are the pretrained weights and W1 the fine-tuned ones; g = 0 is the pretrained model and g = 1
the fine-tuned one. Wortsman et al., arXiv 2109.01903, do so to trade robustness for accuracy.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from dreambooth.backbones.adapters import adapted_parts, peft_model
from dreambooth.backbones.stage import Backbone, Stage
from dreambooth.backbones.text_encoder import forget_prompts
from dreambooth.methods.method import Method


def strength_setter(
    method: Method, pretrained: Callable[[], Backbone], tuned: Backbone
) -> Callable[[float], None]:
    """A function that sets the strength g of `tuned`, the loaded model of a finished run.

    W are the values that the method trains: the denoiser's weights, or the vectors of a new word.
    An adapter is merged into the weights first, so that g scales what it adds to them, which for a
    LoRA is its scale. ValueError if the method trains nothing.
    """
    if not method.stages:
        raise ValueError("this run trained nothing, so it has no other strengths")
    stages = tuned.stages
    # By id, since stages may share a text encoder.
    adapted = {id(part): part for stage in stages.values() for part in adapted_parts(stage)}
    if adapted:
        setters = [_adapter_setter(part) for part in adapted.values()]
    else:
        before = pretrained()
        setters = [_state_setter(method, before.stages[name], s) for name, s in stages.items()]
    denoisers = {id(stage.denoiser) for stage in stages.values()}
    text_changes = not adapted.keys() <= denoisers

    def set_strength(g: float) -> None:
        for setter in setters:
            setter(g)
        for stage in stages.values():
            stage.denoiser.eval()
            if text_changes:
                forget_prompts(stage)

    return set_strength


def _state_setter(method: Method, pretrained: Stage, tuned: Stage) -> Callable[[float], None]:
    method.prepare(pretrained)
    w0, w1 = _copied(method.state(pretrained)), _copied(method.state(tuned))
    return lambda g: method.load_state(tuned, _between(w0, w1, g))


def _adapter_setter(part: nn.Module) -> Callable[[float], None]:
    w0 = _copied(part.state_dict())
    peft_model(part).merge_adapter()
    w1 = _copied(part.state_dict())

    def set_strength(g: float) -> None:
        part.load_state_dict(_between(w0, w1, g))

    return set_strength


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def _between(w0: Mapping[str, Tensor], w1: Mapping[str, Tensor], g: float) -> dict[str, Tensor]:
    """W0 + g (W1 - W0), exactly W0 at g = 0 and W1 at g = 1. Integer tensors are those of W1."""
    return {
        name: torch.lerp(w0[name], value, g) if value.is_floating_point() else value
        for name, value in w1.items()
    }
