"""Weights of the encoders: found, loaded and checked, or a ValueError of one sentence."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from dreambooth.runs.hashes import sha256_of

LPIPS_BACKBONES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


def load_vit(pretrained: str | Path) -> Any:
    from transformers import PretrainedConfig, ViTModel

    remedy = (
        "metrics.fidelity.dino.pretrained=/path/to/folder, a ViT as transformers saves it "
        "(config.json, weights)"
    )
    with _one_sentence(f"the DINO encoder {str(pretrained)!r}", remedy):
        folder = Path(pretrained).expanduser()
        if not folder.exists():
            files = ["config.json", "model.safetensors", "pytorch_model.bin"]
            folder = _from_hub(str(pretrained), files, f"no folder {folder.absolute()}, ")
        family = PretrainedConfig.get_config_dict(folder)[0].get("model_type")
        if family != "vit":
            raise ValueError(f"it is of another architecture: its model_type is {family}, not vit")
        model, report = ViTModel.from_pretrained(
            folder, add_pooling_layer=False, output_loading_info=True, dtype=torch.float32
        )
        if report["missing_keys"]:
            raise ValueError(f"its weights lack {min(report['missing_keys'])}")
    return model


def load_clip(
    model: str | Path, pretrained: str | Path, tokenize: Callable[[list[str]], Tensor] | None
) -> tuple[Any, Callable[[list[str]], Tensor]]:
    import open_clip
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    remedy = (
        "metrics.fidelity.clip.model=/path/to/folder with open_clip_config.json and "
        "open_clip_model.safetensors, or metrics.fidelity.clip.pretrained=/path/to/checkpoint"
    )
    folder, file = Path(model).expanduser(), Path(pretrained).expanduser()
    what = repr(str(model)) + ("" if folder.is_dir() else f" {str(pretrained)!r}")
    with _one_sentence(f"the CLIP encoder {what}", remedy):
        name, weights = str(model).replace("/", "-"), str(file)
        tag: dict[str, Any] = {}
        if folder.is_dir():
            name, weights = f"local-dir:{folder}", ""
        elif name not in open_clip.list_models():
            raise ValueError(f"no folder {folder.absolute()}, no model that open_clip knows")
        elif tag := get_pretrained_cfg(name, str(pretrained)):
            if repository := tag.get("hf_hub", "").rpartition("/")[0]:
                _from_hub(repository, ["open_clip_config.json"])
            weights = download_pretrained(tag)
        elif not file.is_file():
            raise ValueError(f"no file {file.absolute()}, no tag of weights that open_clip knows")
        network = open_clip.create_model(
            name,
            weights,
            # open_clip takes the activation from the name, and only warns where the tag's differs.
            force_quick_gelu=tag.get("quick_gelu", False),
            force_preprocess_cfg=tag,
            require_pretrained=True,
        )
        return network, tokenize or open_clip.get_tokenizer(name)


def load_lpips(net: str, backbone: str | Path | None) -> nn.Module:
    if net not in LPIPS_BACKBONES:
        raise ValueError(f"LPIPS has no net {net!r}: choose from {', '.join(LPIPS_BACKBONES)}")
    from torchmetrics.functional.image.lpips import _NoTrainLpips
    from torchvision.models import get_model_weights

    url = get_model_weights(LPIPS_BACKBONES[net]).DEFAULT.url
    place = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    file = Path(backbone).expanduser() if backbone else place
    remedy = (
        f"metrics.fidelity.distance.backbone=/path/to/{place.name}, torchvision's weights, or "
        f"place them at {place}"
    )
    with _one_sentence(f"the LPIPS backbone {file}", remedy):
        if not file.exists():
            if backbone:
                raise FileNotFoundError("there is no such file")
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(url, str(place), place.stem.rpartition("-")[2])
            except Exception as error:
                raise FileNotFoundError(
                    f"there is no such file, and {url} is not reached"
                ) from error
        weights = torch.load(file, map_location="cpu", weights_only=True)
        # torchmetrics would load the backbone by itself, but anew at each call and from one place.
        network: Any = _NoTrainLpips(net=net, pnet_rand=True)  # type: ignore[arg-type]
        # "slice2.3.weight", of SqueezeNet "slices.1.3...", is torchvision's "features.3...".
        names = {k: re.sub(r"^slices?\.?\d+", "features", k) for k in network.net.state_dict()}
        network.net.load_state_dict({k: weights[v] for k, v in names.items() if v in weights})
    return network


def _from_hub(repository: str, files: list[str], elsewhere: str = "") -> Path:
    """The folder of a repository in the Hugging Face cache, brought there if need be.

    Asks once: the libraries' own loaders go on asking for a minute where there is no network.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=files))
    except Exception as error:
        raise FileNotFoundError(
            f"{elsewhere}nothing named {repository!r} in the Hugging Face cache, and the Hub does "
            "not know or reach it"
        ) from error


@contextmanager
def _one_sentence(what: str, remedy: str) -> Iterator[None]:
    """Each library has its own errors for weights: all become one ValueError."""
    try:
        yield
    except Exception as error:
        reason = shorten(str(error), 240, placeholder=" ...").rstrip(".:")
        raise ValueError(f"{what} cannot be used ({reason}); give {remedy}") from error


def weights_sha(module: nn.Module) -> str:
    """Of names, shapes and values, whatever file they came from."""
    weights = sorted(module.state_dict().items())
    named = ((f"{name}{tuple(value.shape)}", value) for name, value in weights)
    return f"weights sha256 {sha256_of(chain.from_iterable(named))[:12]}"
