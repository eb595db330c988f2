"""The presets of conf/trainer for GPUs, their runs on a CPU, and what is said about memory."""

import logging
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from adapters_of_conf import composed
from commands import train

from dreambooth.backbones.cascade import CascadeBackbone
from dreambooth.backbones.drawing import Drawing
from dreambooth.backbones.drawing_memory import DrawingMemory, advice_on_drawing
from dreambooth.backbones.stable_diffusion import StableDiffusionBackbone
from dreambooth.methods import memory
from dreambooth.methods.dreambooth import DreamBooth
from dreambooth.methods.memory import memory_of, report_memory
from dreambooth.methods.method import TermPrompts
from dreambooth.methods.two_terms import TwoTermModule
from dreambooth.runs.run import Run
from dreambooth.training.optimizers import adamw_8bit
from dreambooth.training.presets import advice, smaller_presets

PRESETS = ("gpu_8gb", "gpu_16gb", "gpu_24gb", "gpu_80gb")
ON_CPU = "trainer.accelerator=cpu"
PROMPTS = TermPrompts(["a kzn dog"], ["a dog", ""])


@pytest.fixture
def bitsandbytes(tmp_path, monkeypatch):
    """A package of this name, whose AdamW8bit is AdamW."""
    (tmp_path / "package/bitsandbytes").mkdir(parents=True)
    (tmp_path / "package/bitsandbytes/__init__.py").write_text("")
    text = "from torch.optim import AdamW as AdamW8bit\n"
    (tmp_path / "package/bitsandbytes/optim.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "package"))
    yield
    for name in ("bitsandbytes", "bitsandbytes.optim"):
        sys.modules.pop(name, None)


def module_of(stage, optimizer=torch.optim.AdamW):
    return TwoTermModule(stage, DreamBooth(), PROMPTS, 1.0, 1e-4, optimizer)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("model", ["miniature", "sd15", "sdxl"])
def test_a_preset_sets_what_its_first_line_says(name, model):
    config = composed(f"model={model}", f"trainer={name}")
    assert config["trainer"]["precision"] == "bf16-mixed"
    assert config["trainer"]["accelerator"] == "gpu"
    assert (config["adapter"]["config"] is not None) == (name == "gpu_8gb")
    assert config["drawing"]["vae_tiling"] == (name == "gpu_8gb")
    if model != "miniature":
        assert config["model"]["backbone"]["vae_tiling"] == (name == "gpu_8gb")
    module = config["method"]["module"]
    assert module["gradient_checkpointing"] == (name != "gpu_80gb")
    assert module["optimizer"]["_target_"].endswith("8bit") == (name == "gpu_16gb")


def test_words_of_the_command_line_stand_above_a_preset():
    words = ("adapter=dora", "method.module.gradient_checkpointing=false")
    config = composed("trainer=gpu_8gb", *words, "trainer.precision=32-true")
    assert config["adapter"]["config"]["use_dora"]
    assert not config["method"]["module"]["gradient_checkpointing"]
    assert config["trainer"]["precision"] == "32-true"


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_runs(tiny, tmp_path, request, name):
    if name == "gpu_16gb":
        request.getfixturevalue("bitsandbytes")
    more = ["callbacks=score_curves", "metrics=oracle"] if name == "gpu_8gb" else []
    ended = train(tiny, tmp_path / "run", f"trainer={name}", ON_CPU, *more)
    assert ended.code == 0, ended.output
    weights = Run.load_finished(tmp_path / "run").weights
    assert list(weights.rglob("adapter_config.json")) == [weights / "base/adapter_config.json"] * (
        name == "gpu_8gb"
    )


def test_8_bit_adamw_without_its_package_is_refused_before_anything_is_loaded(tiny, tmp_path):
    ended = train(tiny, tmp_path / "run", "trainer=gpu_16gb", "model.backbone.pretrained=nothing")
    assert ended.sentence == (
        "the 8-bit AdamW of trainer=gpu_16gb needs a package: pip install -e '.[memory]', or "
        "give another trainer"
    )


@pytest.mark.slow
def test_8_bit_states_take_a_quarter(tiny):
    stage = CascadeBackbone.load(tiny).stages["base"]
    plain = memory_of(module_of(stage), 1)
    eight_bit = memory_of(module_of(stage, partial(adamw_8bit, fused=True)), 1)
    large = sum(p.numel() for p in stage.denoiser.parameters() if p.numel() >= 4096)
    small = sum(p.numel() for p in stage.denoiser.parameters() if p.numel() < 4096)
    assert large
    assert small
    assert eight_bit.optimizer == pytest.approx(2 * large * (1 + 4 / 256) + 8 * small, rel=0.01)
    assert plain.peak - eight_bit.peak == plain.optimizer - eight_bit.optimizer


@pytest.mark.parametrize(
    ("trainer", "billions", "gigabytes", "named"),
    [
        ("gpu", 0.86, 17, "gpu_24gb"),  # 13.8 GB without activations
        ("gpu", 0.86, 12, "gpu_16gb"),
        ("gpu_16gb", 0.86, 12, "gpu_8gb"),
        ("gpu", 2.57, 25, "gpu_8gb"),  # the others take 41 GB and 26 GB
        ("auto", 0.86, None, "gpu_24gb"),
    ],
)
def test_the_named_preset_is_the_next_whose_weights_fit(trainer, billions, gigabytes, named):
    size = None if gigabytes is None else int(gigabytes * 1e9)
    presets = smaller_presets(trainer, takes_adapter=True)
    assert advice(presets, int(billions * 1e9), size) == f"try trainer={named}"


def test_without_a_preset_that_is_smaller_other_ways_are_named():
    assert smaller_presets("gpu_8gb", takes_adapter=True) == []
    assert smaller_presets("gpu_16gb", takes_adapter=False) == []
    assert "smaller model" in advice([], 10**9, 8 * 10**9)
    assert "smaller model" in advice(smaller_presets("gpu", True), 12 * 10**9, 8 * 10**9)


@pytest.mark.slow
def test_a_run_of_a_large_model_says_first_what_it_takes(tiny, tmp_path, monkeypatch):
    assert "expected peak memory" not in train(tiny, tmp_path / "small", "prior=off").output
    monkeypatch.setattr(memory, "LARGE", 0)
    lines = train(tiny, tmp_path / "large", "prior=off").output.splitlines()
    (said,) = [i for i, line in enumerate(lines) if "base: expected peak memory, in" in line]
    assert said < next(i for i, line in enumerate(lines) if "2 steps in" in line)


@pytest.mark.parametrize("gigabytes", [1, 100])
def test_a_gpu_that_is_too_small_is_named_before_training(tiny, monkeypatch, caplog, gigabytes):
    backbone = CascadeBackbone.load(tiny)
    module = module_of(backbone.stages["base"])
    monkeypatch.setattr(memory, "LARGE", 0)
    monkeypatch.setattr(memory, "gpu_bytes", lambda _: gigabytes * 10**9)
    big, drawn = (
        memory.Memory(3, 3, 6, 14 * 10**9),
        DrawingMemory(3, 15 * 10**9, "the VAE's decoder"),
    )
    monkeypatch.setattr(memory, "memory_of", lambda *_: big)
    monkeypatch.setattr(memory, "drawing_memory", lambda *_: drawn)
    trainer = type("Trainer", (), {"precision": "bf16-mixed", "strategy": None})
    drawing = Drawing(None, backbone, None, torch.device("cuda"), "bf16-mixed")
    with caplog.at_level(logging.INFO):
        report_memory(module, trainer, 2, drawing, ["gpu_24gb"], None)
    assert "base: expected peak memory, in generating images: 15.0 GB (" in caplog.text
    assert "the VAE's decoder); in training 14.0 GB" in caplog.text
    expected = {
        "training is not expected to fit into 1.0 GB: lower method.batch_size (it is 2), or try "
        "trainer=gpu_24gb",
        "generating images is not expected to fit into 1.0 GB: lower model.backbone.batch_size "
        "(it is 50)",
    }
    assert expected & {*caplog.messages} == (expected if gigabytes == 1 else set())


def test_what_to_try_where_drawing_does_not_fit(stable_diffusion):
    backbone = StableDiffusionBackbone.load(stable_diffusion[1].partition("=")[2])
    of_vae = DrawingMemory(3, 15 * 10**9, "the VAE's decoder")

    def advice_for(**changes):
        drawing = Drawing(None, backbone, None, torch.device("cuda"), "bf16-mixed")
        return advice_on_drawing(replace(drawing, **changes), of_vae)

    assert "trainer=gpu" in advice_for(precision="32-true")
    assert advice_for() == "try drawing.vae_tiling=true"
    backbone.vae.enable_tiling()
    assert advice_for() == "lower model.backbone.batch_size (it is 4)"
    backbone.batch_size = 1
    assert "resolution_px" in advice_for()


@pytest.mark.slow
def test_a_training_out_of_memory_ends_with_one_sentence(tiny, tmp_path, monkeypatch):
    def training_step(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(TwoTermModule, "training_step", training_step)
    ended = train(tiny, tmp_path / "run", "prior=off", "trainer=gpu_24gb", ON_CPU)
    assert ended.code == 1
    assert "Traceback" not in ended.output
    assert ended.output.strip().endswith(
        "[ERROR] - training does not fit into the GPU's memory: lower method.batch_size (it is 4), "
        "or try trainer=gpu_16gb"
    )


@pytest.mark.slow
def test_a_memory_that_cannot_be_computed_stops_no_run(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "LARGE", 0)
    ended = train(tiny, tmp_path / "run", "prior=off", "adapter=loha")  # which reads a scale
    assert ended.code == 0, ended.output
    assert "base: the memory of this run cannot be computed" in ended.output
