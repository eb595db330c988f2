"""Reading a run's config.yaml, and comparing two configs or the hashes of two sets of inputs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from dreambooth.runs.records import damaged
from dreambooth.runs.settings import read
from dreambooth.runs.values import Count

CHANGE_NO_RESULT = (
    *("prior.cache", "method.checkpoint_every", "callbacks.checkpoints.every_n_steps"),
    "model.backbone.batch_size",
)
"""The keys in which a run that is resumed may differ from what it began with."""


def read_config(folder: Path) -> dict[str, Any]:
    """Read the config.yaml of a run folder. ValueError if it is missing or damaged."""
    path = folder / "config.yaml"
    if not path.exists():
        raise ValueError(f"the run in {folder} is damaged: config.yaml is missing")
    try:
        config = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise damaged(path, " ".join(str(error).split())) from error
    if not isinstance(config, dict):
        raise damaged(path, "it is not a mapping of keys to values")
    return config


def with_batch_size(config: Mapping[str, Any], batch_size: Any) -> Mapping[str, Any]:
    """A run's config, whose model draws `batch_size` images at once; None: as many as before.

    ValueError if that is no number from 1 up, or if the model has no such setting.
    """
    if batch_size is None:
        return config
    key, model = "model.backbone.batch_size", config["model"]
    if "batch_size" not in model["backbone"]:
        raise ValueError(f"{key}={batch_size}: this run's model has no such setting, leave it out")
    changed = {"batch_size": read(Count, batch_size, key)}
    return {**config, "model": {**model, "backbone": {**model["backbone"], **changed}}}


def differences_of(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Describe the first three keys in which two configs differ, and count the others."""
    a, b = dict(_leaves(there)), dict(_leaves(here))
    # Values are compared as text, because NaN != NaN and 1 == True.
    keys = [k for k in {**a, **b} if repr(a.get(k)) != repr(b.get(k)) or (k in a) != (k in b)]
    words = [f"{k} is {a.get(k, 'absent')} there and {b.get(k, 'absent')} here" for k in keys[:3]]
    return words + [f"and {len(keys) - 3} more"] * (len(keys) > 3)


def changed_inputs(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Describe the first three differences between the hashes of a run's inputs and those of now.

    A file with another name and the same content has been renamed.
    """
    new = {digest: name for name, digest in here.items() if name not in there}
    words, renamed = [], set()
    for name, digest in there.items():
        if name not in here and digest in new:
            renamed.add(new[digest])
            words.append(f"{name} is now {new[digest]}")
        elif name not in here:
            words.append(f"{name} is gone")
        elif here[name] != digest:
            words.append(f"{name} has changed")
    words += [f"{name} is new" for name in here if name not in there and name not in renamed]
    return words[:3] + [f"and {len(words) - 3} more"] * (len(words) > 3)


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of each leaf. Leaves out `overrides`, which the other keys reflect,
    `report`, which old configs have, and what changes no result."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" not in ("overrides", "report", *CHANGE_NO_RESULT):
            yield f"{prefix}{key}", value
