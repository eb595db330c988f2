"""method.train_text_encoder: the text encoder, or an adapter in it, trains beside the denoiser."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from adapters_of_conf import adapter_method
from commands import command, same_files, stopped_before_step
from safetensors.torch import load_file
from test_adapters import KEY, SAMPLING, drawn_by
from test_prior import draw
from transformers import CLIPTextModel

from dreambooth.assemble import load_finished_model
from dreambooth.backbones.cascade import CascadeBackbone
from dreambooth.backbones.stable_diffusion import StableDiffusionBackbone
from dreambooth.backbones.stable_diffusion_xl import StableDiffusionXLBackbone
from dreambooth.methods.method import TermPrompts
from dreambooth.methods.two_terms import TwoTermModule
from dreambooth.runs.run import Run

PROMPTS = TermPrompts(["a kzn dog"], ["a dog", ""])
WORDS = ("method.train_text_encoder=true", "method.text_encoder_learning_rate=1e-4")
METHODS = {name: adapter_method(name, *WORDS) for name in ("none", "lora", "oft")}


def folder_of(stable_diffusion):
    return stable_diffusion[1].partition("=")[2]


@pytest.fixture(params=["cascade", "latent"])
def stage(request, tiny, stable_diffusion):
    if request.param == "cascade":
        return CascadeBackbone.load(tiny).stages["base"]
    return StableDiffusionBackbone.load(folder_of(stable_diffusion)).stages["base"]


def module_of(stage, method, kind="images"):
    return TwoTermModule(stage, method, PROMPTS, 0.5, 1e-3, torch.optim.AdamW, prior_kind=kind)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_losses_and_gradients_are_those_of_a_plain_recomputation(stage, method):
    module = module_of(stage, method)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.trained.parameters:
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=noise))
    subject, prior = draw(stage, 2, 1), draw(stage, 3, 2)
    losses = module.calc_loss(subject, prior)
    (text_group,) = [group for group in module.trained.groups if "lr" in group]
    assert text_group["lr"] == 1e-4
    found = torch.autograd.grad(losses.total, text_group["params"])

    terms = []
    for drawn, prompt in ((subject, "a kzn dog"), (prior, "a dog")):
        z_t = stage.schedule.corrupt(drawn.x, drawn.eps, drawn.t)
        target = stage.schedule.target(drawn.x, drawn.eps, drawn.t)
        text = stage.encode_prompts([prompt] * len(z_t), with_gradient=True)
        terms.append(F.mse_loss(stage.predict(z_t, drawn.t, {**text, **drawn.added}), target))
    assert losses.subject.item() == pytest.approx(terms[0].item(), abs=1e-6)
    assert losses.prior.item() == pytest.approx(terms[1].item(), abs=1e-6)
    expected = torch.autograd.grad(terms[0] + 0.5 * terms[1], text_group["params"])
    for gradient, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, plain, rtol=1e-3, atol=1e-5)
    assert any(gradient.abs().max() > 0 for gradient in found)
    # The prior's prompts go through the training encoder too.
    of_prior = torch.autograd.grad(module.calc_loss(subject, prior).prior, text_group["params"])
    assert any(gradient.abs().max() > 0 for gradient in of_prior)


@pytest.mark.parametrize("name", ["none", "lora"])
def test_the_output_prior_compares_with_the_frozen_text_too(stage, name):
    module = module_of(stage, METHODS[name], "output")
    subject, prior = draw(stage, 2, 1), draw(stage, 2, 2)
    assert module.calc_loss(subject, prior).prior.item() < 1e-9
    z_t = stage.schedule.corrupt(prior.x, prior.eps, prior.t)
    text = stage.encode_prompts(["a dog"] * 2)
    before = stage.predict(z_t, prior.t, {**text, **prior.added}).detach()
    (text_group,) = [group for group in module.trained.groups if "lr" in group]
    with torch.no_grad():
        for parameter in text_group["params"]:
            parameter.add_(0.3 * torch.randn(parameter.shape))
    text = stage.encode_prompts(["a dog"] * 2, with_gradient=True)
    after = stage.predict(z_t, prior.t, {**text, **prior.added})
    expected = F.mse_loss(after, before).item()
    assert expected > 1e-6
    assert module.calc_loss(subject, prior).prior.item() == pytest.approx(expected, rel=1e-3)


def test_the_sr_stage_is_trained_under_the_text_that_it_will_be_drawn_with(tiny):
    stages = CascadeBackbone.load(tiny).stages
    modules = {name: module_of(stage, METHODS["none"]) for name, stage in stages.items()}
    before = modules["sr"].encoded_prompts["subject"]["text"].clone()
    with torch.no_grad():
        for parameter in stages["base"].text_encoder.parameters():
            parameter.add_(0.1)
    METHODS["none"].load_state(stages["base"], METHODS["none"].state(stages["base"]))
    modules["sr"].on_fit_start()
    found = modules["sr"].encoded_prompts["subject"]["text"]
    assert not torch.equal(found, before)
    assert torch.equal(found, stages["sr"].encode_prompts(["a kzn dog"])["text"])


def same_tensors(a, b):
    """Not the bytes: safetensors writes the entries of a LoRA's metadata in any order."""
    files = sorted(path.relative_to(a) for path in a.rglob("*.safetensors"))
    assert files
    for file in files:
        left, right = load_file(a / file), load_file(b / file)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["none", "lora", "oft"])
def test_a_stopped_run_goes_on_to_the_same_bits_and_plain_diffusers_draws_the_same(
    stable_diffusion, tmp_path, adapter
):
    def run(name):
        return command(
            "train",
            "experiment=smoke",
            *stable_diffusion,
            f"adapter={adapter}",
            *WORDS,
            "method.module.learning_rate=1e-3",
            "metrics=none",
            "logger=csv",
            "method.max_steps=4",
            "prior=output",
            f"hydra.run.dir={tmp_path}/{name}",
        )

    assert run("whole").code == 0
    with stopped_before_step(2):
        assert run("stopped").code != 0
    assert run("stopped").code == 0
    whole = Run.load_finished(tmp_path / "whole")
    assert same_tensors(whole.weights, tmp_path / "stopped/weights")
    assert same_files(whole.folder / "images", tmp_path / "stopped/images", "*.png")

    backbone = load_finished_model(whole).backbone
    pretrained = StableDiffusionBackbone.load(folder_of(stable_diffusion))
    texts = [b.stages["base"].encode_prompts(["a kzn dog"])["text"] for b in (backbone, pretrained)]
    assert (texts[0] - texts[1]).abs().max() > 1e-5
    if adapter == "none":
        saved = CLIPTextModel.from_pretrained(whole.weights / "text_encoder").state_dict()
        ours = backbone.stages["base"].text_encoder.state_dict()
        assert all(torch.equal(value, ours[key]) for key, value in saved.items())
    (picture,) = backbone.generate(["a dog"], [KEY], SAMPLING)
    if recipe := backbone.recipe(whole.weights, "a dog", KEY, SAMPLING):
        assert (drawn_by(recipe).int() - picture.int()).abs().max() <= 1
    else:  # as peft saves it
        names = ["text_encoder", "unet"]
        assert [p.name for p in sorted(whole.weights.iterdir()) if p.is_dir()] == names


def test_a_model_with_several_text_encoders_is_refused(stable_diffusion_xl):
    backbone = StableDiffusionXLBackbone.load(folder_of(stable_diffusion_xl))
    for method in METHODS.values():
        with pytest.raises(ValueError, match=f"is not available for {backbone.name}, which"):
            method.names(None, None, backbone)


def test_layers_that_are_not_there_are_one_sentence(stage):
    method = replace(METHODS["lora"], targets="(")
    with pytest.raises(ValueError, match=r"adapter\.targets=\( is no regular expression"):
        method.prepare(stage)
    method = replace(METHODS["lora"], text_encoder_targets=".*to_q")
    with pytest.raises(ValueError, match=r"text_encoder_targets=.*to_q matches no layer of the te"):
        method.prepare(stage)
