"""Whole runs of latent models: trained, stopped, resumed, saved, and drawn by plain diffusers."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import command, stopped_before_step
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms.functional import pil_to_tensor

from dreambooth.assemble import load_finished_model
from dreambooth.miniature.subjects import drawn_subject
from dreambooth.runs.run import Run
from dreambooth.subjects.photos import to_uint8

# Fixture of conftest.py -> the denoiser's name in the pipeline. Stable Diffusion 1.5 is in many
# other tests.
MODELS = {"stable_diffusion_xl": "unet", "flux": "transformer", "flux2_klein": "transformer"}
WEIGHTS = {
    "none": "{}/diffusion_pytorch_model.safetensors",
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


@pytest.fixture(params=MODELS)
def model(request) -> tuple[str, ...]:
    return request.getfixturevalue(request.param)


@pytest.fixture
def denoiser(request) -> str:
    return MODELS[request.node.callspec.params["model"]]


@pytest.fixture
def train(model, photos, tmp_path):
    """A run in the folder `name`."""

    def train(name, *words):
        return command(
            *("train", "experiment=smoke", "trainer=cpu", *model, "logger=csv", "metrics=none"),
            *("subject=folder", f"photos={photos}", "class_noun=dog", *words),
            *(f"prior.cache={tmp_path}/prior", f"hydra.run.dir={tmp_path}/{name}"),
        )

    return train


def drawn(recipe: str) -> torch.Tensor:
    """The image that code for plain diffusers draws, uint8 (3, H, W)."""
    assert "import dreambooth" not in recipe
    variables: dict[str, Any] = {}
    exec(recipe, variables)
    return pil_to_tensor(variables["image"])


@pytest.mark.slow
@pytest.mark.parametrize("adapter", WEIGHTS)
def test_a_stopped_run_goes_on_and_plain_diffusers_draws_its_pictures(
    train, denoiser, tmp_path, adapter
):
    words = (f"adapter={adapter}", "method.max_steps=4", "method.module.learning_rate=1e-2")
    with stopped_before_step(2):
        assert train("stopped", *words).code != 0
    ended = train("stopped", *words)
    assert ended.code == 0, ended.output
    assert "resuming from" in ended.output
    assert "training sees what the model's pipeline sees" in ended.output
    assert train("whole", *words).code == 0
    file = WEIGHTS[adapter].format(denoiser)
    resumed, whole = (
        load_file(tmp_path / name / "weights" / file) for name in ("stopped", "whole")
    )
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())

    finished = Run.load_finished(tmp_path / "stopped")
    again = load_finished_model(finished)
    again.backbone.batch_size = 1
    for picture in finished.images.read("prompts")[:2]:
        key = ("image", picture.template, picture.index)
        (ours,) = again.backbone.generate([picture.prompt], [key], again.sampling)
        recipe = again.backbone.recipe(finished.weights, picture.prompt, key, again.sampling)
        assert torch.equal(drawn(recipe), ours)
        assert (picture.pixels.int() - ours.int()).abs().max() <= 1
    untrained = [line for line in recipe.splitlines() if "load_lora_weights" not in line]
    if adapter == "lora":
        assert (drawn("\n".join(untrained)).int() - ours.int()).abs().max() > 1


@pytest.mark.slow
def test_plain_diffusers_draws_with_half_an_adapter_too(train, tmp_path):
    words = ("adapter=lora", "prior=off", "method.module.learning_rate=1e-2", "adapter.scale=0.5")
    ended = train("run", *words)
    assert ended.code == 0, ended.output
    run, arguments = Run.load_finished(tmp_path / "run"), ("a red dog", ("image", "a {}", 0))
    again = load_finished_model(run)
    (ours,) = again.backbone.generate(*([each] for each in arguments), again.sampling)
    recipe = again.backbone.recipe(run.weights, *arguments, again.sampling)
    assert (drawn(recipe).int() - ours.int()).abs().max() <= 1
    assert (drawn(recipe.replace("0.5", "1.0")).int() - ours.int()).abs().max() > 1


def test_the_command_that_checks_a_model_passes(model):
    ended = command("check", *model, "trainer=cpu")
    assert ended.code == 0, ended.output
    assert ended.output.count(" ok ") == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("method=textual_inversion", "method=textual_inversion adds a word to the one text enc"),
        ("method.train_text_encoder=true", "method.train_text_encoder=true is not available for"),
    ],
)
def test_what_needs_one_text_encoder_is_refused_in_one_sentence(train, words, said):
    assert said in train("run", words).sentence
