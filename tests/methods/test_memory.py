"""The memory of a training step: computed with fake tensors, measured by torch's profiler."""

import json
from functools import partial

import pytest
import torch
from adapters_of_conf import adapter_method
from torch.profiler import ProfilerActivity, profile

from dreambooth.backbones import precision as precisions
from dreambooth.backbones.drawing import on_device
from dreambooth.backbones.drawing_memory import drawing_memory
from dreambooth.backbones.flux import FluxBackbone
from dreambooth.backbones.precision import HalvedWeights
from dreambooth.backbones.stable_diffusion import StableDiffusionBackbone
from dreambooth.backbones.stage import Sampling
from dreambooth.methods.dreambooth import DreamBooth
from dreambooth.methods.memory import draws_of, memory_of
from dreambooth.methods.method import TermPrompts
from dreambooth.methods.two_terms import TwoTermModule
from dreambooth.runs.settings import Sampler

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
    peak = allocated(step, before, path)
    halved.restore()
    return peak


def allocated(step, before, path):
    """The most bytes that are needed at once in `step`, with the tensors `before`."""
    total = peak = sum(tensor.nbytes for tensor in before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    profiled.export_chrome_trace(str(path))
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e["name"] == "[memory]"]
    for event in sorted(events, key=lambda event: event["ts"]):
        total += event["args"]["Bytes"]
        peak = max(peak, total)
    return peak


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("model", ["stable_diffusion", "flux"])
def test_the_computed_peak_of_drawing_is_the_measured_one(
    model, precision, request, tmp_path, monkeypatch
):
    folder = request.getfixturevalue(model)[1].partition("=")[2]
    family, sampler = (
        (FluxBackbone, "euler") if model == "flux" else (StableDiffusionBackbone, "dpm")
    )
    backbone = family.load(folder, resolution_px=256)
    sampling = Sampling({"base": Sampler(sampler, 2, 3.0)})
    computed = drawing_memory(backbone, sampling, precision, gpu=False)
    monkeypatch.setattr(precisions, "_is_on", lambda *_: False)  # as if on a GPU

    def draw():
        backbone.generate(["a dog"] * 4, [("key", i) for i in range(4)], sampling)

    with on_device(backbone, torch.device("cpu"), precision):
        draw()
        weights = [*backbone.stages["base"].denoiser.parameters(), *backbone.vae.parameters()]
        assert computed.weights == sum(weight.nbytes for weight in weights)
        measured = allocated(draw, weights, tmp_path / "trace.json")
    # A convolution on a CPU needs one more tensor of the size of its output.
    assert 0.8 * measured < computed.peak < measured


@pytest.mark.slow
def test_what_drawing_takes_follows_from_batch_guidance_precision_and_tiles(stable_diffusion):
    folder = stable_diffusion[1].partition("=")[2]

    def peak(guidance=3.0, precision="32-true", resolution_px=64, **settings):
        backbone = StableDiffusionBackbone.load(folder, resolution_px, **settings)
        return drawing_memory(backbone, Sampling({"base": Sampler("dpm", 2, guidance)}), precision)

    plain = peak(batch_size=40)
    assert "denoiser" in plain.where
    assert peak(batch_size=20).peak < plain.peak
    assert peak(guidance=1.0, batch_size=40).peak < plain.peak
    assert peak(batch_size=40, precision="bf16-mixed").weights < plain.weights
    large = peak(resolution_px=1024, batch_size=1)
    assert "VAE" in large.where
    tiled = peak(resolution_px=1024, batch_size=1, vae_tiling=True)
    assert tiled.peak - tiled.weights < 0.6 * (large.peak - large.weights)


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


@pytest.mark.slow
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
