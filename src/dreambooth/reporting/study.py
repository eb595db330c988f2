"""Reads run folders into a study: its cells, their trials and its gaps. Opens no image file."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from dreambooth.reporting.missing_runs import (
    PlacedRun,
    axis_of,
    external_command,
    place_of,
    planned,
    recombine_overrides,
    train_command,
)
from dreambooth.reporting.settings import (
    ABSENT,
    KNOWN,
    key_of,
    label_of,
    order_of,
    settings_of,
)
from dreambooth.reporting.subjects import names_of, subject_of
from dreambooth.runs.cells import cell_name, find_runs, result_settings
from dreambooth.runs.files import Score
from dreambooth.runs.records import Metric
from dreambooth.runs.run import Run
from dreambooth.runs.status import Status, describe
from dreambooth.subjects.prompt_sets import application_of

_SYSTEM = ("method", "model", "adapter")  # they have defaults of their own


@dataclass(frozen=True, eq=False)
class Trial:
    """One run: its settings, how it ended, and everything that it measured."""

    run: Run  # the folder of a missing run does not exist
    settings: Mapping[str, str]  # axis -> value, for every axis of the study: {"lambda": "0"}
    subject: str  # "biscuit", "dog 501" (a drawn subject without a name), or the photos' folder
    seed: str  # "" for images of another system
    status: Status
    metrics: Mapping[str, Metric]  # empty unless the run is finished
    rows: Sequence[Mapping[str, Score]]  # scores.csv; empty unless the run is finished
    history: Sequence[Mapping[str, float]]  # history.csv: `step` and the values logged at it
    provenance: Mapping[str, Any]  # provenance.json; {} in older run folders
    command: str  # repeats a finished run, or completes an unfinished one in its own folder
    prompts: Mapping[str, str] = field(default_factory=dict)  # prompts.json: what each asks for

    def family_of(self, template: str) -> str:
        """What a prompt asks for; "" if it is not known."""
        return self.prompts.get(template) or application_of(template)


@dataclass(frozen=True, eq=False)
class Cell:
    """The trials with the same settings; they differ in subject and seed only."""

    key: str  # for ids and file names: letters, digits and "-"; unique in the study
    label: str  # "lambda 0, no class noun"
    settings: Mapping[str, str]
    trials: tuple[Trial, ...]  # including missing ones

    @property
    def finished(self) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.trials if trial.status.state == "finished")


@dataclass(frozen=True, eq=False)
class Study:
    """The cells of one or several sweeps."""

    name: str  # the names of its folders, joined by "+"
    folders: tuple[Path, ...]
    axes: tuple[str, ...]  # the settings that vary: lambda, class, sr, num_photos, identifier ...
    fixed: Mapping[str, str]  # known axis -> its value, for those that do not vary
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]  # warnings to the reader: damaged files, mixed code, duplicate runs

    @property
    def trials(self) -> tuple[Trial, ...]:
        return tuple(trial for cell in self.cells for trial in cell.trials)

    @property
    def subjects(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(trial.subject for trial in self.trials))


def read_study(folders: Sequence[Path]) -> Study:
    """Read sweep folders, complete or not, into one study. A folder may also be that of one run.

    Runs with the same resolved settings, subject and seed are one trial, however their overrides
    were typed; the finished run that ended last is used. Cells are sorted by the values of their
    axes. Raises ValueError if a folder does not exist or none of them contains a run.
    """
    notes: list[str] = []
    all_trials: list[Trial] = []
    for folder in folders:
        all_trials += _trials_of(folder, notes)
    if not all_trials:
        raise ValueError(
            f"there are no runs in {' and '.join(map(str, folders))}: give the folder of a sweep, "
            "as in sweep=runs/lambda+class"
        )
    names = names_of([(trial.run, trial.subject) for trial in all_trials])
    named = [replace(t, subject=name) for t, name in zip(all_trials, names, strict=True)]
    trials = _name_external_systems(named)
    axes = _axes(trials, notes)
    trials = _without_duplicates([_on_axes(trial, axes) for trial in trials], notes)
    values = {axis: trial.settings[axis] for trial in all_trials for axis in trial.settings}
    cells = _cells(trials, axes)
    _note_mixed_sources(trials, notes)
    _note_unscored(trials, notes)
    return Study(
        name="+".join(dict.fromkeys(folder.resolve().name for folder in folders)),
        folders=tuple(folders),
        axes=axes,
        fixed={axis: values[axis] for axis in KNOWN if axis in values and axis not in axes},
        cells=cells,
        notes=tuple(dict.fromkeys(notes)),
    )


def _trials_of(folder: Path, notes: list[str]) -> list[Trial]:
    """Return the trials of one folder with all their settings.

    Missing runs are those of the sweep's plan or, without a plan, of the full product of the values
    that vary.
    """
    if (folder / "config.yaml").exists():
        run_folder = folder.resolve()
        (run,) = (run for run in find_runs(run_folder.parent) if run.folder == run_folder)
        return [_trial(run, run.config, notes)]
    plan = planned(folder)
    trials: list[Trial] = []
    without_config: dict[str, Run] = {}
    for run in find_runs(folder):
        if run.config:
            trials.append(_trial(run, run.config, notes))
        else:
            without_config[run.folder.name] = run
    placed = [_placed(trial) for trial in trials if trial.settings.get("method") != "external"]
    names = {trial.run.folder.name for trial in trials}
    if placed:
        for name, overrides in plan.items():
            if name not in names:
                run = without_config.pop(name, Run(folder / name, {}))
                trials.append(_gap(run, place_of(overrides, placed), overrides))
    if not plan and placed:
        gaps = _product_gaps(folder, placed, without_config)
        trials += [gap for gap in gaps if gap.run.folder.name not in names]
    for run in without_config.values():
        reason = describe(run.status())
        notes.append(f"run {run.folder} is left out because its settings are unknown: {reason}")
    return trials


def _trial(run: Run, config: Mapping[str, Any], notes: list[str]) -> Trial:
    metrics: Mapping[str, Metric] = {}
    rows: Sequence[Mapping[str, Score]] = []
    try:
        status = run.status()
        if status.state == "finished":
            metrics, rows = run.read_metrics(), run.read_scores()
    except ValueError as error:
        status = Status("damaged", str(error))
        metrics = {}
    history: Sequence[Mapping[str, float]] = []
    provenance: Mapping[str, Any] = {}
    prompts: Mapping[str, str] = {}
    try:
        history, provenance = run.read_history(), run.read_provenance()
        prompts = run.read_prompts()
    except ValueError as error:
        notes.append(f"{error}: this file is ignored, the run's scores are used")
    settings = settings_of(config)
    if settings.get("method") == "external":
        command = external_command(config, run.folder)
    else:
        command = _command(run, status, config.get("overrides", []))
    seed = config.get("seed")
    return Trial(
        run,
        settings,
        subject_of(config),
        "" if seed is None else str(seed),
        status,
        metrics,
        rows,
        history,
        provenance,
        command,
        prompts,
    )


def _placed(trial: Trial) -> PlacedRun:
    place = {**trial.settings, "subject": trial.subject, "seed": trial.seed}
    return PlacedRun(place, trial.run.config.get("overrides", []))


def _product_gaps(
    folder: Path, placed: Sequence[PlacedRun], without_config: dict[str, Run]
) -> list[Trial]:
    """Return a trial for each gap in the full product of the overrides' values in a folder.

    What varies beside them, such as the learning rate of an adapter, follows from them. The run
    folder of a gap has the name that a sweep would give it. A run of that name is taken out of
    `without_config`.
    """
    values: dict[str, dict[str, None]] = {}  # ordered sets
    for run in placed:
        for axis, value in run.place.items():
            values.setdefault(axis, {})[value] = None
    named = {axis_of(override) for run in placed for override in run.overrides}
    varying = {axis: of_axis for axis, of_axis in values.items() if len(of_axis) > 1}
    varying = {axis: of_axis for axis, of_axis in varying.items() if axis in named}
    if any(axis not in run.place for run in placed for axis in varying):
        return []  # the runs do not form one product
    if math.prod(map(len, varying.values())) > 4 * len(placed):
        return []  # several sweeps in one folder
    present = {tuple(run.place[axis] for axis in varying) for run in placed}
    shared = set.intersection(*(set(result_settings(run.overrides).items()) for run in placed))
    gaps = []
    for combination in product(*varying.values()):
        if combination not in present:
            wanted = dict(zip(varying, combination, strict=True))
            overrides = recombine_overrides(wanted, placed)
            name = cell_name(overrides, dict(shared))
            missing = without_config.pop(name, Run(folder / name, {}))
            gaps.append(_gap(missing, {**place_of(overrides, placed), **wanted}, overrides))
    return gaps


def _command(run: Run, status: Status, overrides: Sequence[str]) -> str:
    """Return the command that repeats or resumes a run, after deleting what is damaged."""
    if status.state == "finished":
        return train_command(overrides)
    command = train_command(overrides, run.folder)
    if status.state != "damaged":
        return command
    path = run.folder if run.damage else run.folder / "status.json"
    return f"rm -r {shlex.quote(str(path))} && {command}"


def _gap(run: Run, place: Mapping[str, str], overrides: Sequence[str]) -> Trial:
    settings = {key: value for key, value in place.items() if key not in ("subject", "seed")}
    status = run.status()
    command = _command(run, status, overrides)
    return Trial(run, settings, place["subject"], place["seed"], status, {}, [], [], {}, command)


def _name_external_systems(trials: Sequence[Trial]) -> list[Trial]:
    """Name external systems by their folders if two of them have images of the same subject."""
    external = [t for t in trials if t.settings.get("method") == "external"]
    if len({t.subject for t in external}) == len(external):
        return list(trials)
    methods = {id(t): f"external {t.run.folder.name}" for t in external}
    return [
        replace(t, settings={"method": methods[id(t)]}) if id(t) in methods else t for t in trials
    ]


def _without_duplicates(trials: Sequence[Trial], notes: list[str]) -> list[Trial]:
    kept: dict[tuple[Any, ...], Trial] = {}
    for trial in trials:
        place = (frozenset(trial.settings.items()), trial.subject, trial.seed)
        if place not in kept:
            kept[place] = trial
            continue
        dropped, used = sorted((kept[place], trial), key=_precedence)
        kept[place] = used
        if "missing" not in (dropped.status.state, used.status.state):
            notes.append(
                f"{dropped.run.folder} and {used.run.folder} have the same settings, subject and "
                f"seed: {used.run.folder} is used ({describe(used.status)})"
            )
    return list(kept.values())


def _precedence(trial: Trial) -> tuple[bool, bool, str]:
    """Return a sort key for duplicates, of which the last is used.

    Missing runs are first, then unfinished ones by their start, then finished ones by their end.
    """
    status = trial.status
    finished = status.state == "finished"
    return finished, status.state != "missing", status.ended if finished else status.started


def _axes(trials: Sequence[Trial], notes: list[str]) -> tuple[str, ...]:
    """Return the settings that vary, without those that method, model and adapter fix."""
    values: dict[str, set[str]] = {}
    by_system: dict[str, dict[tuple[str, ...], set[str]]] = {}  # axis -> system -> values
    for trial in trials:
        system = tuple(trial.settings.get(axis, "") for axis in _SYSTEM)
        for axis, value in trial.settings.items():
            values.setdefault(axis, set()).add(value)
            by_system.setdefault(axis, {}).setdefault(system, set()).add(value)
    varying = [axis for axis, of_axis in values.items() if len(of_axis) > 1]
    axes = [axis for axis in varying if axis in KNOWN]
    for axis in (axis for axis in varying if axis not in KNOWN):
        if all(len(of_system) == 1 for of_system in by_system[axis].values()):
            each = "; ".join(
                f"{next(iter(value))} with {', '.join(filter(None, system))}"
                for system, value in by_system[axis].items()
            )
            notes.append(f"{axis} depends on method, model and adapter: {each}")
        else:
            axes.append(axis)
    return tuple(sorted(axes, key=lambda axis: KNOWN.index(axis) if axis in KNOWN else len(KNOWN)))


def _on_axes(trial: Trial, axes: Sequence[str]) -> Trial:
    return replace(trial, settings={axis: trial.settings.get(axis, ABSENT) for axis in axes})


def _cells(trials: Sequence[Trial], axes: Sequence[str]) -> tuple[Cell, ...]:
    groups: dict[tuple[str, ...], list[Trial]] = {}
    for trial in trials:
        groups.setdefault(tuple(trial.settings.values()), []).append(trial)
    order = sorted(groups, key=lambda vs: [order_of(a, v) for a, v in zip(axes, vs, strict=True)])
    subjects = list(dict.fromkeys(trial.subject for trial in trials))  # in the sweep's order
    cells: list[Cell] = []
    for values in order:
        settings = dict(zip(axes, values, strict=True))
        label = label_of(settings) or "all runs"
        of_cell = sorted(groups[values], key=lambda t: (subjects.index(t.subject), t.seed))
        key = key_of(label)
        if any(cell.key == key for cell in cells):
            key = f"{key}-{len(cells)}"
        cells.append(Cell(key, label, settings, tuple(of_cell)))
    return tuple(cells)


def _note_mixed_sources(trials: Sequence[Trial], notes: list[str]) -> None:
    """Add notes if finished runs differ in commit or versions, or had uncommitted changes."""
    known = [t.provenance for t in trials if t.status.state == "finished" and t.provenance]
    commits = dict.fromkeys(p.get("git", {}).get("commit", "")[:10] for p in known)
    if len(commits) > 1:
        notes.append(f"the runs come from several commits: {', '.join(filter(None, commits))}")
    if dirty := sum(bool(p.get("git", {}).get("dirty")) for p in known):
        notes.append(f"{dirty} of {len(known)} runs were made by code with uncommitted changes")
    for package in dict.fromkeys(key for p in known for key in p.get("versions", {})):
        versions = dict.fromkeys(str(p.get("versions", {}).get(package)) for p in known)
        if len(versions) > 1:
            notes.append(
                f"the runs were made with several versions of {package}: {', '.join(versions)}"
            )
    finished = sum(trial.status.state == "finished" for trial in trials)
    if known and len(known) < finished:
        notes.append(f"{finished - len(known)} of {finished} finished runs have no provenance")


def _note_unscored(trials: Sequence[Trial], notes: list[str]) -> None:
    """Add a note if finished runs have no scores, with the command that adds them."""
    finished = [trial for trial in trials if trial.status.state == "finished"]
    unscored = [trial for trial in finished if not trial.metrics]
    if unscored:
        notes.append(
            f"{len(unscored)} of {len(finished)} finished runs have no scores; for each of them: "
            f"python src/evaluate.py run={unscored[0].run.folder} metrics=paper (metrics=miniature "
            "on the miniature)"
        )
