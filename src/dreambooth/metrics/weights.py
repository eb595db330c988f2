"""Loading and checking the weights of the encoders. Every failure is a ValueError."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dreambooth.metrics import sources
from dreambooth.runs.hashes import sha256_of
from dreambooth.runs.hub import problem_of


class UnavailableError(ValueError):
    """Weights of encoders cannot be loaded. `what` names the encoders."""

    def __init__(self, message: str, what: str) -> None:
        super().__init__(message)
        self.what = what


def load_vit(pretrained: str | Path) -> Any:
    """Load a ViT in the transformers layout, by its folder or its Hugging Face id."""
    from transformers import PretrainedConfig, ViTModel

    with _one_sentence(sources.dino_source(pretrained)):
        folder = Path(pretrained).expanduser()
        if not folder.exists():
            files = ["config.json", "model.safetensors", "pytorch_model.bin"]
            folder = _from_hub(str(pretrained), files, f"no folder {folder.absolute()}, ")
        family = PretrainedConfig.get_config_dict(folder)[0].get("model_type")
        if family != "vit":
            raise ValueError(f"it has another architecture: its model_type is {family}, not vit")
        model, report = ViTModel.from_pretrained(
            folder, add_pooling_layer=False, output_loading_info=True, dtype=torch.float32
        )
        if report["missing_keys"]:
            raise ValueError(f"its weights lack {min(report['missing_keys'])}")
    return model


def load_clip(
    model: str | Path, pretrained: str | Path, tokenize: Callable[[list[str]], Tensor] | None
) -> tuple[Any, Callable[[list[str]], Tensor]]:
    """Load an open_clip model and its tokenizer; the arguments are those of `ClipEncoder`."""
    import open_clip
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    folder, file = Path(model).expanduser(), Path(pretrained).expanduser()
    with _one_sentence(sources.clip_source(model, pretrained)):
        name, weights = str(model).replace("/", "-"), str(file)
        tag: dict[str, Any] = {}
        if folder.is_dir():
            name, weights = f"local-dir:{folder}", ""
        elif name not in open_clip.list_models():
            raise ValueError(f"no folder {folder.absolute()}, and open_clip knows no such model")
        elif tag := get_pretrained_cfg(name, str(pretrained)):
            if repository := tag.get("hf_hub", "").rpartition("/")[0]:
                _from_hub(repository, ["open_clip_config.json"])
            weights = download_pretrained(tag)
        elif not file.is_file():
            raise ValueError(f"no file {file.absolute()}, and open_clip knows no such tag")
        network = open_clip.create_model(
            name,
            weights,
            # open_clip takes the activation from the name, and only warns if the tag has another.
            force_quick_gelu=tag.get("quick_gelu", False),
            force_preprocess_cfg=tag,
            require_pretrained=True,
        )
        return network, tokenize or open_clip.get_tokenizer(name)


def load_lpips(net: str, backbone: str | Path | None) -> nn.Module:
    """Load the LPIPS network; the arguments are those of `LpipsDistance`."""
    hub_file = sources.lpips_file(net)
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    file = Path(backbone).expanduser() if backbone else hub_file
    with _one_sentence(sources.lpips_source(net, backbone)):
        if not file.exists():
            if backbone:
                raise FileNotFoundError("there is no such file")
            if problem := sources.unreachable_lpips(net):
                raise FileNotFoundError(f"there is no such file, and {problem}")
            hub_file.parent.mkdir(parents=True, exist_ok=True)
            url = sources.LPIPS_URL + hub_file.name
            try:
                torch.hub.download_url_to_file(url, str(hub_file), hub_file.stem.rpartition("-")[2])
            except Exception as error:
                raise FileNotFoundError(
                    f"there is no such file, and {url} cannot be reached"
                ) from error
        weights = torch.load(file, map_location="cpu", weights_only=True)
        # torchmetrics could load the backbone, but does so at every call and only from the hub.
        network: Any = _NoTrainLpips(net=net, pnet_rand=True)  # type: ignore[arg-type]
        # "slice2.3.weight" (SqueezeNet: "slices.1.3...") is "features.3..." in torchvision.
        names = {k: re.sub(r"^slices?\.?\d+", "features", k) for k in network.net.state_dict()}
        network.net.load_state_dict({k: weights[v] for k, v in names.items() if v in weights})
    return network


def _from_hub(repository: str, files: list[str], elsewhere: str = "") -> Path:
    """The folder of a repository in the Hugging Face cache, downloaded if missing.

    Tries once, because the loaders of the libraries retry for a minute without a network.
    `elsewhere` is put before the error message.
    """
    from huggingface_hub import snapshot_download

    problem = problem_of(repository)
    try:
        return Path(
            snapshot_download(repository, allow_patterns=files, local_files_only=bool(problem))
        )
    except Exception as error:
        reason = sources.absence_from_hub(repository, problem or "the download has failed")
        raise FileNotFoundError(f"{elsewhere}{reason}") from error


@contextmanager
def _one_sentence(source: sources.Source) -> Iterator[None]:
    """Turn the errors of all libraries into an UnavailableError of one sentence."""
    try:
        yield
    except Exception as error:
        raise UnavailableError(source.refusal(error), source.title) from error


def weights_sha(module: nn.Module) -> str:
    """ "weights sha256 0123456789ab": a hash of the names, shapes and values of the weights."""
    weights = sorted(module.state_dict().items())
    named = ((f"{name}{tuple(value.shape)}", value) for name, value in weights)
    return f"weights sha256 {sha256_of(chain.from_iterable(named))[:12]}"
