"""The names of sweep folders and cell folders, and the list of cells in sweep.json.

Folders are named by what is swept, in the order of the command line, and not by the time, so that a
repeated command finds its earlier results:

runs/lambda+class/lambda-0+class-none         for prior.lambda=0,1 class=none,wrong,correct
runs/lambda+class_78a50dd2/...                for the same sweep with subject=olive

The hash stands for all settings that the cells share. It does not depend on any order.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from typing import Any

from dreambooth.runs.configs import read_config
from dreambooth.runs.files import write_atomically
from dreambooth.runs.overrides import assignment
from dreambooth.runs.records import damaged
from dreambooth.runs.run import Run, holds_a_run

EXECUTION_KEYS = (
    "force",
    "launcher",
    "objective",
    "report",
)  # these do not change the result of a run
_MAX_CHARACTERS = 100  # of a folder name


def affects_result(override: str) -> bool:
    """Whether an override changes the result of a run, and not just how it is executed."""
    return re.split("[.@]", assignment(override).key)[0] not in EXECUTION_KEYS


def sweep_name(swept: Sequence[str], fixed: Mapping[str, str]) -> str:
    """The name of a sweep folder: the swept keys, and a hash if the cells share other settings."""
    short = _short_keys(swept)
    shared = "+".join(f"{key}={value}" for key, value in sorted(fixed.items()))
    return _folder_name([short[key] for key in swept], shared)


def sweep_folder(root: Path, swept: Sequence[str], fixed: Mapping[str, str]) -> Path:
    """The folder of a sweep in `root`: an earlier one of its keys in any order, or a new one."""
    folder = root / sweep_name(swept, fixed)
    others = [] if folder.exists() or not root.is_dir() else sorted(root.iterdir())
    for other in others:
        order = order_in(other.name, swept)
        if order and sweep_name(order, fixed) == other.name:
            return other
    return folder


def order_in(name: str, keys: Collection[str]) -> list[str]:
    """The keys in the order in which the name of a folder has them; [] if it lacks one of them."""
    stem = re.sub("_[0-9a-f]{8}$", "", name)
    found = {
        key: re.search(rf"(^|\+){re.escape(short)}(?=[-+]|$)", stem)
        for key, short in _short_keys(keys).items()
    }
    places = {key: match.start() for key, match in found.items() if match}
    return sorted(places, key=lambda key: places[key]) if len(places) == len(keys) else []


def cell_name(overrides: Sequence[str], fixed: Collection[str] = ()) -> str:
    """The name of a cell folder: the cell's overrides, without the keys that all cells share."""
    varying = {key: value for key, value in result_settings(overrides).items() if key not in fixed}
    short = _short_keys(varying)
    return _folder_name([f"{short[key]}-{value}" for key, value in varying.items()])


def result_settings(overrides: Sequence[str]) -> dict[str, str]:
    """Key -> value of the overrides that affect the result. The last override of a key wins."""
    assignments = [assignment(text) for text in overrides if affects_result(text)]
    return {f"{a.prefix.strip('+')}{a.key}": a.value for a in assignments}


def _short_keys(keys: Collection[str]) -> dict[str, str]:
    """Map each key to its last part (`prior.lambda` -> `lambda`), or to itself if ambiguous."""
    by_last_part = groupby(sorted(keys, key=_last_part), _last_part)
    unique = {last for last, group in by_last_part if len(list(group)) == 1}
    return {key: _last_part(key) if _last_part(key) in unique else key for key in keys}


def _last_part(key: str) -> str:
    return key.rpartition(".")[2]


def _folder_name(parts: Sequence[str], shared: str = "") -> str:
    """Join parts by "+" into a name that is safe for file systems and shells; "all" without parts.

    If there is shared text, or the joined text is too long or holds other characters than a-z,
    0-9, ".", "_" and "-", these are replaced, the name is cut, and a hash of all text is appended.
    """
    full = "+".join(parts) or "all"
    safe = "+".join(re.sub("[^a-z0-9._-]+", "-", part.lower()).strip("-.") for part in parts)
    safe = safe or "all"
    fits = safe == full and len(full) <= _MAX_CHARACTERS and not full.startswith((".", "-"))
    if fits and not shared:
        return full
    text = f"{full}+{shared}" if shared else full
    return f"{safe[: _MAX_CHARACTERS - 20]}_{blake2b(text.encode(), digest_size=4).hexdigest()}"


def find_runs(folder: Path) -> list[Run]:
    """All runs of a sweep folder, damaged and missing ones included.

    The cells of sweep.json come first, in its order. Other subfolders with a config.yaml or a
    status.json follow. ValueError if the folder does not exist.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no sweep folder {folder}")
    cells = read_cells(folder)
    others = [child.name for child in folder.iterdir() if holds_a_run(child)]
    others.sort(key=lambda name: (len(name) if name.isdecimal() else 0, name))
    return [_load_any(folder / name) for name in dict.fromkeys([*cells, *others])]


def write_cells(folder: Path, cells: Mapping[str, Sequence[str]]) -> None:
    """Write sweep.json: the folder name and the overrides of each cell, in the order of the sweep.

    Cells that sweep.json already lists are kept, after the new ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    earlier = {name: old for name, old in read_cells(folder).items() if name not in cells}
    content = {"cells": {**cells, **earlier}}
    write_atomically(folder / "sweep.json", f"{json.dumps(content, indent=2)}\n".encode())


def read_cells(folder: Path) -> dict[str, list[str]]:
    """Read sweep.json: the name of each cell folder -> the cell's overrides.

    {} if the folder has no sweep.json. ValueError if the file is damaged.
    """
    path = folder / "sweep.json"
    try:
        cells = json.loads(path.read_bytes())["cells"] if path.exists() else {}
        return {name: [] for name in cells} if isinstance(cells, list) else dict(cells)
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error


def _load_any(folder: Path) -> Run:
    """Load a run even if it is missing (empty config) or damaged (`damage` says why)."""
    config: Mapping[str, Any] = {}
    if not holds_a_run(folder):
        return Run(folder, config)
    try:
        config = read_config(folder)
        Run(folder, config).status()
    except ValueError as error:
        return Run(folder, config, damage=str(error))
    return Run(folder, config)
