"""Frozen weights in half precision, and gradient checkpointing: the same step in less memory."""

from functools import partial

import pytest
import torch
from adapters_of_conf import NAMES, adapter_method
from commands import train
from kinds import each
from safetensors.torch import load_file

from dreambooth.backbones.cascade import CascadeBackbone
from dreambooth.backbones.precision import HalvedWeights
from dreambooth.backbones.stable_diffusion import StableDiffusionBackbone
from dreambooth.methods.dreambooth import DreamBooth
from dreambooth.methods.memory import draws_of
from dreambooth.methods.method import TermPrompts
from dreambooth.methods.two_terms import TwoTermModule

# These adapters compute with the frozen weights themselves, outside of their layers.
READ_WEIGHTS = {"boft", "dora", "hira", "shira"}
PROMPTS = TermPrompts(["a kzn dog"], ["a dog", ""])


@pytest.fixture
def stage(stable_diffusion):
    folder = stable_diffusion[1].partition("=")[2]
    return StableDiffusionBackbone.load(folder).stages["base"]


def module_of(stage, method, **settings):
    return TwoTermModule(stage, method, PROMPTS, 1.0, 1e-4, torch.optim.AdamW, **settings)


def step(module, precision="32-true"):
    """The loss and the gradients of a step."""
    low = partial(torch.autocast, "cpu", torch.bfloat16)
    module.zero_grad()
    with low(enabled=precision == "bf16-mixed"):
        loss = module.calc_loss(*draws_of(module, 1)).total
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in module.trained.parameters)]


def moved(module):
    """The module with trained weights that are no longer those of the start."""
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.trained.parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draws))
    return module


@pytest.mark.parametrize("adapter", each({name: name for name in NAMES}, "lora"))
def test_a_step_with_halved_frozen_weights_is_the_same(stage, adapter):
    module = moved(module_of(stage, adapter_method(adapter)))
    expected = step(module, "bf16-mixed")
    before = [p.detach().clone() for p in module.parameters()]
    halved = HalvedWeights(module, "bf16-mixed")
    assert sum(p.nbytes for p in module.parameters()) < 0.75 * sum(p.nbytes for p in before)
    loss, *gradients = step(module, "bf16-mixed")
    if adapter in READ_WEIGHTS:
        torch.testing.assert_close(loss, expected[0], rtol=5e-3, atol=0)
    else:
        torch.testing.assert_close([loss, *gradients], expected, rtol=0, atol=0)
    halved.restore()
    assert all(map(torch.equal, module.parameters(), before))


def test_what_trains_and_what_is_not_mixed_stays_as_it_is(stage):
    module = module_of(stage, DreamBooth())
    HalvedWeights(module, "bf16-mixed")
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    module = module_of(stage, adapter_method("lora"))
    HalvedWeights(module, "32-true")
    assert {p.dtype for p in module.parameters()} == {torch.float32}


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_gradient_checkpointing_changes_no_gradient(stage, adapter):
    method = DreamBooth() if adapter == "none" else adapter_method(adapter)
    expected = step(moved(module_of(stage, method)))
    checkpointed = module_of(stage, method, gradient_checkpointing=True)
    torch.testing.assert_close(step(checkpointed), expected, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("method.ema_decay=0.5",)], ids=["plain", "averaged"])
def test_what_is_frozen_is_saved_as_it_was(tiny, encoders, tmp_path, more):
    """Also where weights are averaged, and score curves are drawn, while the frozen are halved."""
    ended = train(
        tiny,
        tmp_path / "run",
        *("trainer.precision=bf16-mixed", "method.tuning.train=cross_attention", *more),
        *("callbacks=score_curves", "callbacks.score_curves.every_n_steps=1", *encoders),
    )
    assert ended.code == 0, ended.output
    saved = load_file(tmp_path / "run/weights/base/diffusion_pytorch_model.safetensors")
    pretrained = load_file(tiny / "base/diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float32}
    frozen = [name for name in saved if ".attn2." not in name]
    assert all(torch.equal(saved[name], pretrained[name]) for name in frozen)
    assert not all(map(torch.equal, saved.values(), pretrained.values()))


def test_a_denoiser_without_checkpointing_is_refused(tiny):
    stage = CascadeBackbone.load(tiny).stages["base"]
    stage.denoiser = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="has no gradient checkpointing, give false"):
        module_of(stage, DreamBooth(), gradient_checkpointing=True)
