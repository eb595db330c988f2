"""What is wrong with a folder of DeepFloyd IF is one sentence."""

import json
import shutil
from pathlib import Path

import pytest

from dreambooth.backbones.deepfloyd import DeepFloydBackbone


@pytest.fixture
def folder(deepfloyd) -> Path:
    return Path(deepfloyd[1].partition("=")[2])


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    """A copy to damage."""
    return shutil.copytree(folder, tmp_path / "copied")


def error_of(pretrained: Path | str, pretrained_sr: Path | str = "", **options) -> str:
    """Why a model cannot be loaded, or its text encoder, which is loaded when it is needed."""

    def load():
        backbone = DeepFloydBackbone.load(pretrained, pretrained_sr, **options)
        backbone.stages["base"].encode_prompts(["a dog"])

    with pytest.raises(ValueError, match=r"\S") as error:
        load()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_for_each_stage_is_loaded_too(folder):
    backbone = DeepFloydBackbone.load(folder / "base", folder / "sr")
    assert list(backbone.stages) == ["base", "sr"]


def test_a_model_without_stage_ii_has_one_stage(folder):
    for source in (folder, folder / "base"):
        backbone = DeepFloydBackbone.load(source, None)
        assert list(backbone.stages) == ["base"]
        with pytest.raises(ValueError, match="has no SR stage"):
            backbone.super_resolve(None, [], [], None)


def test_a_missing_stage_is_named(copied):
    shutil.rmtree(copied / "sr")
    said = error_of(copied)
    assert said.startswith(f"model '{copied}' has stage I in base/, but no stage II in sr/")
    assert "model.backbone.pretrained_sr=null" in said
    for missing in (copied / "nowhere", "someone/if-ii"):
        said = error_of(copied / "base", missing)
        assert said.startswith(f"there is no model '{missing}': no folder ")
        assert "give model.backbone.pretrained_sr=/path/to/folder with a DeepFloyd IF stage" in said
    said = error_of("someone/if-i", copied / "sr")
    assert said.startswith("there is no model 'someone/if-i': no folder ")
    assert "give model.backbone.pretrained=/path/to/folder with a DeepFloyd IF stage I (" in said


def test_a_model_of_another_family_is_refused_by_name(copied):
    said = error_of(copied / "sr", copied / "sr")
    assert "of another family, IFSuperResolutionPipeline" in said
    assert "of another family, IFPipeline" in error_of(copied / "base", copied / "base")
    index = json.loads((copied / "base/model_index.json").read_text())
    index["_class_name"] = "StableDiffusionPipeline"
    (copied / "base/model_index.json").write_text(json.dumps(index))
    assert "of another family, StableDiffusionPipeline" in error_of(copied)


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("base/model_index.json", "model_index.json"),
        ("base/unet/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors"),
        ("base/scheduler", "scheduler_config.json"),
        ("base/text_encoder", "text_encoder"),
        ("base/text_encoder/model.safetensors", "model.safetensors"),
        ("base/tokenizer", "tokenizer"),
        ("sr/unet/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors"),
        ("sr/image_noising_scheduler", "scheduler_config.json"),
    ],
)
def test_a_folder_that_lacks_a_part_names_it(copied, lost, named):
    path = copied / lost
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    reason = error_of(copied).partition("; give model.backbone.")[0]
    assert str(path.parents[len(Path(lost).parts) - 2]) in reason
    assert named in reason.partition("cannot be used")[2]


def test_damaged_weights_are_refused_in_one_sentence(copied):
    for name in (
        "base/unet/diffusion_pytorch_model.safetensors",
        "base/text_encoder/model.safetensors",
    ):
        content = (copied / name).read_bytes()
        (copied / name).write_bytes(content[: len(content) // 2])
        assert f"model {str(copied / 'base')!r} cannot be used (" in error_of(copied)
        (copied / name).write_bytes(content)


def test_a_text_encoder_of_another_width_is_refused(copied):
    file = copied / "base/text_encoder/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"d_model": 64}))
    assert "its text encoder has 64 channels, and the U-Net of" in error_of(copied)


def test_a_saved_model_without_its_text_encoder_says_which_key_names_it(folder, tmp_path):
    DeepFloydBackbone.load(folder, "").save(tmp_path)
    said = error_of(tmp_path)
    assert "give model.backbone.text_encoder=/path/to/folder with a DeepFloyd IF text" in said


def test_a_tokenizer_that_needs_sentencepiece_says_so(copied):
    """The published folders have spiece.model and no tokenizer.json."""
    (copied / "base/tokenizer/tokenizer.json").unlink()
    (copied / "base/tokenizer/spiece.model").write_bytes(b"no model")
    assert "(its tokenizer cannot be read without sentencepiece: pip install it)" in error_of(
        copied
    )
