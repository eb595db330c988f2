"""DeepFloyd IF draws and saves as plain diffusers does, on a tiny folder of random weights."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from adapters_of_conf import adapter_method
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    IFPipeline,
    IFSuperResolutionPipeline,
    UNet2DConditionModel,
)
from tiny_deepfloyd import added, plain
from transformers import T5EncoderModel

from dreambooth.backbones.deepfloyd import DeepFloydBackbone
from dreambooth.backbones.stage import Sampling
from dreambooth.methods.dreambooth import DreamBooth
from dreambooth.randomness import generator
from dreambooth.runs.settings import Sampler

PROMPTS = ["a photo of a dog", "A red CLOCK in the snow ", "a cat wearing a hat"]
KEYS = [("test", prompt, 0) for prompt in PROMPTS]
STAGES = ["base", "sr"]


def sampling(name="ancestral", **options):
    samplers = {"base": Sampler(name, 5, 3.0), "sr": Sampler(name, 4, 2.0)}
    return Sampling(samplers, **options)


@pytest.fixture
def folder(deepfloyd) -> Path:
    return Path(deepfloyd[1].partition("=")[2])


@pytest.fixture
def backbone(folder) -> DeepFloydBackbone:
    return DeepFloydBackbone.load(folder, "both are in the first folder")


def difference(a: torch.Tensor, b: torch.Tensor) -> int:
    return int((a.int() - b.int()).abs().max())


def executed(recipe: str) -> torch.Tensor:
    """The image that a recipe draws, uint8 (3, H, W)."""
    drawn: dict = {}
    exec(recipe, drawn)
    return torch.from_numpy(np.array(drawn["image"])).permute(2, 0, 1)


# --- drawing --------------------------------------------------------------------------------------


SCHEDULERS = {
    "ancestral": (DDPMScheduler, {}),
    "ddim": (DPMSolverMultistepScheduler, {"solver_order": 1, "timestep_spacing": "trailing"}),
    "dpm": (DPMSolverMultistepScheduler, {"solver_order": 2, "timestep_spacing": "trailing"}),
}


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_plain_diffusers_draws_the_same_pictures_from_the_same_noise(backbone, folder, sampler):
    kind, settings = SCHEDULERS[sampler]
    ours = backbone.generate(PROMPTS, KEYS, sampling(sampler, noise_level=1e-3))
    pipelines = {name: plain(folder, name) for name in STAGES}
    for pipeline in pipelines.values():
        pipeline.scheduler = kind.from_config(
            pipeline.scheduler.config, variance_type="fixed_small", **settings
        )
        assert pipeline.scheduler.config.thresholding
    text, null = pipelines["base"].encode_prompt(PROMPTS)
    words = {"prompt_embeds": text, "negative_prompt_embeds": null}
    small = pipelines["base"](
        **words,
        num_inference_steps=5,
        guidance_scale=3.0,
        generator=[generator(*key, "base") for key in KEYS],
        output_type="pt",
    ).images
    theirs = pipelines["sr"](
        **words,
        image=small,
        noise_level=13,
        num_inference_steps=4,
        guidance_scale=2.0,
        generator=[generator(*key, "sr") for key in KEYS],
        output_type="np",
    ).images
    theirs = torch.from_numpy(theirs).permute(0, 3, 1, 2).mul(255).round().to(torch.uint8)
    assert ours.shape == (3, 3, 32, 32)
    assert difference(ours, theirs) <= 1
    assert min(difference(ours[0], ours[1]), difference(ours[1], ours[2])) > 50, "no flat images"


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_an_image_depends_on_its_prompt_and_key_only(backbone, sampler):
    settings = sampling(sampler)
    together = backbone.generate(PROMPTS, KEYS, settings)
    backbone.batch_size = 2
    assert difference(together, backbone.generate(PROMPTS, KEYS, settings)) <= 1
    backbone.batch_size = 1
    alone = backbone.generate(PROMPTS[2:], KEYS[2:], settings)
    assert difference(together[2:], alone) <= 1
    other_key = backbone.generate(PROMPTS[2:], [("test", PROMPTS[2], 1)], settings)
    assert difference(other_key, alone) > 10
    other_prompt = backbone.generate(PROMPTS[:1], KEYS[2:], settings)
    assert difference(other_prompt, alone) > 10
    negative = backbone.generate(PROMPTS[2:], KEYS[2:], sampling(sampler, negative_prompt="dog"))
    assert difference(negative, alone) > 10


def test_each_stage_can_be_drawn_alone(backbone):
    small = backbone.generate(PROMPTS, KEYS, sampling(last_stage="base"))
    assert small.shape == (3, 3, 16, 16)
    enlarged = backbone.generate(PROMPTS, KEYS, sampling(super_resolution=False))
    low = small.float() / 127.5 - 1
    expected = F.interpolate(low, 32, mode="bicubic", antialias=True)
    assert ((enlarged.float() / 127.5 - 1) - expected.clamp(-1, 1)).abs().max() < 0.05
    restored = backbone.super_resolve(low, PROMPTS, KEYS, sampling())
    assert restored.shape == (3, 3, 32, 32)
    assert difference(restored, backbone.generate(PROMPTS, KEYS, sampling())) < 30


def test_drawing_leaves_the_training_mode_as_it_was(backbone):
    for stage in backbone.stages.values():
        stage.denoiser.train()
    backbone.generate(PROMPTS[:1], KEYS[:1], sampling())
    assert all(stage.denoiser.training for stage in backbone.stages.values())


# --- saving ---------------------------------------------------------------------------------------


def step(stage, method):
    """Prepare a stage, and change what trains by a large step."""
    method.prepare(stage)
    with torch.no_grad():
        for i, parameter in enumerate(method.trained(stage).parameters):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator("step", i)))
    stage.denoiser.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "lora", "dora"])
@pytest.mark.parametrize("trained", [["base"], STAGES])
def test_the_recipe_draws_the_same_picture_in_plain_diffusers(
    backbone, folder, tmp_path, name, trained
):
    method = DreamBooth() if name == "full" else adapter_method(name, "model=if")
    backbone.batch_size, settings = 1, sampling("ancestral", noise_level=1e-3)
    before = backbone.generate(PROMPTS[:1], KEYS[:1], settings)[0]
    for name in trained:
        step(backbone.stages[name], method)
    ours = backbone.generate(PROMPTS[:1], KEYS[:1], settings)[0]
    assert difference(ours, before) > 10
    method.save(backbone, tmp_path)
    theirs = executed(backbone.recipe(tmp_path, PROMPTS[0], KEYS[0], settings))
    assert difference(theirs, ours) == 0

    def pretrained(source: Path = folder) -> DeepFloydBackbone:
        return DeepFloydBackbone.load(source, "", text_encoder=folder, batch_size=1)

    loaded = method.load(pretrained, tmp_path)
    assert difference(loaded.generate(PROMPTS[:1], KEYS[:1], settings)[0], ours) == 0
    assert loaded.recipe(tmp_path, PROMPTS[0], KEYS[0], settings)


def test_a_saved_model_is_two_pipelines_without_t5(backbone, folder, tmp_path):
    backbone.save(tmp_path)
    names = {"base": IFPipeline, "sr": IFSuperResolutionPipeline}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    for name, kind in names.items():
        pipeline = kind.from_pretrained(tmp_path / name)
        assert pipeline.text_encoder is None
        assert pipeline.scheduler.config.variance_type == "fixed_small"
        unet = UNet2DConditionModel.from_pretrained(folder / name / "unet")
        for key, value in unet.state_dict().items():
            assert torch.equal(pipeline.unet.state_dict()[key], value)
    again = DeepFloydBackbone.load(tmp_path, "", text_encoder=folder)
    assert again.fingerprint() == backbone.fingerprint()


def test_the_fingerprint_changes_with_one_weight_of_any_part(folder, tmp_path):
    seen = {DeepFloydBackbone.load(folder, "").fingerprint()}
    for name in STAGES:
        backbone = DeepFloydBackbone.load(folder, "")
        with torch.no_grad():
            list(backbone.stages[name].denoiser.parameters())[-1].view(-1)[0] += 1e-4
        seen.add(backbone.fingerprint())
    model = T5EncoderModel.from_pretrained(folder / "base" / "text_encoder")
    with torch.no_grad():
        list(model.parameters())[-1].view(-1)[0] += 1e-4
    backbone = DeepFloydBackbone.load(folder, "")
    backbone._text._load = lambda: model
    assert len(seen | {backbone.fingerprint()}) == 4


def test_another_adapter_is_saved_as_peft_saves_it_and_has_no_recipe(backbone, folder, tmp_path):
    method = adapter_method("lokr", "model=if")
    for stage in backbone.stages.values():
        step(stage, method)
    method.save(backbone, tmp_path)
    assert (tmp_path / "sr" / "adapter_model.safetensors").is_file()
    assert backbone.recipe(tmp_path, PROMPTS[0], KEYS[0], sampling()) == ""
    loaded = method.load(lambda: DeepFloydBackbone.load(folder, ""), tmp_path)
    ours, theirs = (b.generate(PROMPTS[:1], KEYS[:1], sampling()) for b in (backbone, loaded))
    assert difference(ours, theirs) == 0


def test_the_default_targets_are_the_projections_of_the_attention(backbone):
    projections = {"to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj"}
    for name, without in {"base": set(), "sr": {"to_k", "to_v"}}.items():  # sr: text alone
        stage = backbone.stages[name]
        targets = adapter_method("lora", "model=if").targets
        found = {
            key.partition(".attentions.")[2].partition(".")[2]
            for key, _ in stage.denoiser.named_modules()
            if re.fullmatch(targets, key)
        }
        assert found == projections - without


@pytest.mark.slow
def test_an_adapter_in_any_projection_changes_the_prediction(folder):
    for name in STAGES:
        for target in ("to_q", "to_out.0", "add_k_proj", "add_v_proj"):
            stage = DeepFloydBackbone.load(folder, "").stages[name]
            z_t, t = torch.zeros(1, *stage.x_shape), torch.tensor([500])
            condition = stage.encode_prompts(["a dog"]) | added(stage, z_t.clamp(-1, 1), 0.1)
            with torch.no_grad():
                before = stage.predict(z_t, t, condition)
                step(stage, adapter_method("lora", f"adapter.targets='.*{target}'", "model=if"))
                assert not torch.equal(before, stage.predict(z_t, t, condition)), target
