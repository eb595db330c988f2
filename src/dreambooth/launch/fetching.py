"""Downloading models, encoders and DreamBench. The sizes are printed before it begins."""

import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.request import Request, urlopen

from dreambooth.metrics import sources
from dreambooth.runs.hub import answer_of, problem_of, sources_of, unreachable

DREAMBENCH_URL = "https://github.com/google/dreambooth/archive/refs/heads/main.zip"
# By the loaders of diffusers and transformers.
_READ = {".jinja", ".json", ".txt", ".model", ".safetensors"}
_CLIP_FILES = ("open_clip_config.json", "open_clip_model.safetensors")  # that open_clip reads
_DINO_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_UNUSED = ("safety_checker", "feature_extractor", "watermarker", "image_encoder")


@dataclass(frozen=True)
class Download:
    """Something to download; `get` does it and returns where it is."""

    title: str
    size_bytes: int | None  # None if the server does not say
    get: Callable[[], Path]


def fetch(config: Mapping[str, Any]) -> None:
    """Download the model, the encoders of the metrics and DreamBench, if the config has them.

    ValueError if it has none of them, or if one is unavailable; then nothing is downloaded.
    """
    downloads = [*_of_model(config.get("model")), *_of_encoders(config.get("metrics"))]
    if config["dreambench"] is not None:
        downloads.append(_dreambench(Path(str(config["dreambench"])).expanduser()))
    if not downloads:
        raise ValueError(
            "nothing to download: give model=sd15 (or another model of the Hub), metrics=paper or "
            "dreambench=FOLDER"
        )
    for download in downloads:
        print(f"{_in_words(download.size_bytes):>12}  {download.title}")
    total = sum(download.size_bytes or 0 for download in downloads)
    print(f"{_in_words(total):>12}  in all; what is here already is not downloaded again")
    for download in downloads:
        print(f"{download.title}: {download.get()}")


def _in_words(size_bytes: int | None) -> str:
    if size_bytes is None:
        return "unknown size"
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"


def _of_model(model: Mapping[str, Any] | None) -> Iterator[Download]:
    backbone = {} if model is None else model["backbone"]
    revision = backbone.get("revision")
    for key, source in sources_of(backbone).items():
        if Path(source).expanduser().exists():
            continue
        unused = [*_UNUSED, "text_encoder"] if key == "pretrained_sr" else _UNUSED
        sizes = _sizes(source, revision)
        files = {name: size for name, size in sizes.items() if _is_read(name, unused)}
        if key == "config":  # of a file that has the weights
            files = {name: size for name, size in files.items() if ".safetensors" not in name}
        yield _from_hub(source, files, revision)


def _is_read(name: str, unused: Sequence[str]) -> bool:
    """Whether the loader of a diffusers pipeline reads a file: of each part its safetensors in full
    precision, whose names are "model.safetensors" or "model-00001-of-00002.safetensors"."""
    path = PurePosixPath(name)
    if len(path.parts) == 1:
        return name == "model_index.json"
    if len(path.parts) != 2 or path.parts[0] in unused or path.suffix not in _READ:
        return False
    return path.suffix != ".safetensors" or bool(
        re.fullmatch(r"(diffusion_pytorch_)?model(-\d+-of-\d+)?\.safetensors", path.name)
    )


def _of_encoders(metrics: Mapping[str, Any] | None) -> Iterator[Download]:
    fidelity = (metrics or {}).get("fidelity") or {}
    dino, clip, distance = (fidelity.get(name) or {} for name in ("dino", "clip", "distance"))
    if dino and not Path(str(dino["pretrained"])).expanduser().exists():
        sizes = _sizes(str(dino["pretrained"]))
        weights = next((name for name in _DINO_WEIGHTS if name in sizes), None)
        if weights is None or "config.json" not in sizes:
            raise ValueError(
                f"{dino['pretrained']} is no encoder for metrics.fidelity.dino.pretrained: it has "
                f"no config.json with {' or '.join(_DINO_WEIGHTS)}"
            )
        files = {name: sizes[name] for name in ("config.json", weights)}
        yield _from_hub(str(dino["pretrained"]), files)
    key = (str(clip.get("model")), str(clip.get("pretrained")))
    if repository := sources.CLIP_REPOSITORIES.get(key):
        sizes = _sizes(repository)
        files = {name: size for name, size in sizes.items() if name in _CLIP_FILES}
        yield _from_hub(repository, files)
    if distance.get("net") in sources.LPIPS_FILES and not distance.get("backbone"):
        yield _lpips(str(distance["net"]))


def _sizes(repository: str, revision: str | None = None) -> dict[str, int]:
    """The files of a repository of the Hub, and their sizes in bytes. ValueError without them."""
    from huggingface_hub import HfApi

    if problem := problem_of(repository, revision):
        raise ValueError(f"{repository} cannot be downloaded: {problem}")
    found = HfApi().model_info(repository, revision=revision, files_metadata=True).siblings or []
    return {file.rfilename: file.size or 0 for file in found}


def _from_hub(repository: str, files: Mapping[str, int], revision: str | None = None) -> Download:
    def get() -> Path:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(files)))

    return Download(repository, sum(files.values()), get)


def _lpips(net: str) -> Download:
    url, file = sources.LPIPS_URL + sources.LPIPS_FILES[net], sources.lpips_file(net)

    def get() -> Path:
        if not file.exists():
            _save(url, file)
        return file

    return Download(f"LPIPS, {file.name}", _length(url, "the server of LPIPS"), get)


def _dreambench(folder: Path) -> Download:
    """DreamBench from its authors' repository. ValueError if the folder is in use."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"dreambench={folder} exists and is not empty: give a new or an empty folder"
        )

    def get() -> Path:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Beside the folder, which is there only once it is complete.
        with tempfile.TemporaryDirectory(prefix=".dreambench-", dir=folder.parent) as temporary:
            archive, dataset = Path(temporary, "dreambench.zip"), Path(temporary, "dataset")
            _save(DREAMBENCH_URL, archive)
            with zipfile.ZipFile(archive) as opened:
                for entry in opened.infolist():
                    _, _, inside = entry.filename.partition("/dataset/")
                    target = (dataset / inside).resolve()
                    if entry.is_dir() or dataset.resolve() not in target.parents:
                        continue
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(opened.read(entry))
            dataset.rename(folder)
        return folder

    return Download("DreamBench", _length(DREAMBENCH_URL, "github.com"), get)


def _length(url: str, server: str) -> int | None:
    """The size of a file in bytes. ValueError if the server does not answer."""

    def ask() -> str:
        with urlopen(Request(url, method="HEAD")) as response:
            return response.headers.get("Content-Length") or "unknown"

    answer = answer_of(server, ask)
    if answer is None:
        raise ValueError(f"{url} cannot be downloaded: {unreachable(server)}")
    return int(answer) if answer.isdigit() else None


def _save(url: str, file: Path) -> None:
    """Download a file; it has its name only once it is complete."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    with urlopen(url) as response, part.open("wb") as output:
        shutil.copyfileobj(response, output)
    part.rename(file)
