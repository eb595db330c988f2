"""src/fetch.py, with a hub and a server of its own in place of the network."""

import io
import zipfile
from types import SimpleNamespace

import httpx
import huggingface_hub
import pytest
from commands import command
from huggingface_hub.errors import RevisionNotFoundError

from dreambooth.launch import fetching
from dreambooth.metrics import sources
from dreambooth.runs import hub

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
REPOSITORIES = {
    SDXL: {
        "model_index.json": 600,
        "README.md": 9_000,
        "sd_xl_base_1.0.safetensors": 6_900_000_000,
        "unet/config.json": 1_000,
        "unet/diffusion_pytorch_model.safetensors": 10_000_000_000,
        "unet/diffusion_pytorch_model.fp16.safetensors": 5_000_000_000,
        "unet/model.onnx": 7_000_000,
        "text_encoder/model.safetensors": 400_000_000,
        "text_encoder/model-00001-of-00002.safetensors": 99_000_000,
        "tokenizer/vocab.json": 400_000,
        "safety_checker/model.safetensors": 1_200_000_000,
    },
    "facebook/dino-vits16": {"config.json": 100, "pytorch_model.bin": 86_700_000, "x.md": 9},
    "timm/vit_base_patch32_clip_224.openai": {
        "open_clip_config.json": 100,
        "open_clip_model.safetensors": 605_000_000,
        "pytorch_model.bin": 605_000_000,
    },
}


@pytest.fixture
def network(monkeypatch, tmp_path):
    """What was downloaded from the Hub, as (repository, files)."""
    downloaded = []

    def model_info(_, repository, revision=None, files_metadata=False, timeout=None):
        if revision not in (None, "v1"):
            asked = httpx.Request("GET", "https://huggingface.co")
            raise RevisionNotFoundError(revision, response=httpx.Response(404, request=asked))
        files = REPOSITORIES[repository].items()
        siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in files]
        return SimpleNamespace(siblings=siblings)

    def snapshot_download(repository, revision, allow_patterns):
        assert revision in (None, "v1")
        downloaded.append(
            (f"{repository}{'@' if revision else ''}{revision or ''}", allow_patterns)
        )
        return str(tmp_path / "hub")

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("dreambooth-main/README.md", "of the repository")
        opened.writestr("dreambooth-main/dataset/prompts_and_classes.txt", "the prompts")
        opened.writestr("dreambooth-main/dataset/dog6/00.jpg", "a photo")
        opened.writestr("dreambooth-main/dataset/../../outside.txt", "where it must not be")
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "main.zip").write_bytes(archive.getvalue())
    (tmp_path / "server" / sources.LPIPS_FILES["alex"]).write_bytes(b"weights" * 1000)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(hub, "_silent_since", {})
    monkeypatch.setattr(fetching, "DREAMBENCH", f"file://{tmp_path}/server/main.zip")
    monkeypatch.setattr(sources, "LPIPS_URL", f"file://{tmp_path}/server/")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return downloaded


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
        "is there already: give a new folder" in command("fetch", f"dreambench={folder}").sentence
    )


def test_what_cannot_be_had_is_said_before_anything_is_downloaded(network, monkeypatch):
    monkeypatch.setattr(sources, "LPIPS_URL", "file:///nowhere/")
    sentence = command("fetch", "metrics=paper").sentence
    assert "cannot be downloaded: the server of LPIPS cannot be reached" in sentence
    assert network == []
