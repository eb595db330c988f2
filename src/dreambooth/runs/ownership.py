"""Which folders are a run's, and which of the files in them.

A run starts only in a folder that is new or empty, or in the folder of a run, and it deletes only
what a run has written.
"""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

import yaml

from dreambooth.runs.status import STATES

MARKER = ".dreambooth-run"
MARKER_TEXT = (
    b"This folder belongs to a run of src/train.py or src/evaluate.py: see docs/runs.md.\n"
)
WRITTEN = ".written.json"  # in weights/: the files that the run has written there
RUN_SETS = ("photos", "before", "prompts", "class", "originals", "restored")
"""The image sets that a run writes itself, and scores or shows."""

_OF_HYDRA = (".hydra", "train.log", "output.log")
# What Hydra, a launcher, the lock and the system write before a run begins.
_BEFORE_A_RUN = (".hydra", "*.log", ".lock", ".*.partial", ".DS_Store")
_CHECKPOINT = re.compile(r"\w+-(\d{8}\.ckpt|trained\.pt)")
_WEIGHT_SUFFIXES = (".json", ".safetensors", ".txt", ".model")
_PICTURE = re.compile(r".*-\d{3,}\.png")


def check_folder(folder: Path) -> None:
    """ValueError unless the folder is new or empty, or that of a run.

    Files that Hydra or a launcher writes before a run begins do not count.
    """
    if not folder.is_dir() or is_a_runs(folder):
        return
    names = sorted(path.name for path in folder.iterdir())
    others = [n for n in names if not any(fnmatch(n, pattern) for pattern in _BEFORE_A_RUN)]
    if others:
        shown = ", ".join(others[:3]) + (" ..." if len(others) > 3 else "")
        raise ValueError(
            f"{folder} is not the folder of a run, and it holds other files ({shown}): "
            "give a new or an empty folder"
        )


def is_a_runs(folder: Path) -> bool:
    """Whether a folder has the marker of a run or, as older runs, a run's config and status."""
    if (folder / MARKER).exists():
        return True
    status, config = _content(folder / "status.json"), _content(folder / "config.yaml")
    known = isinstance(status, dict) and status.get("state") in STATES and "progress" in status
    ours = isinstance(config, dict) and isinstance(config.get("overrides"), list)
    return known or (ours and (folder / "status.json").exists())


def delete_written(folder: Path, names: Iterable[str], rest: Path | None = None) -> None:
    """Delete what a run has written of `names` in its folder, and the folders left empty.

    Other files are moved to the same place below `rest`, if nothing is there; else they stay.
    """
    weights = _content(folder / "weights" / WRITTEN)
    for top in [folder / name for name in names]:
        inside = sorted(top.rglob("*"), reverse=True) if not top.is_symlink() else []
        for path in [*inside, top]:
            relative = path.relative_to(folder)
            with suppress(OSError):  # it is gone already, or a folder that is not empty
                if path.is_dir() and not path.is_symlink():
                    path.rmdir()
                elif _is_written(relative, weights):
                    path.unlink()
                elif rest is not None and not (rest / relative).exists():
                    (rest / relative).parent.mkdir(parents=True, exist_ok=True)
                    path.rename(rest / relative)


def delete_run(folder: Path, names: Iterable[str]) -> None:
    """Delete a run folder with all that a run, which has written `names`, and Hydra have written.

    With other files in it, the folder stays.
    """
    delete_written(folder, [*names, MARKER, *_OF_HYDRA, ".lock"])
    with suppress(OSError):  # it is not empty
        folder.rmdir()


def _is_written(path: Path, weights: object) -> bool:
    """Whether a run has written a file, by its path in the run folder.

    `weights`: the paths in weights/ that the run has recorded; None for older runs, whose files
    are known by their suffixes.
    """
    top, *below = path.parts
    if top == "checkpoints":
        return bool(below) and _CHECKPOINT.fullmatch(below[0]) is not None
    if top == "weights":
        if isinstance(weights, list):
            return "/".join(below) in [*weights, WRITTEN]
        return path.suffix in _WEIGHT_SUFFIXES
    if top == "images":
        known = bool(below) and below[0] in (*RUN_SETS, *(f"{name}.png" for name in RUN_SETS))
        return known and (len(below) == 1 or _PICTURE.fullmatch(below[-1]) is not None)
    return True


def _content(path: Path) -> object:
    """The content of a JSON or YAML file; None if it is missing or damaged."""
    try:
        text = path.read_bytes()
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return None
