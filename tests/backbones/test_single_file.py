"""One .safetensors file with all weights, and revisions of models on the Hub."""

import shutil

import pytest
import torch
from commands import command
from tiny_models import stable_diffusion_folder
from tiny_single_file import single_file

from dreambooth.backbones.stable_diffusion import StableDiffusionBackbone
from dreambooth.runs.run import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return stable_diffusion_folder(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture
def file(folder, tmp_path):
    return single_file(folder, tmp_path / "model.safetensors")


@pytest.fixture
def configs(folder, tmp_path):
    """What describes the file: a folder without weights."""
    ignored = shutil.ignore_patterns("*.safetensors")
    return shutil.copytree(folder, tmp_path / "configs", ignore=ignored)


def test_a_file_is_the_same_model_as_its_folder(folder, file, configs):
    whole = StableDiffusionBackbone.load(folder)
    single = StableDiffusionBackbone.load(file, config=configs)
    assert single.fingerprint() == whole.fingerprint()
    assert (single.name, single.stages["base"].resolution_px) == ("model.safetensors", 64)


def test_weights_of_half_precision_are_trained_in_float32(folder, file, configs):
    from safetensors.torch import load_file, save_file

    save_file({key: value.half() for key, value in load_file(file).items()}, file)
    stage = StableDiffusionBackbone.load(file, config=configs).stages["base"]
    assert {p.dtype for p in stage.denoiser.parameters()} == {torch.float32}


def test_a_file_that_cannot_be_is_one_sentence(file, configs, tmp_path):
    pickled = tmp_path / "model.ckpt"
    torch.save({}, pickled)
    with pytest.raises(ValueError, match=r"model\.ckpt.*pickled weights are never read"):
        StableDiffusionBackbone.load(pickled, config=configs)
    with pytest.raises(ValueError, match=r"give a .safetensors file and model.backbone.config="):
        StableDiffusionBackbone.load(file)
    with pytest.raises(ValueError, match=r"there is no model .*nowhere"):
        StableDiffusionBackbone.load(file, config=tmp_path / "nowhere")
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"model\.safetensors' cannot be used \("):
        StableDiffusionBackbone.load(file, config=configs)


@pytest.mark.slow
def test_a_run_from_the_cache_of_the_hub_records_the_commit(folder, tmp_path, monkeypatch):
    cache, commit = tmp_path / "hub", "0123456789abcdef" * 2 + "01234567"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    place = cache / "models--someone--tiny"
    shutil.copytree(folder, place / "snapshots" / commit)
    (place / "refs").mkdir()
    for name in ("main", "v1"):
        (place / "refs" / name).write_text(commit)
    small = ("experiment=smoke", "model=sd15", "subject=olive", "metrics=none", "logger=csv")
    small += ("trainer=cpu", "prior=off", "model.rare_token_ids=[592,722]")
    small += ("model.backbone.pretrained=someone/tiny", f"hydra.run.dir={tmp_path / 'run'}")
    ended = command("train", *small, "model.backbone.revision=v2")
    assert ended.sentence.startswith("there is no model 'someone/tiny': no folder ")
    ended = command("train", *small, "model.backbone.revision=v1")
    assert ended.code == 0, ended.output
    run = Run.load_finished(tmp_path / "run")
    assert run.read_provenance()["models"] == {"someone/tiny": commit}
