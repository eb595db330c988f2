"""Stable Diffusion XL against plain diffusers, on tiny folders of random weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tiny_models import stable_diffusion_folder, stable_diffusion_xl_folder

from dreambooth.backbones.stable_diffusion import StableDiffusionBackbone
from dreambooth.backbones.stable_diffusion_xl import StableDiffusionXLBackbone
from dreambooth.backbones.stage import Sampling
from dreambooth.loss import loss_weights, two_term_loss, weighted_mse
from dreambooth.randomness import generator
from dreambooth.runs.settings import Sampler

PROMPTS = ["a photo of a dog", "a red clock in the snow", "a cat wearing a hat"]
KEYS = [("test", prompt, 0) for prompt in PROMPTS]
DDIM = Sampling({"base": Sampler("ddim", num_steps=3, guidance_scale=5.0)})


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def folder(request, tmp_path_factory) -> Path:
    """Epsilon; or v, and a VAE with a mean and a deviation for each channel."""
    other = request.param == "v_prediction"
    path = tmp_path_factory.mktemp(request.param)
    return stable_diffusion_xl_folder(path, v_prediction=other, latents_mean=other)


@pytest.fixture(scope="module")
def epsilon_folder(stable_diffusion_xl) -> Path:
    return Path(stable_diffusion_xl[1].partition("=")[2])


@pytest.fixture
def backbone(epsilon_folder) -> StableDiffusionXLBackbone:
    return StableDiffusionXLBackbone.load(epsilon_folder)


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=generator("images")) * 2 - 1


def randn(*shape: int, key: str) -> torch.Tensor:
    return torch.randn(shape, generator=generator(key))


def plain(folder: Path) -> StableDiffusionXLPipeline:
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def difference(a: torch.Tensor, b: torch.Tensor) -> int:
    return int((a.int() - b.int()).abs().max())


def normalized(latents: torch.Tensor, vae: AutoencoderKL) -> torch.Tensor:
    """As diffusers' train_dreambooth_lora_sdxl.py does."""
    config = vae.config
    if config.latents_mean is None:
        return latents * config.scaling_factor
    mean, std = (
        torch.tensor(v).view(1, 4, 1, 1) for v in (config.latents_mean, config.latents_std)
    )
    return (latents - mean) * config.scaling_factor / std


def encoded_prompt(pipeline, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    """As diffusers' train_dreambooth_lora_sdxl.py does: text, and pooled text."""
    parts = [
        (pipeline.tokenizer, pipeline.text_encoder),
        (pipeline.tokenizer_2, pipeline.text_encoder_2),
    ]
    hidden = []
    for tokenizer, encoder in parts:
        ids = tokenizer(
            prompt,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        with torch.no_grad():
            output = encoder(ids, output_hidden_states=True, return_dict=False)
        pooled = output[0]
        hidden.append(output[-1][-2])
    return torch.concat(hidden, dim=-1), pooled


def test_encode_is_the_normalized_posterior_of_the_vae(folder):
    stage = StableDiffusionXLBackbone.load(folder).stages["base"]
    encoded, vae = stage.encode(images(3)), AutoencoderKL.from_pretrained(folder / "vae")
    with torch.no_grad():
        posterior = vae.encode(images(3)).latent_dist
    assert stage.x_shape == encoded.mean.shape[1:] == (4, 8, 8)
    torch.testing.assert_close(encoded.mean, normalized(posterior.mean, vae))
    spread = normalized(posterior.std, vae) - normalized(torch.zeros_like(posterior.std), vae)
    torch.testing.assert_close(encoded.std, spread)


def test_the_condition_is_that_of_the_two_text_encoders(folder):
    stage, pipeline = StableDiffusionXLBackbone.load(folder).stages["base"], plain(folder)
    condition = stage.encode_prompts(PROMPTS)
    assert condition["text"].shape == (3, 77, 48)
    assert condition["pooled"].shape == (3, 24)
    for i, prompt in enumerate(PROMPTS):
        text, pooled = encoded_prompt(pipeline, prompt)
        torch.testing.assert_close(condition["text"][[i]], text)
        torch.testing.assert_close(condition["pooled"][[i]], pooled)


def test_the_empty_prompt_is_what_guidance_leads_away_from(epsilon_folder, tmp_path):
    condition = StableDiffusionXLBackbone.load(epsilon_folder).stages["base"].encode_prompts([""])
    assert not condition["text"].any()
    assert not condition["pooled"].any()
    copied = shutil.copytree(epsilon_folder, tmp_path / "copied")
    index = json.loads((copied / "model_index.json").read_text())
    index["force_zeros_for_empty_prompt"] = False
    (copied / "model_index.json").write_text(json.dumps(index))
    condition = StableDiffusionXLBackbone.load(copied).stages["base"].encode_prompts([""])
    text, pooled = encoded_prompt(plain(copied), "")
    torch.testing.assert_close(condition["text"], text)
    torch.testing.assert_close(condition["pooled"], pooled)


def test_losses_and_gradients_are_those_of_diffusers_training_script(folder):
    t, t_prior = torch.tensor([20, 700]), torch.tensor([400, 900])
    eps, eps_prior = randn(2, 4, 8, 8, key="eps"), randn(2, 4, 8, 8, key="eps'")
    stage = StableDiffusionXLBackbone.load(folder).stages["base"]
    encoded = stage.encode(images(4))
    x = torch.stack([encoded.sample(i, generator("posterior", i)) for i in range(4)])

    def ours(x, eps, t, prompt):
        added = stage.added_condition(x[0], generator("none"), None)
        condition = {key: value.expand(len(t), -1) for key, value in added.items()}
        condition |= stage.encode_prompts([prompt] * len(t))
        prediction = stage.predict(stage.schedule.corrupt(x, eps, t), t, condition)
        kind = stage.schedule.prediction_type
        weights = loss_weights("uniform", stage.schedule.snr(t), kind)
        return weighted_mse(prediction, stage.schedule.target(x, eps, t), weights)

    losses = two_term_loss(
        ours(x[:2], eps, t, "a xq dog"), ours(x[2:], eps_prior, t_prior, "a dog"), 0.7
    )
    losses.total.backward()

    pipeline = plain(folder)
    scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    with torch.no_grad():
        posterior = pipeline.vae.encode(images(4)).latent_dist
    noise = torch.stack(
        [torch.randn(4, 8, 8, generator=generator("posterior", i)) for i in range(4)]
    )
    latents = normalized(posterior.mean + posterior.std * noise, pipeline.vae)
    texts, pooled = zip(*(encoded_prompt(pipeline, p) for p in ("a xq dog", "a dog")), strict=True)
    all_eps, all_t = torch.cat([eps, eps_prior]), torch.cat([t, t_prior])
    prediction = pipeline.unet(
        scheduler.add_noise(latents, all_eps, all_t),
        all_t,
        torch.cat(texts).repeat_interleave(2, dim=0),
        added_cond_kwargs={
            "time_ids": torch.tensor([[64, 64, 0, 0, 64, 64]]).repeat(4, 1),
            "text_embeds": torch.cat(pooled).repeat_interleave(2, dim=0),
        },
    ).sample
    target = all_eps
    if scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(latents, all_eps, all_t)
    predicted, predicted_prior = prediction.chunk(2)
    target, target_prior = target.chunk(2)
    subject = F.mse_loss(predicted, target, reduction="mean")
    prior = F.mse_loss(predicted_prior, target_prior, reduction="mean")
    (subject + 0.7 * prior).backward()

    assert losses.subject.item() == pytest.approx(subject.item(), abs=1e-6)
    assert losses.prior.item() == pytest.approx(prior.item(), abs=1e-6)
    assert losses.total.item() == pytest.approx((subject + 0.7 * prior).item(), abs=1e-6)
    for (name, mine), other in zip(
        stage.denoiser.named_parameters(), pipeline.unet.parameters(), strict=True
    ):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4, msg=name)


SCHEDULERS = {
    "ancestral": DDPMScheduler,
    "ddim": DDIMScheduler,
    "dpm": DPMSolverMultistepScheduler,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("negative_prompt", ["", "a toy"])
def test_a_saved_model_draws_the_same_images_in_plain_diffusers(
    folder, tmp_path, name, negative_prompt
):
    sampler = Sampler(name, num_steps=3, guidance_scale=5.0)
    sampling = Sampling({"base": sampler}, negative_prompt=negative_prompt)
    backbone = StableDiffusionXLBackbone.load(folder)
    before = backbone.generate(PROMPTS[:1], KEYS[:1], sampling)
    with torch.no_grad():
        for parameter in backbone.stages["base"].denoiser.parameters():
            parameter.mul_(1.1)
    backbone.save(tmp_path / "saved")
    assert difference(backbone.generate(PROMPTS[:1], KEYS[:1], sampling), before) > 10
    pipeline = plain(tmp_path / "saved")
    pipeline.scheduler = SCHEDULERS[name].from_config(
        pipeline.scheduler.config, timestep_spacing="trailing", clip_sample=False
    )
    backbone.batch_size = 1
    ours = backbone.generate(PROMPTS, KEYS, sampling)
    for image, prompt, key in zip(ours, PROMPTS, KEYS, strict=True):
        theirs = pipeline(
            prompt,
            negative_prompt=negative_prompt or None,
            generator=generator(*key, "base"),
            num_inference_steps=3,
            guidance_scale=5.0,
            output_type="pt",
        ).images[0]
        assert torch.equal(image, (theirs * 255).round().to(torch.uint8))
    backbone.batch_size = 2
    assert difference(ours, backbone.generate(PROMPTS, KEYS, sampling)) <= 1
    assert min(difference(ours[0], ours[1]), difference(ours[1], ours[2])) > 50, "no flat images"


def test_a_half_precision_folder_is_loaded_in_float32(epsilon_folder, tmp_path):
    plain(epsilon_folder).to(torch.float16).save_pretrained(tmp_path)
    pipeline = StableDiffusionXLBackbone.load(tmp_path)._pipeline
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    assert {part.dtype for part in parts} == {torch.float32}


def test_another_resolution_is_that_of_the_size_conditions_too(epsilon_folder, tmp_path):
    backbone = StableDiffusionXLBackbone.load(epsilon_folder, resolution_px=32)
    stage = backbone.stages["base"]
    added = stage.added_condition(torch.zeros(stage.x_shape), generator("none"), None)
    assert added["time_ids"].tolist() == [32, 32, 0, 0, 32, 32]
    assert backbone.generate(PROMPTS[:1], KEYS[:1], DDIM).shape == (1, 3, 32, 32)
    backbone.save(tmp_path)
    assert UNet2DConditionModel.from_pretrained(tmp_path / "unet").config.sample_size == 4


def test_each_model_refuses_the_folder_of_the_other(epsilon_folder, tmp_path):
    other = stable_diffusion_folder(tmp_path / "sd15")
    for family, folder, found in (
        (StableDiffusionXLBackbone, other, "StableDiffusionPipeline"),
        (StableDiffusionBackbone, epsilon_folder, "StableDiffusionXLPipeline"),
    ):
        with pytest.raises(ValueError, match=f"it is of another family, {found}") as error:
            family.load(folder)
        assert "\n" not in str(error.value)
        assert f"with {family.title} in the diffusers layout" in str(error.value)
