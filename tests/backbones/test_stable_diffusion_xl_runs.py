"""Whole runs of Stable Diffusion XL: trained, stopped, resumed, saved, and drawn by diffusers."""

import os
from pathlib import Path

import pytest
import torch
from commands import command, stopped_before_step
from diffusers import DPMSolverMultistepScheduler, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file

from dreambooth.assemble import reload
from dreambooth.miniature.subjects import drawn_subject
from dreambooth.randomness import generator
from dreambooth.runs.run import Run
from dreambooth.subjects.photos import to_uint8

WEIGHTS = {
    "none": "unet/diffusion_pytorch_model.safetensors",
    "lora": "pytorch_lora_weights.safetensors",
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    if dreambench := os.environ.get("DREAMBENCH_DIR"):
        return Path(dreambench) / "dog6"
    folder = tmp_path_factory.mktemp("photos")
    for i, image in enumerate(to_uint8(drawn_subject("dog", 7).photos(64))):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("adapter", WEIGHTS)
def test_a_stopped_run_goes_on_and_plain_diffusers_draws_its_pictures(
    stable_diffusion_xl, photos, tmp_path, adapter
):
    def run(name):
        return command(
            *("train", "experiment=smoke", "trainer=cpu", *stable_diffusion_xl, "logger=csv"),
            *("subject=folder", f"photos={photos}", "class_noun=dog", f"adapter={adapter}"),
            *("method.max_steps=4", "method.module.learning_rate=1e-2"),
            *(f"prior.cache={tmp_path}/prior", f"hydra.run.dir={tmp_path}/{name}"),
        )

    with stopped_before_step(2):
        assert run("stopped").code != 0
    ended = run("stopped")
    assert ended.code == 0, ended.output
    assert "resuming from" in ended.output
    assert run("whole").code == 0
    resumed, whole = (
        load_file(tmp_path / name / "weights" / WEIGHTS[adapter]) for name in ("stopped", "whole")
    )
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())

    finished = Run.load_finished(tmp_path / "stopped")
    pictures = finished.images.read("prompts")[:2]
    model, pretrained = reload(finished), stable_diffusion_xl[1].partition("=")[2]
    model.backbone.batch_size = 1
    keys = [("image", p.template, p.index) for p in pictures]
    ours = model.backbone.generate([p.prompt for p in pictures], keys, model.sampling)

    source = finished.weights if adapter == "none" else pretrained
    pipeline = StableDiffusionXLPipeline.from_pretrained(source, add_watermarker=False)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing", clip_sample=False
    )
    sampler = model.sampling.samplers["base"]
    assert sampler.name == "dpm"

    def draw(prompt, key):
        image = pipeline(
            prompt,
            num_inference_steps=sampler.num_steps,
            guidance_scale=sampler.guidance_scale,
            generator=generator(*key, "base"),
            output_type="pt",
        ).images[0]
        return (image * 255).round().to(torch.uint8)

    if adapter == "lora":
        untrained = draw(pictures[0].prompt, keys[0])
        assert (untrained.int() - ours[0].int()).abs().max() > 1
        pipeline.load_lora_weights(finished.weights)
    for picture, image, key in zip(pictures, ours, keys, strict=True):
        assert torch.equal(draw(picture.prompt, key), image)
        assert (picture.pixels.int() - image.int()).abs().max() <= 1


def test_textual_inversion_is_refused_in_one_sentence(stable_diffusion_xl, photos, tmp_path):
    ended = command(
        *("train", "experiment=smoke", "trainer=cpu", *stable_diffusion_xl, "logger=csv"),
        *("subject=folder", f"photos={photos}", "class_noun=dog", "method=textual_inversion"),
        f"hydra.run.dir={tmp_path}/run",
    )
    assert "method=textual_inversion adds a word to the one text encoder of a model" in (
        ended.sentence
    )
