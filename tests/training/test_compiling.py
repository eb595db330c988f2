"""method.module.compile: the same training with a compiled denoiser."""

from functools import partial

import pytest
import torch
import torch._inductor.config
from adapters_of_conf import adapter_method
from commands import same_files, stopped_before_step, train
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch._dynamo.testing import CompileCounterWithBackend

from dreambooth.backbones.stable_diffusion import StableDiffusionBackbone
from dreambooth.methods.dreambooth import DreamBooth
from dreambooth.methods.memory import draws_of
from dreambooth.methods.method import TermPrompts
from dreambooth.methods.two_terms import TwoTermModule
from dreambooth.training.compiling import check_compiler

PROMPTS = TermPrompts(["a kzn dog"], ["a dog", ""])


@pytest.fixture
def backend(monkeypatch):
    """`torch.compile` with all but its last part, which writes C++ and takes minutes."""
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    return counter


def module_of(stable_diffusion, adapter="none", **settings):
    stage = StableDiffusionBackbone.load(stable_diffusion[1].partition("=")[2]).stages["base"]
    method = DreamBooth() if adapter == "none" else adapter_method(adapter)
    module = TwoTermModule(stage, method, PROMPTS, 0.5, 1e-4, torch.optim.AdamW, **settings)
    module.log = lambda *_, **__: None  # there is no trainer
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():  # other weights than those of the frozen model
        for parameter in module.trained.parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draws))
    return module


def step(module, precision="32-true"):
    """The loss and the gradients, accumulated over two batches."""
    mixed = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed")
    for size in (1, 1):
        subject, prior = draws_of(module, size)
        with mixed:
            loss = module.training_step({"subject": subject, "prior": prior}, 0)
        loss.backward()
    return [loss.detach(), *(p.grad for p in module.trained.parameters)]


SETTINGS = {
    "plain": {},
    "output": {"prior_kind": "output"},
    "checkpointed": {"gradient_checkpointing": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_losses_and_gradients_of_both_terms_are_those_without(
    stable_diffusion, backend, adapter, settings
):
    expected = step(module_of(stable_diffusion, adapter, **settings))
    assert backend.frame_count == 0
    module = module_of(stable_diffusion, adapter, **settings, compile=True)
    torch.testing.assert_close(step(module), expected, rtol=1e-5, atol=1e-5)
    with_and_without_adapter = adapter == "lora" and "prior_kind" in settings
    assert backend.frame_count == (2 if with_and_without_adapter else 1)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["oft", "loha"])  # loha in many pieces
def test_an_adapter_trains_as_without(stable_diffusion, backend, adapter):
    expected = step(module_of(stable_diffusion, adapter))
    compiled = step(module_of(stable_diffusion, adapter, compile=True))
    torch.testing.assert_close(compiled, expected, rtol=1e-5, atol=1e-5)
    assert backend.frame_count


@pytest.mark.slow
def test_a_step_in_mixed_precision_is_close(stable_diffusion, backend):
    expected = step(module_of(stable_diffusion), "bf16-mixed")[0]
    compiled = step(module_of(stable_diffusion, compile=True), "bf16-mixed")[0]
    assert compiled.item() == pytest.approx(expected.item(), rel=1e-2)


@pytest.mark.slow
def test_a_compiled_run_is_saved_stopped_and_resumed_as_another(tiny, tmp_path, backend):
    """Also with averaged weights, with which images are generated during training."""
    words = ("method.max_steps=4", "method.ema_decay=0.5", "sr=noise_1e-3", "metrics=oracle")
    words += ("callbacks=score_curves", "callbacks.score_curves.every_n_steps=2")
    assert train(tiny, tmp_path / "eager", *words).code == 0
    assert backend.frame_count == 0
    words += ("method.module.compile=true",)
    assert train(tiny, tmp_path / "whole", *words).code == 0
    assert backend.frame_count > 1  # of both stages
    with stopped_before_step(2):
        assert train(tiny, tmp_path / "resumed", *words).code != 0
    ended = train(tiny, tmp_path / "resumed", *words)
    assert ended.code == 0, ended.output
    assert "resuming from" in ended.output
    assert same_files(tmp_path / "whole/weights", tmp_path / "resumed/weights", "*.safetensors")
    for stage in ("base", "sr"):
        file = f"weights/{stage}/diffusion_pytorch_model.safetensors"
        eager, whole = (load_file(tmp_path / name / file) for name in ("eager", "whole"))
        torch.testing.assert_close(whole, eager, rtol=1e-3, atol=1e-4)
    UNet2DConditionModel.from_pretrained(tmp_path / "whole/weights/base")


@pytest.mark.slow
def test_a_machine_without_a_compiler_is_refused_before_a_model_is_loaded(tmp_path, monkeypatch):
    check_compiler.cache_clear()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with torch._inductor.config.patch({"cpp.cxx": ("nothing",)}):
        ended = train(tmp_path / "no model", tmp_path / "run", "method.module.compile=true")
    assert "torch.compile does not work on this machine (" in ended.sentence
    assert ended.sentence.endswith(
        "install a compiler for C++, such as g++, or give method.module.compile=false"
    )


def test_several_devices_are_refused(tiny, tmp_path):
    words = ("method.module.compile=true", "trainer.devices=2")
    assert train(tiny, tmp_path / "run", *words).sentence == (
        "method.module.compile=true is for one device: give trainer.devices=1, or false"
    )
