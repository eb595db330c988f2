"""What only FLUX.1 and FLUX.2 klein have, on tiny folders of random weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, Flux2KleinPipeline, FluxPipeline
from tiny_flux import flux_folder

from dreambooth.backbones.flux import FluxBackbone
from dreambooth.backbones.flux2_klein import Flux2KleinBackbone
from dreambooth.backbones.parity import denoiser_calls
from dreambooth.backbones.stage import Sampling
from dreambooth.randomness import generator
from dreambooth.runs.settings import Sampler
from dreambooth.schedules import TimestepDistribution

KEY = ("image", "a dog", 0)
EULER = Sampler("euler", num_steps=2, guidance_scale=3.0)


@pytest.fixture(scope="module")
def flux_path(flux) -> Path:
    return Path(flux[1].partition("=")[2])


@pytest.fixture(scope="module")
def klein_path(flux2_klein) -> Path:
    return Path(flux2_klein[1].partition("=")[2])


@pytest.fixture
def flux1(flux_path) -> FluxBackbone:
    return FluxBackbone.load(flux_path, resolution_px=64)


@pytest.fixture
def klein(klein_path) -> Flux2KleinBackbone:
    return Flux2KleinBackbone.load(klein_path, resolution_px=64)


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=generator("images")) * 2 - 1


def changed(folder: Path, file: str, **values) -> Path:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def error_of(use, *arguments, **options) -> str:
    with pytest.raises(ValueError, match=r"\S") as error:
        use(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_flux1_samples_the_posterior_of_the_vae(flux_path, flux1):
    encoded = flux1.stages["base"].encode(images(2))
    vae = AutoencoderKL.from_pretrained(flux_path / "vae")
    with torch.no_grad():
        posterior = vae.encode(images(2)).latent_dist
    torch.testing.assert_close(encoded.mean, (posterior.mean - 0.1159) * 0.3611)
    torch.testing.assert_close(encoded.std, posterior.std * 0.3611)


def test_klein_takes_the_mode_of_the_posterior_normalized_as_the_pipeline_does(klein_path, klein):
    encoded = klein.stages["base"].encode(images(2))
    pipeline = Flux2KleinPipeline.from_pretrained(klein_path)
    with torch.no_grad():
        expected = pipeline._encode_vae_image(images(2), generator("none"))
    assert isinstance(pipeline.vae, AutoencoderKLFlux2)
    torch.testing.assert_close(encoded.mean, expected)
    assert encoded.std is None


@pytest.mark.parametrize("model", ["flux1", "klein"])
def test_sigma_is_drawn_uniformly_as_by_the_models_scheduler_when_it_is_made(model, request):
    """Though the scheduler of drawing shifts it."""
    backbone = request.getfixturevalue(model)
    sigmas = backbone._pipeline.scheduler.sigmas
    drawn = [
        backbone.stages["base"].schedule.draw_t(TimestepDistribution(), generator("t", i))
        for i in range(2000)
    ]
    for quantile in (0.1, 0.5, 0.9):
        expected = sigmas.quantile(quantile).item()
        assert torch.stack(drawn).quantile(quantile).item() == pytest.approx(expected, abs=0.03)


def test_flux1_is_trained_with_the_guidance_of_its_setting_and_draws_with_the_samplers(flux_path):
    backbone = FluxBackbone.load(flux_path, resolution_px=64, guidance_scale=1.5)
    stage = backbone.stages["base"]
    with denoiser_calls(stage.denoiser) as calls, torch.no_grad():
        z_t, t = torch.zeros(1, *stage.x_shape), torch.tensor([0.5])
        stage.predict(z_t, t, stage.encode_prompts(["a dog"]))
        backbone.generate(["a dog"], [KEY], Sampling({"base": EULER}))
    assert [call["guidance"].tolist() for call in calls] == [[1.5], [3.0], [3.0]]
    assert "guidance_scale=-1: give a number of 0 or more" in error_of(
        FluxBackbone.load, flux_path, guidance_scale=-1
    )


def test_flux1_with_the_layout_of_dev_and_no_guidance_is_given_none(flux_path, tmp_path):
    other = flux_folder(tmp_path / "schnell", schnell=True)
    changed(other, "scheduler/scheduler_config.json", use_dynamic_shifting=True)
    backbone = FluxBackbone.load(other, resolution_px=64)
    assert backbone.stages["base"].embedded_guidance is None
    assert [check for check in backbone.parity() if not check.passed] == []


def test_a_distilled_model_is_refused_with_the_name_of_the_one_to_train(klein_path, tmp_path):
    schnell = flux_folder(tmp_path / "schnell", schnell=True)
    for part in ("transformer", "vae"):  # it is refused before weights are read
        (schnell / part / "diffusion_pytorch_model.safetensors").unlink()
    said = error_of(FluxBackbone.load, schnell)
    assert "distilled" in said
    assert "train black-forest-labs/FLUX.1-dev)" in said
    distilled = shutil.copytree(klein_path, tmp_path / "klein")
    changed(distilled, "model_index.json", is_distilled=True)
    for heads, size in ((24, "4B"), (32, "9B")):
        changed(distilled, "transformer/config.json", num_attention_heads=heads)
        said = error_of(Flux2KleinBackbone.load, distilled)
        assert "distilled" in said
        assert f"train black-forest-labs/FLUX.2-klein-base-{size})" in said


@pytest.mark.parametrize("model", ["flux1", "klein"])
def test_a_resolution_is_a_multiple_of_two_latents(model, request, flux_path, klein_path):
    load, folder = {
        "flux1": (FluxBackbone.load, flux_path),
        "klein": (Flux2KleinBackbone.load, klein_path),
    }[model]
    said = error_of(load, folder, resolution_px=72)
    assert said.startswith(
        "resolution_px=72 does not fit this model: give a positive multiple of 16"
    )
    assert load(folder).stages["base"].resolution_px == 1024
    backbone = load(folder, resolution_px=48)
    drawn = backbone.generate(["a dog"], [KEY], Sampling({"base": EULER}))
    assert drawn.shape == (1, 3, 48, 48)


def test_flux1_refuses_a_negative_prompt(flux1):
    sampling = Sampling({"base": EULER}, negative_prompt="snow")
    said = error_of(flux1.generate, ["a dog"], [KEY], sampling)
    assert said.startswith("negative_prompt=snow changes nothing")


def test_klein_is_guided_away_from_a_negative_prompt_as_its_recipe_is(klein, klein_path):
    def drawn(negative_prompt):
        sampling = Sampling({"base": EULER}, negative_prompt=negative_prompt)
        (ours,) = klein.generate(["a dog"], [KEY], sampling)
        variables = {}
        exec(klein.recipe(klein_path, "a dog", KEY, sampling), variables)
        theirs = torch.tensor(list(variables["image"].getdata())).view(64, 64, 3).permute(2, 0, 1)
        assert (ours - theirs).abs().max() <= 1
        return ours.int()

    assert (drawn("") - drawn("snow")).abs().max() > 1


def test_flux1_reads_all_of_a_long_prompt_with_t5(flux_path, flux1):
    prompt = "a dog in the snow and " * 20
    found = flux1.stages["base"].encode_prompts([prompt])
    with torch.no_grad():
        text, pooled, _ = FluxPipeline.from_pretrained(flux_path).encode_prompt(prompt)
    assert found["text"].shape == (1, 512, 32)
    torch.testing.assert_close(found["text"], text)
    torch.testing.assert_close(found["pooled"], pooled)
    other = flux1.stages["base"].encode_prompts([prompt + "red"])
    assert torch.equal(found["pooled"], other["pooled"]), "CLIP reads its first 77 tokens"
    assert not torch.equal(found["text"], other["text"])
