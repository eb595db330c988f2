"""The latent backbone against plain diffusers, on tiny folders of random weights."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
)
from PIL import Image
from tiny_models import stable_diffusion_folder
from transformers import CLIPTextModel

from dreambooth.backbones.drawing import release
from dreambooth.backbones.stable_diffusion import StableDiffusionBackbone
from dreambooth.backbones.stage import Sampling
from dreambooth.methods.dreambooth import DreamBooth
from dreambooth.miniature.drawing import draw
from dreambooth.miniature.world import random_scene
from dreambooth.randomness import generator
from dreambooth.runs.settings import Sampler
from dreambooth.schedules import schedule_of
from dreambooth.subjects.identifiers import rare_identifier, rare_token_ids
from dreambooth.subjects.photos import load_photos

SCALE = 0.18215
DDIM = Sampling({"base": Sampler("ddim", num_steps=10, guidance_scale=5.0)})
PROMPTS = ["a photo of a dog", "a red clock in the snow", "a cat wearing a hat"]
KEYS = [("test", prompt, 0) for prompt in PROMPTS]


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def folder(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    return stable_diffusion_folder(path, v_prediction=request.param == "v_prediction")


@pytest.fixture(scope="module")
def epsilon_folder(tmp_path_factory) -> Path:
    return stable_diffusion_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def backbone(epsilon_folder) -> StableDiffusionBackbone:
    return StableDiffusionBackbone.load(epsilon_folder)


def test_before_training_what_does_not_train_leaves_the_gpu(backbone, monkeypatch):
    moved = []
    for part in (AutoencoderKL, CLIPTextModel):
        monkeypatch.setattr(part, "to", lambda module, device: moved.append((type(module), device)))
    release(backbone)
    assert moved == [(AutoencoderKL, "cpu"), (CLIPTextModel, "cpu")]
    moved.clear()
    backbone.stages["base"].text_encoder.requires_grad_(True)
    release(backbone)
    assert moved == [(AutoencoderKL, "cpu")]


def test_the_recipe_of_a_model_of_the_hub_has_its_revision(backbone, tmp_path):
    pipeline = backbone._pipeline
    pipeline.register_to_config(_name_or_path="org/model")
    sampling = Sampling({"base": Sampler("ddim", 2, 1.0)})
    for revision in (None, "v1"):
        pipeline.revision = revision
        recipe = backbone.recipe(tmp_path, "a dog", ("image", "a dog", 0), sampling)
        assert "from_pretrained('org/model'" in recipe
        assert ("revision='v1'" in recipe) == (revision == "v1")


@pytest.mark.parametrize(("batch_size", "remedy"), [(4, "batch_size=1"), (1, "resolution_px=")])
def test_drawing_out_of_memory_is_one_sentence(backbone, monkeypatch, batch_size, remedy):
    def draw(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(backbone, "_draw_batch", draw)
    backbone.batch_size = batch_size
    sampling = Sampling({"base": Sampler("ddim", 2, 1.0)})
    with pytest.raises(
        ValueError, match=f"generating {batch_size} images .* give model.backbone.{remedy}"
    ):
        backbone.generate(["a dog"], [("key",)], sampling)


@pytest.fixture
def copied(epsilon_folder, tmp_path) -> Path:
    """A copy to damage."""
    return shutil.copytree(epsilon_folder, tmp_path / "copied")


def images(count: int, resolution_px: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, resolution_px, resolution_px, generator=generator("images")) * 2 - 1


def randn(*shape: int, key: str) -> torch.Tensor:
    return torch.randn(shape, generator=generator(key))


def plain(folder: Path) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def difference(a: torch.Tensor, b: torch.Tensor) -> int:
    return int((a.int() - b.int()).abs().max())


# --- one stage ------------------------------------------------------------------------------------


def test_encode_is_the_vaes_posterior_times_its_scaling_factor(folder):
    stage = StableDiffusionBackbone.load(folder).stages["base"]
    encoded = stage.encode(images(3))
    with torch.no_grad():
        posterior = AutoencoderKL.from_pretrained(folder / "vae").encode(images(3)).latent_dist
    assert stage.x_shape == encoded.mean.shape[1:] == (4, 8, 8)
    torch.testing.assert_close(encoded.mean, posterior.mean * SCALE)
    torch.testing.assert_close(encoded.std, posterior.std * SCALE)
    assert not encoded.mean.requires_grad
    assert not encoded.std.requires_grad


def test_an_encoding_does_not_depend_on_the_layout_in_memory(backbone):
    stage, given = backbone.stages["base"], images(2)
    other = given.contiguous(memory_format=torch.channels_last)  # as images read from a file
    assert torch.equal(stage.encode(given).mean, stage.encode(other).mean)


def test_the_subjects_photos_are_encoded(backbone, tmp_path):
    if dreambench := os.environ.get("DREAMBENCH_DIR"):
        photos_folder = Path(dreambench) / "dog"
    else:
        photos_folder = tmp_path
        for i in range(4):
            pixels = draw(random_scene(np.random.default_rng(i)), 96)
            Image.fromarray(pixels).save(photos_folder / f"{i}.jpg")
    stage = backbone.stages["base"]
    photos = load_photos(photos_folder, stage.resolution_px).images
    encoded = stage.encode(photos)
    assert encoded.mean.shape == (len(photos), *stage.x_shape)
    assert encoded.mean.isfinite().all()
    assert (encoded.std > 0).all()
    distances = torch.pdist(encoded.mean.flatten(1))
    assert distances.min() > 0, "different photos are different latents"
    x = encoded.sample(0, generator("first"))
    assert x.shape == stage.x_shape
    assert not torch.equal(x, encoded.sample(0, generator("second")))


def test_the_condition_is_the_text_embedding_of_plain_diffusers(folder):
    condition = StableDiffusionBackbone.load(folder).stages["base"].encode_prompts([*PROMPTS, ""])
    with torch.no_grad():
        expected, null = plain(folder).encode_prompt(PROMPTS, "cpu", 1, True)
    assert condition["text"].shape == (4, 77, 32)
    assert not condition["text"].requires_grad
    torch.testing.assert_close(condition["text"], torch.cat([expected, null[:1]]))


def test_the_policies_train_the_unet_or_its_cross_attention(backbone):
    stage = backbone.stages["base"]
    every = dict(stage.denoiser.named_parameters())
    assert DreamBooth("all").trained(stage).parameters == list(every.values())
    chosen = {id(p) for p in DreamBooth("cross_attention").trained(stage).parameters}
    names = {name for name, p in every.items() if id(p) in chosen}
    assert names == {name for name in every if "attn2" in name}
    # Of each of the three places with attention: to_q, to_k, to_v, to_out and to_out's bias.
    assert len(names) == 5 * sum(name.endswith("attn2.to_k.weight") for name in every) > 0
    with pytest.raises(ValueError, match="cross_attention"):
        DreamBooth("everything")


def test_the_vae_and_the_text_encoder_are_frozen(backbone):
    for part in (backbone._pipeline.vae, backbone._pipeline.text_encoder):
        assert not part.training
        assert not any(p.requires_grad for p in part.parameters())


def test_latents_are_not_clipped_even_if_an_old_scheduler_config_asks_for_it(copied):
    file = copied / "scheduler" / "scheduler_config.json"
    config = {**json.loads(file.read_text()), "_class_name": "DDIMScheduler", "clip_sample": True}
    file.write_text(json.dumps(config))
    index = json.loads((copied / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "DDIMScheduler"]
    (copied / "model_index.json").write_text(json.dumps(index))
    assert schedule_of(DDIMScheduler.from_pretrained(file.parent)).clip_sample
    assert not StableDiffusionBackbone.load(copied).stages["base"].schedule.clip_sample


# --- the backbone ---------------------------------------------------------------------------------


SCHEDULERS = {
    "ancestral": DDPMScheduler,
    "ddim": DDIMScheduler,
    "dpm": DPMSolverMultistepScheduler,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ancestral", "ddim", "dpm"])
def test_a_trained_and_saved_model_draws_the_same_images_in_plain_diffusers(folder, tmp_path, name):
    sampling = Sampling({"base": Sampler(name, num_steps=10, guidance_scale=5.0)})
    backbone = StableDiffusionBackbone.load(folder)
    stage = backbone.stages["base"]
    before = backbone.generate(PROMPTS, KEYS, sampling)

    optimizer = torch.optim.SGD(stage.denoiser.parameters(), lr=0.1)
    prediction = stage.predict(
        randn(1, 4, 8, 8, key="z"), torch.tensor([500]), stage.encode_prompts(["a xq dog"])
    )
    prediction.square().mean().backward()
    optimizer.step()
    ours = backbone.generate(PROMPTS, KEYS, sampling)
    assert ours.dtype == torch.uint8
    assert ours.shape == (3, 3, 64, 64)
    assert difference(ours, before) > 10, "the step changed what is drawn"

    backbone.save(tmp_path / "saved")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert pipeline.safety_checker is None
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = SCHEDULERS[name].from_config(
        pipeline.scheduler.config, timestep_spacing="trailing", clip_sample=False
    )
    theirs = pipeline(
        PROMPTS,
        generator=[generator(*key, "base") for key in KEYS],
        num_inference_steps=10,
        guidance_scale=5.0,
        output_type="np",
    ).images
    theirs = torch.from_numpy(theirs).permute(0, 3, 1, 2).mul(255).round().to(torch.uint8)
    assert difference(ours, theirs) <= 1
    backbone.batch_size = 2
    assert difference(ours, backbone.generate(PROMPTS, KEYS, sampling)) <= 1
    assert min(difference(ours[0], ours[1]), difference(ours[1], ours[2])) > 50, "no flat images"


def test_a_half_precision_folder_is_loaded_in_float32(epsilon_folder, tmp_path):
    plain(epsilon_folder).to(torch.float16).save_pretrained(tmp_path)
    assert CLIPTextModel.from_pretrained(tmp_path / "text_encoder").dtype == torch.float16
    pipeline = StableDiffusionBackbone.load(tmp_path)._pipeline
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.float32}


def test_another_resolution_is_drawn_by_plain_diffusers_too_once_saved(epsilon_folder, tmp_path):
    backbone = StableDiffusionBackbone.load(epsilon_folder, resolution_px=32)
    stage = backbone.stages["base"]
    assert stage.x_shape == (4, 4, 4)
    assert stage.encode(images(1, 32)).mean.shape == (1, 4, 4, 4)
    assert backbone.generate(PROMPTS[:1], KEYS[:1], DDIM).shape == (1, 3, 32, 32)
    backbone.save(tmp_path)
    drawn = plain(tmp_path)("a dog", num_inference_steps=1, output_type="np").images
    assert drawn.shape == (1, 32, 32, 3)
    assert StableDiffusionBackbone.load(tmp_path).stages["base"].resolution_px == 32


def test_rare_identifiers_come_from_the_models_tokenizer(backbone):
    tokenizer = backbone.tokenizer
    first_special = len(tokenizer) - 2
    ids = rare_token_ids(tokenizer, (first_special - 130, first_special))
    assert len(ids) == 130
    identifier = rare_identifier(tokenizer, (first_special - 130, first_special), 1, seed=3)
    assert len(identifier) == 2
    ids_in_prompt = tokenizer(f"a {identifier} dog").input_ids
    assert ids_in_prompt[2] in ids
    assert len(ids_in_prompt) == 5, "start, a, [V], dog, end"
    backbone.check_prompt(f"a {identifier} dog", identifier)
