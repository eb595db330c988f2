"""The planned runs of a sweep, and the commands that fill its gaps."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreambooth.reporting.settings import KNOWN, settings_of
from dreambooth.reporting.subjects import subject_of
from dreambooth.runs.cells import read_cells, result_settings
from dreambooth.runs.overrides import assignment

_SPELLINGS = {  # axis -> the override keys that set it
    "lambda": ("prior.lambda", "prior.kind", "prior"),
    "class": ("class", "class.noun", "class.choice"),
    "sr": ("sr", "sr.noise_level", "sr.enabled", "sr.inference_noise_level", "stage"),
    "num_photos": ("subject.num_photos",),
    "identifier": ("identifier", "identifier.kind", "identifier.text", "identifier.seed"),
    "method": ("method",),
    "model": ("model", "model.backbone.pretrained"),
    "seed": ("seed",),
    "subject": (
        *("subject", "subject.class_noun", "subject.seed", "subject.name"),
        *("photos", "subject.photos"),
    ),
}


class PlacedRun(NamedTuple):
    """A run's place in the study, and the overrides that put it there."""

    place: Mapping[str, str]  # its settings, "subject" and "seed"
    overrides: Sequence[str]


def planned(sweep: Path) -> dict[str, list[str]]:
    """Return folder name -> overrides for every run that a sweep planned.

    They are read from sweep.json or, if that does not exist or has no overrides, from Hydra's
    multirun.yaml. If sweep.json has no names either, runs are named by their number. {} if
    multirun.yaml does not list the values, as for an interval.
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
    """Return the axis that an override sets; the override's key, if that is no known axis."""
    key = assignment(override).key
    return next((axis for axis, keys in _SPELLINGS.items() if key in keys), key)


def unresolved_value(override: str) -> str:
    """Return the value as an override spells it; for overrides that no run has resolved."""
    value = assignment(override).value
    value = {"prior=off": "0", "prior=on": "1"}.get(override, value.removeprefix("noise_"))
    return value if axis_of(override) in KNOWN else value or "none"


def place_of(overrides: Sequence[str], runs: Sequence[PlacedRun]) -> dict[str, str]:
    """Return the place of a missing run by its overrides and the runs that exist.

    Its settings are those of a run that differs in subject and seed only. Without such a run they
    are those that its overrides compose today, as its command will. If Hydra cannot compose them,
    they are those of the run with which it shares the most overrides, with the values of its own
    overrides and without the settings that may depend on these, such as the learning rate of an
    adapter.
    """
    same = [run for run in runs if _of_cell(*run.overrides) == _of_cell(*overrides)]
    subjects = [_of_subject(*run.overrides) for run in runs]
    composed = None
    if not same or _of_subject(*overrides) not in subjects:
        composed = _composed(*overrides)
    if composed and not same:
        return composed
    nearest = max(same or runs, key=lambda run: len(set(run.overrides) & set(overrides)))
    axes = dict.fromkeys(map(axis_of, overrides))
    certain = nearest.place if same else (*KNOWN, "subject", "seed", *axes)
    place = {axis: value for axis, value in nearest.place.items() if axis in certain}
    for axis in axes:
        of_axis = [o for o in overrides if axis_of(o) == axis]
        same_overrides = (
            run.place for run in runs if [o for o in run.overrides if axis_of(o) == axis] == of_axis
        )
        donor = next(same_overrides, None)
        if donor is not None and axis in donor:
            place[axis] = donor[axis]
        elif composed and axis == "subject":
            place[axis] = composed[axis]
        elif axis in place:
            place[axis] = unresolved_value(of_axis[-1])
    return place


@cache
def _of_cell(*overrides: str) -> frozenset[tuple[str, str]]:
    """The overrides that the runs of a cell share, in any order."""
    own = [o for o in overrides if axis_of(o) not in ("subject", "seed")]
    return frozenset(result_settings(own).items())


def _of_subject(*overrides: str) -> list[str]:
    return [override for override in overrides if axis_of(override) == "subject"]


def _composed(*overrides: str) -> dict[str, str] | None:
    """Return the place of a new run; None outside of Hydra's commands, or if it cannot compose."""
    on_a_run = any(assignment(o).key == "run" for o in overrides)  # it has that run's settings, too
    if on_a_run or not GlobalHydra.instance().is_initialized():
        return None
    try:
        config = OmegaConf.to_container(compose("train", list(overrides)), resolve=True)
    except (HydraException, OmegaConfBaseException):
        return None
    assert isinstance(config, dict)
    found = {str(key): value for key, value in config.items()}
    return {**settings_of(found), "subject": subject_of(found), "seed": str(found["seed"])}


def recombine_overrides(wanted: Mapping[str, str], runs: Sequence[PlacedRun]) -> list[str]:
    """Return the overrides of a missing run, assembled from those of existing runs.

    They are the overrides of the run nearest to `wanted`. On each axis where that run differs, they
    are replaced by those of a run with the wanted value.
    """

    def distance(run: PlacedRun) -> int:
        return sum(run.place.get(axis) != value for axis, value in wanted.items())

    nearest = min(runs, key=distance)
    overrides = list(nearest.overrides)
    for axis in (axis for axis, value in wanted.items() if nearest.place.get(axis) != value):
        donor = next(run.overrides for run in runs if run.place.get(axis) == wanted[axis])
        position = next((i for i, o in enumerate(overrides) if axis_of(o) == axis), len(overrides))
        overrides = [o for o in overrides if axis_of(o) != axis]
        overrides[position:position] = [o for o in donor if axis_of(o) == axis]
    return overrides


def train_command(overrides: Iterable[str], folder: Path | None = None) -> str:
    """Return the command of a run; into `folder`, if one is given."""
    run_dir = [] if folder is None else [f"hydra.run.dir={quoted(str(folder))}"]
    return shlex.join(["python", "src/train.py", *overrides, *run_dir])


def external_command(config: Mapping[str, Any], folder: Path) -> str:
    """Return the command that scores another system's images."""
    overrides = [o for o in config.get("overrides", []) if assignment(o).key != "method"]
    images, into, name = map(quoted, (str(config.get("images")), str(folder.parent), folder.name))
    arguments = [f"images={images}", *overrides, f"into={into}", f"name={name}"]
    return shlex.join(["python", "src/evaluate.py", *arguments])


def quoted(text: str, always: bool = False) -> str:
    """Quote text as a value for Hydra's override parser; the shell needs quotes of its own."""
    plain = all(c.isalnum() or c in "/-_.:+@" for c in text)
    if plain and text and not always:
        return text
    # Backslashes before a quote or the end are doubled, and quotes escaped: a\"b -> "a\\\"b".
    escaped = re.sub(r'(\\*)("|$)', lambda m: 2 * m[1] + '\\"' * bool(m[2]), text)
    escaped = escaped.replace("${", "\\${")
    return f'"{escaped}"'
