"""src/fetch.py, with a hub and a server of its own in place of the network."""

import zipfile

import pytest
from commands import command
from made_up_hub import SDXL, make_up_hub

from dreambooth.launch import fetching
from dreambooth.metrics import sources


@pytest.fixture
def network(monkeypatch, tmp_path):
    """What was downloaded from the Hub, as (repository, files)."""
    return make_up_hub(monkeypatch, tmp_path)


def test_a_model_comes_with_its_encoders_and_without_files_that_nothing_reads(network, tmp_path):
    ended = command("fetch", "model=sdxl")
    assert ended.code == 0, ended.output
    assert network[0] == (
        SDXL,
        [
            "model_index.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "text_encoder/model.safetensors",
            "text_encoder/model-00001-of-00002.safetensors",
            "tokenizer/vocab.json",
        ],
    )
    assert network[1:] == [
        ("facebook/dino-vits16", ["config.json", "pytorch_model.bin"]),
        (
            "timm/vit_base_patch32_clip_224.openai",
            ["open_clip_config.json", "open_clip_model.safetensors"],
        ),
    ]
    lines = ended.output.splitlines()
    assert lines[0].split() == ["10.5", "GB", SDXL]
    assert lines[4].split()[:2] == ["11.2", "GB"]  # in all, before the first download
    assert lines[5] == f"{SDXL}: {tmp_path / 'hub'}"
    assert (tmp_path / "torch/hub/checkpoints" / sources.LPIPS_FILES["alex"]).stat().st_size == 7000


def test_a_revision_and_the_configs_of_a_file(network, tmp_path):
    words = ("model=sdxl", "metrics=none", "model.backbone.revision=v1")
    ended = command("fetch", *words)
    assert ended.code == 0, ended.output
    (tmp_path / "model.safetensors").touch()
    ended = command("fetch", *words, f"model.backbone.pretrained={tmp_path}/model.safetensors")
    assert ended.code == 0, ended.output
    (_, whole), (repository, configs) = network
    assert repository == f"{SDXL}@v1"
    assert configs == [name for name in whole if not name.endswith(".safetensors")]
    ended = command("fetch", *words, "model.backbone.revision=v2")
    assert ended.sentence == f"{SDXL} cannot be downloaded: the Hub has no revision v2 of it"


def test_a_folder_is_not_looked_for_on_the_hub(network, tmp_path):
    ended = command("fetch", "model=sd15", f"model.backbone.pretrained={tmp_path}", "metrics=none")
    assert ended.sentence.startswith("nothing to download: give model=sd15")
    assert network == []


def test_dreambench_is_its_folder_dataset(network, tmp_path):
    folder = tmp_path / "bench"
    ended = command("fetch", f"dreambench={folder}")
    assert ended.code == 0, ended.output
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.*"))]
    assert names == ["dog6/00.jpg", "prompts_and_classes.txt"]
    assert not list(tmp_path.rglob("outside.txt"))
    assert (
        "exists and is not empty: give a new" in command("fetch", f"dreambench={folder}").sentence
    )


def test_an_interrupted_download_of_dreambench_starts_again(network, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    folder = tmp_path / "bench"
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetching.fetch({"model": None, "metrics": None, "dreambench": folder})
    assert not folder.exists()
    assert not list(tmp_path.glob(".dreambench-*"))
    folder.mkdir()
    assert command("fetch", f"dreambench={folder}").code == 0
    assert (folder / "dog6/00.jpg").read_text() == "a photo"


def test_a_repository_without_the_encoders_files_is_one_sentence(network):
    ended = command("fetch", "metrics=paper", f"metrics.fidelity.dino.pretrained={SDXL}")
    assert ended.sentence == (
        f"{SDXL} is no encoder for metrics.fidelity.dino.pretrained: it has no config.json with "
        "model.safetensors or pytorch_model.bin"
    )
    assert network == []


def test_what_cannot_be_had_is_said_before_anything_is_downloaded(network, monkeypatch):
    monkeypatch.setattr(sources, "LPIPS_URL", "file:///nowhere/")
    sentence = command("fetch", "metrics=paper").sentence
    assert "cannot be downloaded: the server of LPIPS cannot be reached" in sentence
    assert network == []
