"""What a sweep was to run, and the commands that fill its gaps."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from dreambooth.reporting.settings import KNOWN
from dreambooth.runs.cells import read_cells
from dreambooth.runs.overrides import assignment

_SPELLINGS = {  # axis -> the overrides that say it
    "lambda": ("prior.lambda", "prior"),
    "class": ("class", "class.noun", "class.choice"),
    "sr": ("sr", "sr.noise_level", "sr.enabled", "sr.inference_noise_level", "stage"),
    "num_photos": ("subject.num_photos",),
    "identifier": ("identifier", "identifier.kind", "identifier.text", "identifier.seed"),
    "method": ("method",),
    "model": ("model", "model.backbone.pretrained"),
    "seed": ("seed",),
    "subject": ("subject", "subject.class_noun", "subject.seed", "subject.name", "photos"),
}


def planned(sweep: Path) -> dict[str, list[str]]:
    """Folder name -> overrides of every run that a sweep was to have, by its sweep.json.

    Where that has no overrides or is not there, by Hydra's multirun.yaml, and then {} where that
    does not list the values, as of an interval; runs without names are named by their number.
    """
    try:
        cells = read_cells(sweep)
        if any(cells.values()):
            return {name: overrides for name, overrides in cells.items() if overrides}
        content = yaml.safe_load((sweep / "multirun.yaml").read_text())
        task = list(map(str, content["hydra"]["overrides"]["task"]))
        jobs = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(task), None)[0]
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, HydraException):
        return {}
    names = list(cells)[: len(jobs)] or [str(number) for number in range(len(jobs))]
    return dict(zip(names, jobs, strict=False))


def axis_of(override: str) -> str:
    """The axis that an override's key speaks of; the key itself, if none."""
    key = assignment(override).key
    return next((axis for axis, keys in _SPELLINGS.items() if key in keys), key)


def literal(override: str) -> str:
    """What an override says, where no run tells what it resolves to."""
    value = assignment(override).value
    value = {"prior=off": "0", "prior=on": "1"}.get(override, value.removeprefix("noise_"))
    return value if axis_of(override) in KNOWN else value or "none"


def recombined(
    wanted: Mapping[str, str], runs: Sequence[tuple[Mapping[str, str], Sequence[str]]]
) -> list[str]:
    """Overrides of a run that is not there, from those that are: (coordinates, overrides) each.

    The run nearest to `wanted` gives everything; where it differs, a run with the wanted value.
    """

    def distance(run: tuple[Mapping[str, str], Sequence[str]]) -> int:
        return sum(run[0].get(axis) != value for axis, value in wanted.items())

    nearest, overrides = min(runs, key=distance)
    found = list(overrides)
    for axis in (axis for axis, value in wanted.items() if nearest.get(axis) != value):
        donor = next(said for at, said in runs if at.get(axis) == wanted[axis])
        place = next((i for i, o in enumerate(found) if axis_of(o) == axis), len(found))
        found = [o for o in found if axis_of(o) != axis]
        found[place:place] = [o for o in donor if axis_of(o) == axis]
    return found


def train_command(overrides: Iterable[str], folder: Path | None = None) -> str:
    """The command of a run, into its own folder if one is given."""
    into = [] if folder is None else [f"hydra.run.dir={quoted(str(folder))}"]
    return shlex.join(["python", "src/train.py", *overrides, *into])


def external_command(config: Mapping[str, Any], folder: Path) -> str:
    """The command that scores another system's images."""
    said = [o for o in config.get("overrides", []) if assignment(o).key != "method"]
    images, into, name = map(quoted, (str(config.get("images")), str(folder.parent), folder.name))
    places = [f"images={images}", *said, f"into={into}", f"name={name}"]
    return shlex.join(["python", "src/evaluate.py", *places])


def quoted(text: str, always: bool = False) -> str:
    """Text as a value of Hydra's command line, before the shell's own quotes."""
    plain = all(c.isalnum() or c in "/-_.:+@" for c in text)
    if plain and text and not always:
        return text
    escaped = re.sub(r'(\\*)("|$)', lambda m: 2 * m[1] + '\\"' * bool(m[2]), text)
    escaped = escaped.replace("${", "\\${")
    return f'"{escaped}"'
