"""Adapters on the whole path: trained, resumed, saved, and loaded by other tools."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from adapters_of_conf import NAMES, adapter_method, composed
from commands import command, stopped_before_step, train
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from test_seams import ONLY_BIASES

from dreambooth.assemble import load_finished_model
from dreambooth.backbones.adapters import scaled_adapter
from dreambooth.backbones.cascade import CascadeBackbone
from dreambooth.backbones.stable_diffusion import StableDiffusionBackbone
from dreambooth.backbones.stage import Sampling
from dreambooth.backbones.text_encoder import forget_prompts
from dreambooth.methods.method import TermPrompts
from dreambooth.methods.two_terms import TwoTermModule
from dreambooth.runs.checks import adapter_scale
from dreambooth.runs.run import Run
from dreambooth.runs.settings import Sampler

SAMPLING = Sampling({"base": Sampler("ddim", num_steps=4, guidance_scale=3.0)})
KEY = ("t", 0)


def shifted(stage, method, seed=0):
    """The stage with an adapter that changes its predictions."""
    method.prepare(stage)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in method.trained(stage).parameters:
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=draws))
    stage.denoiser.eval()
    forget_prompts(stage)


def drawn_by(recipe):
    """The image (3, H, W) that a recipe for plain diffusers draws."""
    drawn = {}
    exec(recipe, drawn)
    return torch.from_numpy(np.array(drawn["image"])).permute(2, 0, 1)


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_plain_diffusers_draws_the_same_pictures_with_a_saved_lora(
    stable_diffusion, tmp_path, name
):
    folder = stable_diffusion[1].partition("=")[2]
    backbone, method = StableDiffusionBackbone.load(folder), adapter_method(name)
    plain = backbone.generate(["a dog"], [KEY], SAMPLING)[0]
    shifted(backbone.stages["base"], method)
    ours = backbone.generate(["a dog"], [KEY], SAMPLING)[0]
    assert (ours.int() - plain.int()).abs().max() > 10
    method.save(backbone, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["pytorch_lora_weights.safetensors"]

    theirs = drawn_by(backbone.recipe(tmp_path, "a dog", KEY, SAMPLING))
    assert (theirs.int() - ours.int()).abs().max() <= 1


def test_peft_reads_another_adapter(tiny, tmp_path):
    from peft import PeftModel

    backbone, method = CascadeBackbone.load(tiny), adapter_method("oft")
    stage = backbone.stages["base"]
    shifted(stage, method)
    method.save(backbone, tmp_path)
    assert json.loads((tmp_path / "base/adapter_config.json").read_text())["peft_type"] == "OFT"
    plain = UNet2DConditionModel.from_pretrained(tiny / "base")
    theirs = PeftModel.from_pretrained(plain, str(tmp_path / "base")).eval()
    x = torch.randn(2, plain.config.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    text = stage.encode_prompts(["a dog", "a cat"])["text"]
    t = torch.tensor([100, 900])
    untrained = UNet2DConditionModel.from_pretrained(tiny / "base")
    with torch.no_grad():
        expected = stage.denoiser(x, t, text).sample
        # So large a rotation makes up to 3e-3 of rounding.
        torch.testing.assert_close(theirs(x, t, text).sample, expected, rtol=0, atol=1e-2)
        assert (untrained(x, t, text).sample - expected).abs().max() > 0.1


def test_the_random_weights_follow_the_seed(tiny):
    states = []
    for seed in (0, 0, 1):
        stage, method = (
            CascadeBackbone.load(tiny).stages["base"],
            adapter_method("lora", f"seed={seed}"),
        )
        torch.manual_seed(len(states))
        method.prepare(stage)
        states.append(method.state(stage))
    assert all(torch.equal(states[0][k], v) for k, v in states[1].items())
    assert any(not torch.equal(states[0][k], v) for k, v in states[2].items())


def test_a_checkpoint_has_the_adapter_alone(tiny):
    stage = CascadeBackbone.load(tiny).stages["base"]
    frozen = {k: v.clone() for k, v in stage.denoiser.state_dict().items()}
    prompts = TermPrompts(["a kzn dog"], ["a dog", ""])
    method = adapter_method("lora")
    module = TwoTermModule(stage, method, prompts, 1.0, 1e-3, torch.optim.AdamW)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    assert len(state) == len(method.trained(stage).parameters)
    assert all("lora_" in name for name in state)
    module.load_state_dict({name: value + 1 for name, value in state.items()})
    assert all(torch.equal(module.state_dict()[k], v + 1) for k, v in state.items())
    with pytest.raises(RuntimeError, match="Missing key"):
        module.load_state_dict(dict(list(state.items())[1:]))
    kept = {n.replace(".base_layer", ""): p for n, p in stage.denoiser.named_parameters()}
    assert all(torch.equal(kept[name], value) for name, value in frozen.items())


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_adapter(stable_diffusion, tmp_path):
    def run(name):
        return command(
            "train",
            "experiment=smoke",
            *stable_diffusion,
            "adapter=lora",
            "logger=csv",
            "method.max_steps=4",
            f"prior.cache={tmp_path}/prior",
            f"hydra.run.dir={tmp_path}/{name}",
        )

    assert run("whole").code == 0
    with stopped_before_step(2):
        assert run("stopped").code != 0
    checkpoint = tmp_path / "stopped/checkpoints/base-00000002.ckpt"
    assert checkpoint.stat().st_size < 500_000
    assert run("stopped").code == 0
    whole, resumed = (
        load_file(tmp_path / name / "weights/pytorch_lora_weights.safetensors")
        for name in ("whole", "stopped")
    )
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())
    assert any(value.abs().max() > 1e-4 for key, value in whole.items() if "lora_B" in key)
    names = sorted(p.name for p in (tmp_path / "whole/weights").iterdir())
    assert names == [".written.json", "pytorch_lora_weights.safetensors"]
    file = tmp_path / "whole/weights/pytorch_lora_weights.safetensors"
    for name in ("whole", "stopped"):
        costs = Run.load_finished(tmp_path / name).read_provenance()["costs"]
        assert costs["trained_parameters"] == sum(value.numel() for value in whole.values())
        assert costs["weights_bytes"] == file.stat().st_size
        assert costs["step_ms"] > 0
    more = (f"run={tmp_path / 'whole'}", "prompts=['a {}']", "images_per_prompt=1")
    ended = command("generate", *more, "adapter.scale=0.5")
    assert ended.code == 0, ended.output
    assert 'cross_attention_kwargs={"scale": 0.5}' in ended.output
    assert command("generate", *more, "adapter.scale=a").sentence.startswith("adapter.scale=a: ")
    reloaded = load_finished_model(Run.load_finished(tmp_path / "whole"))
    assert any(
        "lora_A" in n for n, _ in reloaded.backbone.stages["base"].denoiser.named_parameters()
    )


BAD = {
    "adapter.targets=nothing": "matches no layer",
    "adapter.config.r=0": "adapter.config.r=0: give a whole number from 1 up",
    "+adapter.config.lora_dropout=2": "does not fit the model",
    "adapter.save_format=x": "adapter.save_format=x: give diffusers or kohya",
    "adapter.save_format=kohya": "an adapter of tiny has no such format, give diffusers",
}


@pytest.mark.parametrize("override", BAD)
def test_an_impossible_adapter_is_one_sentence(tiny, tmp_path, override):
    ended = train(tiny, tmp_path / "run", "adapter=lora", override)
    assert BAD[override] in ended.sentence


def test_targets_beside_the_cross_attention_are_named_as_the_mistake(tiny, tmp_path):
    words = ("adapter.targets=.*attn1.to_q", "method.tuning.train=cross_attention")
    ended = train(tiny, tmp_path / "run", "adapter=lora", *words)
    assert ended.sentence == (
        "adapter.targets=.*attn1.to_q matches no layer of cross-attention (attn2) in stage base, "
        "and method.tuning.train=cross_attention trains no other: give other targets or "
        "method.tuning.train=all"
    )


def test_a_format_without_an_adapter_is_one_sentence(tiny, tmp_path):
    ended = train(tiny, tmp_path / "run", "adapter.save_format=kohya")
    assert ended.sentence == "adapter.save_format=kohya needs an adapter: add adapter=lora"


def test_an_adapter_with_a_method_that_ignores_it_is_refused(tiny, tmp_path):
    ended = train(
        tiny,
        tmp_path / "run",
        "adapter=lora",
        *ONLY_BIASES,
    )
    assert ended.sentence == "this method trains no adapter: give adapter=none"


@pytest.mark.slow
def test_a_run_from_before_there_were_adapters_is_resumed(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["adapter"]
    config["method"]["module"]["learning_rate"] = 6e-4  # as a run writes it, without a reference
    config["method"]["tuning"] = {
        "_target_": "dreambooth.methods.dreambooth.DreamBooth",
        "train": "all",
        "train_sr": "all",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    Run(folder, config).set_status("preempted")
    ended = command("train", f"run={folder}")
    assert ended.code == 0, ended.output


def predictions(stage, scale=1.0):
    x = torch.randn(2, *stage.x_shape, generator=torch.Generator().manual_seed(0))
    text = stage.encode_prompts(["a dog", "a cat"])
    with torch.no_grad(), scaled_adapter(stage, scale):
        return stage.predict(x, torch.tensor([100, 900]), text)


@pytest.mark.parametrize("name", ["lora", "loha", "lokr", "shira"])
def test_the_scale_is_a_factor_of_the_weights_change(tiny, name):
    stage, method = CascadeBackbone.load(tiny).stages["base"], adapter_method(name)
    plain = predictions(stage)
    shifted(stage, method)
    trained = predictions(stage)
    assert (trained - plain).abs().max() > 1e-2
    torch.testing.assert_close(predictions(stage, 0.0), plain, rtol=0, atol=1e-6)
    half = predictions(stage, 0.5)
    assert torch.equal(predictions(stage), trained)
    # Half of a linear layer's change of weights is half of its change of output.
    for layer in stage.denoiser.modules():
        if hasattr(layer, "base_layer"):
            x = torch.randn(1, layer.base_layer.in_features)
            layer.set_scale("default", 0.5)
            found = layer(x)
            layer.set_scale("default", 1.0)
            expected = (layer.base_layer(x) + layer(x)) / 2
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (half - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["none", *NAMES])
def test_an_adapter_that_peft_cannot_scale_is_said_before_anything_is_loaded(name):
    scaled = ("lora", "dora", "loha", "lokr", "shira")
    config = {"adapter": composed(f"adapter={name}")["adapter"]}
    assert adapter_scale(config) == 1
    if name in scaled:
        assert adapter_scale(config, 0.5) == 0.5
    else:
        words = "this run has no adapter" if name == "none" else "peft cannot scale an adapter of"
        with pytest.raises(ValueError, match=words):
            adapter_scale(config, 0.5)


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_plain_diffusers_draws_the_same_pictures_at_another_scale(stable_diffusion, tmp_path, name):
    backbone, method = (
        StableDiffusionBackbone.load(stable_diffusion[1].partition("=")[2]),
        adapter_method(name),
    )
    shifted(backbone.stages["base"], method)
    sampling = replace(SAMPLING, adapter_scale=0.4)
    whole, ours = (backbone.generate(["a dog"], [KEY], s)[0] for s in (SAMPLING, sampling))
    assert (ours.int() - whole.int()).abs().max() > 10
    method.save(backbone, tmp_path)
    theirs = drawn_by(backbone.recipe(tmp_path, "a dog", KEY, sampling))
    assert (theirs.int() - ours.int()).abs().max() <= 1
