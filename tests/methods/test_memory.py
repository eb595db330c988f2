"""The memory of a training step: computed with fake tensors, measured by torch's profiler."""

import json
from functools import partial

import pytest
import torch
from adapters_of_conf import adapter_method
from torch.profiler import ProfilerActivity, profile

from dreambooth.backbones.stable_diffusion import StableDiffusionBackbone
from dreambooth.methods.dreambooth import DreamBooth
from dreambooth.methods.memory import draws_of, memory_of
from dreambooth.methods.method import TermPrompts
from dreambooth.methods.two_terms import TwoTermModule
from dreambooth.training.precision import HalvedWeights

PROMPTS = TermPrompts(["a kzn dog"], ["a dog", ""])
ADAMW = partial(torch.optim.AdamW, fused=True)


@pytest.fixture
def stage(stable_diffusion):
    folder = stable_diffusion[1].partition("=")[2]
    return StableDiffusionBackbone.load(folder, resolution_px=256).stages["base"]


def module_of(stage, method, **settings):
    return TwoTermModule(stage, method, PROMPTS, 1.0, 1e-4, ADAMW, **settings)


def measured_peak(module, batch_size, precision, path):
    """The most bytes that torch's allocator has given out at once in the second training step."""
    halved = HalvedWeights(module, precision)
    draws = draws_of(module, batch_size)
    optimizer = module.optimizer(module.trained.groups, lr=1e-4)
    mixed = precision.endswith("mixed")

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = module.calc_loss(*draws).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    step()
    before = [*module.parameters(), *(p.grad for p in module.trained.parameters)]
    before += [value for state in optimizer.state.values() for value in state.values()]
    total = peak = sum(tensor.nbytes for tensor in before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    profiled.export_chrome_trace(str(path))
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e["name"] == "[memory]"]
    for event in sorted(events, key=lambda event: event["ts"]):
        total += event["args"]["Bytes"]
        peak = max(peak, total)
    halved.restore()
    return peak


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "precision", "checkpointing"),
    [
        ("none", "32-true", False),
        ("none", "bf16-mixed", True),
        ("lora", "32-true", True),
        ("lora", "bf16-mixed", False),
    ],
)
def test_the_computed_peak_is_the_measured_one(stage, adapter, precision, checkpointing, tmp_path):
    method = DreamBooth() if adapter == "none" else adapter_method(adapter)
    module = module_of(stage, method, gradient_checkpointing=checkpointing)
    computed = memory_of(module, 2, precision, gpu=False)
    measured = measured_peak(module, 2, precision, tmp_path / "trace.json")
    assert computed.peak == pytest.approx(measured, rel=0.1)


def test_computing_it_changes_nothing(stage):
    module = module_of(stage, DreamBooth(train_text_encoder=True))
    before = {name: (p, p.detach().clone()) for name, p in module.named_parameters()}
    assert memory_of(module, 1).weights == sum(p.nbytes for p in module.parameters())
    for name, parameter in module.named_parameters():
        assert parameter is before[name][0]
        assert torch.equal(parameter, before[name][1])
        assert parameter.grad is None
    module.calc_loss(*draws_of(module, 1)).total.backward()


@pytest.mark.slow
def test_more_of_everything_takes_more(stage):
    plain = memory_of(module_of(stage, DreamBooth()), 1)
    assert memory_of(module_of(stage, DreamBooth()), 2).peak > plain.peak
    assert memory_of(module_of(stage, DreamBooth("cross_attention")), 1).gradients < plain.gradients
    frozen_too = memory_of(module_of(stage, DreamBooth(), prior_kind="output"), 1)
    assert frozen_too.weights == 2 * plain.weights
    module = module_of(stage, DreamBooth())
    # Normalization in float32.
    assert memory_of(module, 1, "bf16-mixed").peak > memory_of(module, 1, "bf16-mixed", False).peak
