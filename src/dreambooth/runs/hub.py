"""Whether a model on the Hugging Face Hub can be had: known within seconds, without torch.

Without a network, the loaders of the libraries retry each file for half a minute.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

# Backbones whose `pretrained` may be the id of a model on the Hub -> a file that each model has.
_FROM_HUB = {
    "dreambooth.backbones.deepfloyd.DeepFloydBackbone.load": "model_index.json",
    "dreambooth.backbones.flux2_klein.Flux2KleinBackbone.load": "model_index.json",
    "dreambooth.backbones.flux.FluxBackbone.load": "model_index.json",
    "dreambooth.backbones.stable_diffusion.StableDiffusionBackbone.load": "model_index.json",
    "dreambooth.backbones.stable_diffusion_xl.StableDiffusionXLBackbone.load": "model_index.json",
}

_silent_since: dict[str, float] = {}  # a server that did not answer -> when


def check_model(config: Mapping[str, Any]) -> None:
    """ValueError if the model of a run is in no folder, not in the cache, and not to be had."""
    backbone = config["model"]["backbone"]
    file = _FROM_HUB.get(backbone.get("_target_"))
    if file is None:
        return
    if (Path(str(backbone.get("pretrained"))).expanduser() / "base" / file).is_file():
        return  # a folder with all stages of a cascade
    has_sr = backbone.get("pretrained_sr") is not None
    for key in ("pretrained", "pretrained_sr") if has_sr else ("pretrained",):
        pretrained = str(backbone.get(key))
        folder, problem = Path(pretrained).expanduser(), absence_of(pretrained, file)
        if folder.exists() and not (folder / file).is_file():
            problem = f"model {pretrained!r} cannot be used (it has no {file})"
        if problem:
            raise ValueError(
                f"{problem}; give model.backbone.{key}=/path/to/folder with the model in the "
                "diffusers layout"
            )


def absence_of(pretrained: str | Path, file: str) -> str:
    """Why a model, which has `file`, is neither a folder nor in the cache nor on the Hub, or ""."""
    folder = Path(pretrained).expanduser()
    if folder.exists() or is_cached(str(pretrained), file):
        return ""
    if not (problem := problem_of(str(pretrained))):
        return ""
    return (
        f"there is no model {str(pretrained)!r}: no folder {folder.absolute()}, nothing of this "
        f"name in the Hugging Face cache, and {problem}"
    )


def problem_of(repository: str) -> str:
    """Why the Hub does not give a model; "" if it does. Known within seconds."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    def ask() -> str:
        try:
            HfApi().model_info(repository, timeout=_patience_s())
        except (HFValidationError, RepositoryNotFoundError):
            return "the Hub has no such model, or none that you may read"
        except OfflineModeIsEnabled:
            return "the Hub is not asked (HF_HUB_OFFLINE is set)"
        return ""

    answer = answer_of("the Hub", ask)
    return unreachable("the Hub") if answer is None else answer


def unreachable(server: str) -> str:
    """A sentence for a server without an answer."""
    return f"{server} cannot be reached within {_patience_s():g} s (HF_HUB_ETAG_TIMEOUT=)"


def answer_of(server: str, ask: Callable[[], str]) -> str | None:
    """What a server answers; None if it fails or takes too long, now or in the last minute."""
    if time.monotonic() - _silent_since.get(server, -60) < 60:
        return None
    answers: list[str] = []

    def keep_answer() -> None:
        with suppress(Exception):  # no network: the libraries raise many kinds
            answers.append(ask())

    # A thread, because looking up a name in the network has no time limit of its own.
    thread = Thread(target=keep_answer, daemon=True)
    thread.start()
    thread.join(_patience_s())
    if not answers:
        _silent_since[server] = time.monotonic()
    return answers[0] if answers else None


def is_cached(repository: str, file: str) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(repository, file), str)
    except HFValidationError:  # no name of a model
        return False


def _patience_s() -> float:
    return float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or 3)
