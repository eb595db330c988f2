"""Whether a model on the Hugging Face Hub is available: known within seconds, without torch.

Without a network, the loaders of the libraries retry each file for half a minute.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

from dreambooth.runs.settings import read
from dreambooth.runs.values import Text

# Backbones whose `pretrained` may be the id of a model on the Hub, in the diffusers layout.
_FROM_HUB = (
    "dreambooth.backbones.deepfloyd.DeepFloydBackbone.load",
    "dreambooth.backbones.flux2_klein.Flux2KleinBackbone.load",
    "dreambooth.backbones.flux.FluxBackbone.load",
    "dreambooth.backbones.stable_diffusion.StableDiffusionBackbone.load",
    "dreambooth.backbones.stable_diffusion_xl.StableDiffusionXLBackbone.load",
)
_INDEX = "model_index.json"  # in the folder of each such model

# Those that may also be one file.
_FROM_FILE = {name for name in _FROM_HUB if ".stable_diffusion" in name}

_silent_since: dict[str, float] = {}  # a server that did not answer -> when


def check_model(config: Mapping[str, Any]) -> None:
    """ValueError if the model of a run is in no folder, not in the cache, and not on the Hub."""
    backbone = config["model"]["backbone"]
    source = str(backbone.get("pretrained"))
    if backbone.get("_target_") not in _FROM_HUB:
        return
    if (revision := backbone.get("revision")) is not None:
        read(Text, revision, "model.backbone.revision")
    if Path(source).expanduser().is_file() and backbone["_target_"] not in _FROM_FILE:
        raise ValueError(
            f"model {source!r} cannot be used: this model is not read from one file; give "
            "model.backbone.pretrained=, a Hub id or a folder in the diffusers layout"
        )
    if (Path(source).expanduser() / "base" / _INDEX).is_file():
        return  # a folder with all stages of a cascade
    for key, pretrained in sources_of(backbone).items():
        folder, problem = Path(pretrained).expanduser(), absence_of(pretrained, _INDEX, revision)
        if folder.exists() and not (folder / _INDEX).is_file():
            problem = f"model {pretrained!r} cannot be used (it has no {_INDEX})"
        if problem:
            raise ValueError(
                f"{problem}; give model.backbone.{key}=/path/to/folder with the model in the "
                "diffusers layout"
            )


def sources_of(backbone: Mapping[str, Any]) -> dict[str, str]:
    """Where the configs of a model are, by key of `model.backbone`: folders or ids on the Hub.

    ValueError for a file that is not safetensors: to read pickled weights is to run their code. A
    backbone that is none of ours may read any file.
    """
    file = Path(str(backbone.get("pretrained"))).expanduser()
    if file.is_file() and backbone.get("_target_") in (None, *_FROM_HUB):
        if file.suffix != ".safetensors" or not backbone.get("config"):
            raise ValueError(
                f"model {str(file)!r} cannot be used: give a .safetensors file and "
                "model.backbone.config=, a folder or Hub id with its configs; pickled weights are "
                "never read"
            )
        return {"config": str(backbone["config"])}
    keys = ("pretrained", "pretrained_sr")
    return {key: str(backbone[key]) for key in keys if backbone.get(key) is not None}


def commits_of(backbone: Mapping[str, Any]) -> dict[str, str]:
    """The commit of each model that came from the Hub, by its id."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    commits = {}
    for source in sources_of(backbone).values():
        with suppress(HFValidationError):  # no name of a model
            found = try_to_load_from_cache(source, _INDEX, revision=backbone.get("revision"))
            if isinstance(found, str) and not Path(source).expanduser().exists():
                commits[source] = Path(found).parent.name
    return commits


def absence_of(pretrained: str | Path, file: str, revision: str | None = None) -> str:
    """Why a model is neither a folder nor in the cache nor on the Hub; "" if it is one of these.

    `file`: one that every copy of the model has.
    """
    folder = Path(pretrained).expanduser()
    if folder.exists() or is_cached(str(pretrained), file, revision):
        return ""
    if not (problem := problem_of(str(pretrained), revision)):
        return ""
    return (
        f"there is no model {str(pretrained)!r}: no folder {folder.absolute()}, nothing of this "
        f"name in the Hugging Face cache, and {problem}"
    )


def problem_of(repository: str, revision: str | None = None) -> str:
    """Why the Hub cannot deliver a model, at a revision; "" if it can. Known within seconds."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    refusal = (
        "the Hub gives it only to accounts that may read it: accept its licence on "
        f"https://huggingface.co/{repository}, and log in by `hf auth login`"
    )

    def ask() -> str:
        try:
            model = HfApi().model_info(repository, revision=revision, timeout=_timeout_s())
            if model.gated:  # all accounts may read what it is, and only some its files
                HfApi().auth_check(repository)
        except GatedRepoError:
            return refusal
        except RevisionNotFoundError:
            return f"the Hub has no revision {revision} of it"
        except (HFValidationError, RepositoryNotFoundError):
            return "the Hub has no such model, or none that you may read"
        except OfflineModeIsEnabled:
            return "the Hub is not asked (HF_HUB_OFFLINE is set)"
        except HfHubHTTPError as error:
            if error.response.status_code == 403:
                return refusal
            raise
        return ""

    answer = answer_of("the Hub", ask)
    return unreachable("the Hub") if answer is None else answer


def unreachable(server: str) -> str:
    """A sentence for a server without an answer."""
    return f"{server} cannot be reached within {_timeout_s():g} s (HF_HUB_ETAG_TIMEOUT=)"


def answer_of(server: str, ask: Callable[[], str]) -> str | None:
    """What a server answers; None if it fails or takes too long, now or in the last minute."""
    if server in _silent_since and time.monotonic() - _silent_since[server] < 60:
        return None
    answers: list[str] = []

    def keep_answer() -> None:
        with suppress(Exception):  # no network: the libraries raise many kinds
            answers.append(ask())

    # A thread, because looking up a name in the network has no time limit of its own.
    thread = Thread(target=keep_answer, daemon=True)
    thread.start()
    thread.join(_timeout_s())
    if not answers:
        _silent_since[server] = time.monotonic()
    return answers[0] if answers else None


def is_cached(repository: str, file: str, revision: str | None = None) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(repository, file, revision=revision), str)
    except HFValidationError:  # no name of a model
        return False


def _timeout_s() -> float:
    return float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or 3)
