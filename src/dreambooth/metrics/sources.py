"""Where the weights of the encoders come from, and why some are unavailable. Imports no torch."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

from dreambooth.runs.hub import answer_of, is_cached, problem_of, unreachable
from dreambooth.runs.overrides import assignment

# The repository of open_clip's tag that conf/metrics/paper.yaml uses; open_clip knows the others.
CLIP_REPOSITORIES = {("ViT-B-32", "openai"): "timm/vit_base_patch32_clip_224.openai"}
LPIPS_FILES = {  # of torchvision
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
LPIPS_URL = "https://download.pytorch.org/models/"


@dataclass(frozen=True)
class Source:
    """The weights of an encoder: what they are, and what a user gives if they are unavailable."""

    title: str
    remedy: str

    def refusal(self, reason: object) -> str:
        short = shorten(str(reason), 240, placeholder=" ...").rstrip(" .:,")
        return f"{self.title} cannot be used ({short}): give {self.remedy}"


def metrics_are_chosen(overrides: Sequence[str]) -> bool:
    """Whether the overrides of a command set the metrics; else they are the model's default."""
    return any(re.match(r"metrics\b", assignment(text).key) for text in overrides)


def check_encoders(metrics: Mapping[str, Any] | None) -> None:
    """ValueError that names all encoders of the group `metrics` whose weights are unavailable."""
    with ThreadPoolExecutor() as pool:  # several servers without an answer take the time of one
        found = pool.map(lambda entry: _ABSENCES[entry["_target_"]](entry), _encoders(metrics))
        if refusals := [refusal for refusal in found if refusal]:
            raise ValueError("; ".join(refusals))


def _encoders(settings: Any) -> list[Mapping[str, Any]]:
    if not isinstance(settings, Mapping):
        return []
    own = [settings] if settings.get("_target_") in _ABSENCES else []
    return own + [entry for value in settings.values() for entry in _encoders(value)]


def dino_source(pretrained: str | Path) -> Source:
    return Source(
        f"the DINO encoder {str(pretrained)!r}",
        "metrics.fidelity.dino.pretrained=/path/to/folder, a ViT as transformers saves it "
        "(config.json, weights)",
    )


def clip_source(model: str | Path, pretrained: str | Path) -> Source:
    is_folder = Path(model).expanduser().is_dir()
    return Source(
        f"the CLIP encoder {str(model)!r}" + ("" if is_folder else f" {str(pretrained)!r}"),
        "metrics.fidelity.clip.model=/path/to/folder with open_clip_config.json and "
        "open_clip_model.safetensors, or metrics.fidelity.clip.pretrained=/path/to/checkpoint",
    )


def lpips_source(net: str, backbone: str | Path | None) -> Source:
    place = lpips_file(net)
    return Source(
        f"the LPIPS backbone {Path(backbone).expanduser() if backbone else place}",
        f"metrics.fidelity.distance.backbone=/path/to/{place.name}, torchvision's weights, or "
        f"place them at {place}",
    )


def lpips_file(net: str) -> Path:
    """Where torch keeps the backbone. ValueError for an unknown net."""
    if net not in LPIPS_FILES:
        raise ValueError(f"LPIPS has no net {net!r}: choose from {', '.join(LPIPS_FILES)}")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    home = Path(os.environ.get("TORCH_HOME") or cache / "torch").expanduser()
    return home / "hub" / "checkpoints" / LPIPS_FILES[net]


def unreachable_lpips(net: str) -> str:
    """A sentence if the server of the backbones does not answer; else ""."""
    url = LPIPS_URL + LPIPS_FILES[net]
    silent = answer_of(urlsplit(url).netloc, lambda: _first_byte(url)) is None
    return unreachable(url) if silent else ""


def _first_byte(url: str) -> str:
    with urlopen(url) as response:
        return str(response.read(1))


def absence_from_hub(repository: str, problem: str) -> str:
    return f"nothing named {repository!r} in the Hugging Face cache, and {problem}"


def _dino_absence(settings: Mapping[str, Any]) -> str:
    pretrained = str(settings.get("pretrained"))
    folder = Path(pretrained).expanduser()
    if folder.exists() or is_cached(pretrained, "config.json"):
        return ""
    if not (problem := problem_of(pretrained)):
        return ""
    reason = f"no folder {folder.absolute()}, {absence_from_hub(pretrained, problem)}"
    return dino_source(pretrained).refusal(reason)


def _clip_absence(settings: Mapping[str, Any]) -> str:
    model, pretrained = str(settings.get("model")), str(settings.get("pretrained"))
    repository = CLIP_REPOSITORIES.get((model, pretrained))
    if Path(model).expanduser().is_dir() or repository is None:
        return ""
    if is_cached(repository, "open_clip_config.json") or not (problem := problem_of(repository)):
        return ""
    return clip_source(model, pretrained).refusal(absence_from_hub(repository, problem))


def _lpips_absence(settings: Mapping[str, Any]) -> str:
    net, backbone = str(settings.get("net")), settings.get("backbone")
    if net not in LPIPS_FILES or backbone or lpips_file(net).exists():
        return ""
    if not (problem := unreachable_lpips(net)):
        return ""
    return lpips_source(net, None).refusal(f"there is no such file, and {problem}")


_ABSENCES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "dreambooth.metrics.encoders.DinoEncoder": _dino_absence,
    "dreambooth.metrics.encoders.ClipEncoder": _clip_absence,
    "dreambooth.metrics.encoders.LpipsDistance": _lpips_absence,
}
