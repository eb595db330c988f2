"""What is wrong with a folder of Stable Diffusion, or a prompt for it, is one sentence."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from tiny_models import stable_diffusion_folder

from dreambooth.backbones.stable_diffusion import StableDiffusionBackbone
from dreambooth.backbones.stage import Sampling
from dreambooth.runs.settings import Sampler

DDIM = Sampling({"base": Sampler("ddim", num_steps=10, guidance_scale=5.0)})


@pytest.fixture(scope="module")
def epsilon_folder(tmp_path_factory) -> Path:
    return stable_diffusion_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def backbone(epsilon_folder) -> StableDiffusionBackbone:
    return StableDiffusionBackbone.load(epsilon_folder)


@pytest.fixture
def copied(epsilon_folder, tmp_path) -> Path:
    """A copy to damage."""
    return shutil.copytree(epsilon_folder, tmp_path / "copied")


def error_of(pretrained: Path | str, **options) -> str:
    with pytest.raises(ValueError, match=r"\S") as error:
        StableDiffusionBackbone.load(pretrained, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_prompt_of_more_than_77_tokens_says_how_many(backbone):
    backbone.check_prompt("dog " * 75)
    message = r"78 tokens, .* takes 77: shorten it by 1$"
    with pytest.raises(ValueError, match=message):
        backbone.check_prompt("dog " * 76)
    with pytest.raises(ValueError, match=message):
        backbone.stages["base"].encode_prompts(["dog " * 76])
    with pytest.raises(ValueError, match=message):
        backbone.generate(["a dog", "dog " * 76], [("a", 0), ("b", 0)], DDIM)


def test_a_missing_model_says_where_it_was_looked_for_and_how_to_place_it(tmp_path):
    for missing in (tmp_path / "nowhere", "someone/stable-diffusion"):
        message = error_of(missing)
        assert f"no model {str(missing)!r}: no folder {Path(missing).absolute()}" in message
        assert "Hugging Face cache" in message
        assert "model.backbone.pretrained=/path/to/folder" in message


def test_a_model_of_another_family_is_refused_by_name(copied):
    index = json.loads((copied / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionXLPipeline"
    (copied / "model_index.json").write_text(json.dumps(index))
    assert "of another family, StableDiffusionXLPipeline" in error_of(copied)


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("model_index.json", "model_index.json"),
        ("unet/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors"),
        ("text_encoder/model.safetensors", "model.safetensors"),
        ("tokenizer/merges.txt", "merges"),
        ("tokenizer", "tokenizer"),
        ("scheduler", "scheduler_config.json"),
    ],
)
def test_a_folder_that_lacks_a_part_names_it(copied, lost, named):
    path = copied / lost
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    reason = error_of(copied).partition("; give model.backbone.pretrained=")[0]
    assert named in reason.partition("cannot be used")[2]


def test_half_a_download_names_the_shard_that_is_missing(copied):
    unet = UNet2DConditionModel.from_pretrained(copied / "unet")
    shutil.rmtree(copied / "unet")
    unet.save_pretrained(copied / "unet", max_shard_size="300KB")
    StableDiffusionBackbone.load(copied)
    missing = sorted((copied / "unet").glob("*-of-*.safetensors"))[1]
    missing.unlink()
    assert missing.name in error_of(copied).partition("; give ")[0]


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_pickled_weights_are_never_read(copied, part):
    """They are not opened, since to unpickle is to run code."""
    (weights,) = (copied / part).glob("*.safetensors")
    name = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
    torch.save(load_file(weights), copied / part / name)
    weights.unlink()
    assert weights.name in error_of(copied).partition("; give ")[0]


def test_code_that_comes_with_a_model_is_never_run(copied, tmp_path):
    ran = tmp_path / "ran"
    for part in ("unet", "text_encoder"):
        (copied / part / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    config = copied / "text_encoder" / "config.json"
    automatic = {"auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}}
    config.write_text(json.dumps(json.loads(config.read_text()) | automatic))
    StableDiffusionBackbone.load(copied)
    index = copied / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"unet": ["evil", "Evil"]}))
    assert "Evil" in error_of(copied)
    assert not ran.exists()


@pytest.mark.parametrize("resolution_px", [-64, 0, 4, 60])
def test_a_resolution_that_the_vae_cannot_take_is_named(epsilon_folder, resolution_px):
    message = error_of(epsilon_folder, resolution_px=resolution_px)
    assert f"resolution_px={resolution_px}" in message
    assert "multiple of 8, such as 64" in message
