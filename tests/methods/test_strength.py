"""W0 + g (W1 - W0): the pretrained model at g = 0 and the fine-tuned one at g = 1."""

from functools import partial

import pytest
import torch
from adapters_of_conf import NAMES, adapter_method
from kinds import each

from dreambooth.backbones.adapters import add_adapter
from dreambooth.backbones.cascade import CascadeBackbone
from dreambooth.methods.dreambooth import DreamBooth
from dreambooth.methods.prompt_only import PromptOnly
from dreambooth.methods.strength import strength_setter
from dreambooth.methods.textual_inversion import TextualInversion


def shifted(backbone, method, seed=0):
    """The model with what the method trains changed at random."""
    draws = torch.Generator().manual_seed(seed)
    for stage in backbone.stages.values():
        method.prepare(stage)
        with torch.no_grad():
            for parameter in method.trained(stage).parameters:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draws))
        stage.encode_prompts([""], with_gradient=True)  # forgets encoded prompts
        stage.denoiser.eval()


@torch.no_grad()
def prediction(backbone, prompt="a dog"):
    stage = backbone.stages["base"]
    z = torch.randn(2, *stage.x_shape, generator=torch.Generator().manual_seed(0))
    text = stage.encode_prompts([prompt, "a cat"])
    return stage.predict(z, torch.tensor([100, 900]), text)


METHODS = {name: partial(adapter_method, name) for name in NAMES}
METHODS |= {"full": DreamBooth, "cross_attention": partial(DreamBooth, train="cross_attention")}
METHODS["textual_inversion"] = partial(TextualInversion, "<subject>", like="dog")


@pytest.mark.parametrize(
    "name", each({name: name for name in METHODS}, "full", "textual_inversion", "lora")
)
def test_the_strengths_reach_from_the_pretrained_model_to_the_fine_tuned_one(tiny, name):
    method, tuned = METHODS[name](), CascadeBackbone.load(tiny)
    prompt = "a <subject>" if name == "textual_inversion" else "a dog"
    pretrained = CascadeBackbone.load(tiny)
    if name == "textual_inversion":  # the new word starts as its class noun
        plain = prediction(CascadeBackbone.load(tiny), "a dog")
    else:
        plain = prediction(pretrained)
    shifted(tuned, method)
    trained = prediction(tuned, prompt)
    assert not torch.allclose(trained, plain, atol=1e-3)
    set_strength = strength_setter(method, lambda: pretrained, tuned)
    set_strength(1)
    torch.testing.assert_close(prediction(tuned, prompt), trained, rtol=1e-3, atol=1e-4)
    set_strength(0)
    torch.testing.assert_close(prediction(tuned, prompt), plain, rtol=1e-3, atol=1e-4)
    set_strength(0.5)
    half = prediction(tuned, prompt)
    assert not torch.allclose(half, plain, atol=1e-4)
    assert not torch.allclose(half, trained, atol=1e-4)


def test_the_weights_are_linear_in_the_strength_beyond_the_fine_tuned_model_too(tiny):
    tuned, pretrained = CascadeBackbone.load(tiny), CascadeBackbone.load(tiny)
    shifted(tuned, DreamBooth())
    w0, w1 = (
        {k: v.clone() for k, v in b.stages["sr"].denoiser.state_dict().items()}
        for b in (pretrained, tuned)
    )
    strength_setter(DreamBooth(), lambda: pretrained, tuned)(1.25)
    for name, value in tuned.stages["sr"].denoiser.state_dict().items():
        torch.testing.assert_close(value, w0[name] + 1.25 * (w1[name] - w0[name]))


def test_the_strength_of_a_lora_is_its_scale(tiny):
    method, tuned, other = adapter_method("lora"), *(CascadeBackbone.load(tiny) for _ in range(2))
    for backbone in (tuned, other):
        shifted(backbone, method)
    for layer in other.stages["base"].denoiser.modules():
        if hasattr(layer, "scaling"):
            layer.scaling["default"] *= 0.25
    strength_setter(method, lambda: None, tuned)(0.25)
    torch.testing.assert_close(prediction(tuned), prediction(other), rtol=1e-3, atol=1e-4)


def test_an_adapter_of_the_text_encoder_has_the_same_strength(tiny):
    from peft import LoraConfig

    method, tuned = adapter_method("lora"), CascadeBackbone.load(tiny)
    stage, plain = tuned.stages["base"], prediction(CascadeBackbone.load(tiny))
    assert stage.text_encoder is tuned.stages["sr"].text_encoder  # and yet it is scaled once
    names = [n for n, _ in stage.text_encoder.named_modules() if n.endswith("q_proj")]
    add_adapter(stage.text_encoder, partial(LoraConfig, init_lora_weights=False), names, seed=0)
    shifted(tuned, method)
    trained = prediction(tuned)
    set_strength = strength_setter(method, lambda: None, tuned)
    for strength, expected in ((0, plain), (1, trained), (0, plain)):
        set_strength(strength)
        torch.testing.assert_close(prediction(tuned), expected, rtol=1e-3, atol=1e-4)


def test_a_run_without_training_has_no_strengths(tiny):
    with pytest.raises(ValueError, match="this run trained nothing, so it has no other stren"):
        strength_setter(PromptOnly(), lambda: None, CascadeBackbone.load(tiny))
