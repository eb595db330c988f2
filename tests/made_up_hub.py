"""A Hugging Face Hub and servers of DreamBench and LPIPS, in place of the network."""

import io
import zipfile
from pathlib import Path
from types import SimpleNamespace

import httpx
import huggingface_hub
import pytest
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
    "stable-diffusion-v1-5/stable-diffusion-v1-5": {
        "model_index.json": 600,
        "unet/diffusion_pytorch_model.safetensors": 3_400_000_000,
    },
    "facebook/dino-vits16": {"config.json": 100, "pytorch_model.bin": 86_700_000, "x.md": 9},
    "timm/vit_base_patch32_clip_224.openai": {
        "open_clip_config.json": 100,
        "open_clip_model.safetensors": 605_000_000,
        "pytorch_model.bin": 605_000_000,
    },
}


def make_up_hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[tuple[str, list[str]]]:
    """Puts them in place; returns the list of what is downloaded, as (repository, files).

    A revision stands behind the repository, as in "a/b@v1", which is the only one there is.
    """
    downloaded = []

    def model_info(_, repository, revision=None, files_metadata=False, timeout=None):
        if revision not in (None, "v1"):
            asked = httpx.Request("GET", "https://huggingface.co")
            raise RevisionNotFoundError(revision, response=httpx.Response(404, request=asked))
        files = REPOSITORIES[repository].items()
        siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in files]
        return SimpleNamespace(siblings=siblings, gated=False)

    def snapshot_download(repository, revision, allow_patterns):
        assert revision in (None, "v1")
        downloaded.append(
            (f"{repository}{'@' if revision else ''}{revision or ''}", allow_patterns)
        )
        return str(folder / "hub")

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("dreambooth-main/README.md", "of the repository")
        opened.writestr("dreambooth-main/dataset/prompts_and_classes.txt", "the prompts")
        opened.writestr("dreambooth-main/dataset/dog6/00.jpg", "a photo")
        opened.writestr("dreambooth-main/dataset/../../outside.txt", "where it must not be")
        opened.writestr(f"dreambooth-main/dataset/{folder}/outside.txt", "nor here")
    (folder / "server").mkdir()
    (folder / "server" / "main.zip").write_bytes(archive.getvalue())
    (folder / "server" / sources.LPIPS_FILES["alex"]).write_bytes(b"weights" * 1000)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(hub, "_silent_since", {})
    monkeypatch.setattr(fetching, "DREAMBENCH_URL", f"file://{folder}/server/main.zip")
    monkeypatch.setattr(sources, "LPIPS_URL", f"file://{folder}/server/")
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    return downloaded
