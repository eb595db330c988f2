"""The folders of a sweep and of its cells, named by what is swept and not by the time: the same
command finds what it has done.

runs/class+lambda/class-none+lambda-0         of prior.lambda=0,1 class=none,wrong,correct
runs/class+lambda+subject-olive/...           the same with subject=olive
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

_LONGEST = 100  # characters of a name
HOW = ("force", "launcher", "objective")  # keys that say how a run is done, and not what it is


def of_the_result(override: str) -> bool:
    """Whether an override says what is run, and not just how."""
    return re.split("[.@]", assignment(override).key)[0] not in HOW


def sweep_name(swept: Collection[str], fixed: Mapping[str, str]) -> str:
    """Of the keys that are swept, and the keys and values that all cells have besides."""
    short = _short([*swept, *fixed])
    return _name([short[key] for key in sorted(swept)] + _pairs(fixed, short))


def cell_name(overrides: Sequence[str], fixed: Collection[str] = ()) -> str:
    """Of a cell's overrides, but for the keys that all cells share."""
    own = {key: value for key, value in settings(overrides).items() if key not in fixed}
    return _name(_pairs(own, _short(own))) or "all"


def settings(overrides: Sequence[str]) -> dict[str, str]:
    """Keys and values of the overrides that say what is run; of a key said twice, the last."""
    said = [assignment(text) for text in overrides if of_the_result(text)]
    return {f"{one.prefix.strip('+')}{one.key}": one.value for one in said}


def _pairs(chosen: Mapping[str, str], short: Mapping[str, str]) -> list[str]:
    return [f"{short[key]}-{value}" for key, value in sorted(chosen.items())]


def _short(keys: Collection[str]) -> dict[str, str]:
    """`lambda` of `prior.lambda`, where only one key ends so."""
    by_end = groupby(sorted(keys, key=_end), _end)
    alone = {end for end, group in by_end if len(list(group)) == 1}
    return {key: _end(key) if _end(key) in alone else key for key in keys}


def _end(key: str) -> str:
    return key.rpartition(".")[2]


def _name(parts: Sequence[str]) -> str:
    """Parts joined by "+"; where that is long, or has what a file system or a shell may not take,
    shortened to what they do, with a hash of it all."""
    whole = "+".join(parts)
    plain = "+".join(re.sub("[^a-z0-9._-]+", "-", part.lower()).strip("-.") for part in parts)
    if plain == whole and len(whole) <= _LONGEST and not whole.startswith((".", "-")):
        return whole
    return f"{plain[: _LONGEST - 20]}_{blake2b(whole.encode(), digest_size=4).hexdigest()}"


def find_runs(folder: Path) -> list[Run]:
    """The runs of a sweep folder, damaged and missing ones included: the cells of the sweep in its
    order, then its other subfolders with a config.yaml or status.json."""
    if not folder.is_dir():
        raise ValueError(f"there is no sweep folder {folder}")
    cells = read_cells(folder)
    others = [child.name for child in folder.iterdir() if holds_a_run(child)]
    others.sort(key=lambda name: (len(name) if name.isdecimal() else 0, name))
    return [_found(folder / name) for name in dict.fromkeys([*cells, *others])]


def write_cells(folder: Path, cells: Mapping[str, Sequence[str]]) -> None:
    """sweep.json: the cells of a sweep in its order, as names of folders with their overrides, and
    after them those that were there."""
    folder.mkdir(parents=True, exist_ok=True)
    earlier = {name: said for name, said in read_cells(folder).items() if name not in cells}
    content = {"cells": {**cells, **earlier}}
    write_atomically(folder / "sweep.json", f"{json.dumps(content, indent=2)}\n".encode())


def read_cells(folder: Path) -> dict[str, list[str]]:
    """Name of each cell's folder -> its overrides; {} where the folder is not that of a sweep.
    ValueError where the file is damaged."""
    path = folder / "sweep.json"
    try:
        cells = json.loads(path.read_bytes())["cells"] if path.exists() else {}
        return {name: [] for name in cells} if isinstance(cells, list) else dict(cells)
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error


def _found(folder: Path) -> Run:
    config: Mapping[str, Any] = {}
    if not holds_a_run(folder):
        return Run(folder, config)
    try:
        config = read_config(folder)
        Run(folder, config).status()
    except ValueError as error:
        return Run(folder, config, damage=str(error))
    return Run(folder, config)
