"""Run folders to a study: cells, their trials, and what is missing; no picture is opened."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from dreambooth.reporting.planned import (
    axis_of,
    external_command,
    literal,
    planned,
    recombined,
    train_command,
)
from dreambooth.reporting.settings import (
    ABSENT,
    KNOWN,
    drawn,
    key_of,
    label_of,
    order_of,
    settings_of,
    subject_of,
)
from dreambooth.runs.cells import cell_name, find_runs, settings
from dreambooth.runs.files import Score
from dreambooth.runs.records import Metric
from dreambooth.runs.run import Run
from dreambooth.runs.status import Status, describe


@dataclass(frozen=True, eq=False)
class Trial:
    """One run: what it was, how it ended, and everything that it measured."""

    run: Run  # its folder may not exist, where the run is missing
    settings: Mapping[str, str]  # axis -> value, of every axis of the study: {"lambda": "0"}
    subject: str  # "biscuit", "dog 501" (a drawn one without a name), or the photos' folder
    seed: str  # "" for pictures of another system
    status: Status  # state finished, running, failed, damaged, missing, or another of a run's own
    metrics: Mapping[str, Metric]  # of a finished one; empty otherwise
    rows: Sequence[Mapping[str, Score]]  # scores.csv; empty likewise
    history: Sequence[Mapping[str, float]]  # history.csv: `step` and what was logged at it
    provenance: Mapping[str, Any]  # provenance.json; {} in older folders
    command: str  # the exact command that makes it; of an unfinished one, into its own folder


@dataclass(frozen=True, eq=False)
class Cell:
    """Trials that differ in subject and seed only."""

    key: str  # letters, digits and "-"; unique in the study: for ids and file names
    label: str  # "lambda 0, no class noun"
    settings: Mapping[str, str]
    trials: tuple[Trial, ...]  # missing ones too

    @property
    def finished(self) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.trials if trial.status.state == "finished")


@dataclass(frozen=True, eq=False)
class Study:
    """One or several sweeps as cells."""

    name: str  # of its folders
    folders: tuple[Path, ...]
    axes: tuple[str, ...]  # that vary: lambda, class, sr, num_photos, identifier, method, model ...
    fixed: Mapping[str, str]  # the same for the known axes that do not
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]  # what a reader must know: damaged files, mixed code, cells found twice

    @property
    def trials(self) -> tuple[Trial, ...]:
        return tuple(trial for cell in self.cells for trial in cell.trials)

    @property
    def subjects(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(trial.subject for trial in self.trials))


def read_study(folders: Sequence[Path]) -> Study:
    """The runs of sweep folders, complete or not, joined. Also takes the folder of a single run.

    Runs with the same resolved settings, subject and seed are one trial, however they were typed;
    of two, the later finished one counts. Cells are in the order of their values. ValueError where
    a folder is not there or has no runs.
    """
    notes: list[str] = []
    found: list[Trial] = []
    for folder in folders:
        found += _trials_of(folder, notes)
    if not found:
        raise ValueError(
            f"there are no runs in {' and '.join(map(str, folders))}: give the folder of a sweep, "
            "as in sweep=runs/class+lambda"
        )
    trials = _with_systems_apart(_with_subjects_named(found))
    axes = _axes(trials, notes)
    trials = _without_doubles([_on_axes(trial, axes) for trial in trials], notes)
    everything = {axis: trial.settings[axis] for trial in found for axis in trial.settings}
    cells = _cells(trials, axes)
    _note_sources(trials, notes)
    return Study(
        name="+".join(dict.fromkeys(folder.resolve().name for folder in folders)),
        folders=tuple(folders),
        axes=axes,
        fixed={axis: everything[axis] for axis in KNOWN if axis in everything and axis not in axes},
        cells=cells,
        notes=tuple(dict.fromkeys(notes)),
    )


def _trials_of(folder: Path, notes: list[str]) -> list[Trial]:
    """Those of one folder, with all their settings; missing ones by its plan or by its product."""
    if (folder / "config.yaml").exists():
        own = folder.resolve()
        (run,) = (run for run in find_runs(own.parent) if run.folder == own)
        return [_trial(run, run.config, notes)]
    plan = planned(folder)
    trials, unplaced = [], []
    for run in find_runs(folder):
        if run.config:
            trials.append(_trial(run, run.config, notes))
        else:
            unplaced.append(run)
    told = [_said(trial) for trial in trials if trial.settings.get("method") != "external"]
    here = {run.folder.name: run for run in unplaced}
    names = {trial.run.folder.name for trial in trials}
    if told:
        for name, overrides in plan.items():
            if name not in names:
                run = here.pop(name, Run(folder / name, {}))
                trials.append(_absent(run, overrides, told))
    if not plan and told:
        gaps = _product_gaps(folder, told, here)
        trials += [gap for gap in gaps if gap.run.folder.name not in names]
    for run in here.values():
        why = describe(run.status())
        notes.append(f"run {run.folder} is left out, as nothing tells its settings: {why}")
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
    try:
        history, provenance = run.read_history(), run.read_provenance()
    except ValueError as error:
        notes.append(f"{error}: the run's scores count, but not this file")
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
    )


Said = tuple[Mapping[str, str], Sequence[str]]
"""Where a run is (settings, subject and seed), and the overrides that say so."""


def _said(trial: Trial) -> Said:
    at = {**trial.settings, "subject": trial.subject, "seed": trial.seed}
    return at, trial.run.config.get("overrides", [])


def _absent(run: Run, overrides: Sequence[str], told: Sequence[Said]) -> Trial:
    """A planned run that is not there or cannot be read, placed by what its overrides mean."""
    at = dict(max(told, key=lambda one: len(set(one[1]) & set(overrides)))[0])
    for axis in dict.fromkeys(map(axis_of, overrides)):
        own = [o for o in overrides if axis_of(o) == axis]
        alike = (place for place, said in told if [o for o in said if axis_of(o) == axis] == own)
        same = next(alike, None)
        if same is not None and axis in same:
            at[axis] = same[axis]
        elif axis in at:
            at[axis] = literal(own[-1])
    return _gap(run, at, overrides)


def _product_gaps(folder: Path, told: Sequence[Said], unplaced: dict[str, Run]) -> list[Trial]:
    """The cells of the full product of what varies in a folder that it has no run of, in folders
    named as a sweep names them; out of `unplaced` go those that are there."""
    values: dict[str, dict[str, None]] = {}  # ordered sets
    for at, _ in told:
        for key, value in at.items():
            values.setdefault(key, {})[value] = None
    varying = {key: some for key, some in values.items() if len(some) > 1}
    if any(key not in at for at, _ in told for key in varying):
        return []  # not one product
    there = {tuple(at[key] for key in varying) for at, _ in told}
    if math.prod(map(len, varying.values())) > 4 * len(told):
        return []  # several sweeps in one folder
    shared = set.intersection(*(set(settings(said).items()) for _, said in told))
    gaps = []
    for chosen in product(*varying.values()):
        if chosen not in there:
            at = {**told[0][0], **dict(zip(varying, chosen, strict=True))}
            overrides = recombined(dict(zip(varying, chosen, strict=True)), told)
            name = cell_name(overrides, dict(shared))
            run = unplaced.pop(name, Run(folder / name, {}))
            gaps.append(_gap(run, at, overrides))
    return gaps


def _command(run: Run, status: Status, overrides: Sequence[str]) -> str:
    """What makes a run again, or goes on with it; a damaged one must make way first."""
    if status.state == "finished":
        return train_command(overrides)
    command = train_command(overrides, run.folder)
    if status.state != "damaged":
        return command
    path = run.folder if run.damage else run.folder / "status.json"
    return f"rm -r {shlex.quote(str(path))} && {command}"


def _gap(run: Run, at: Mapping[str, str], overrides: Sequence[str]) -> Trial:
    settings = {key: value for key, value in at.items() if key not in ("subject", "seed")}
    why = run.status()
    command = _command(run, why, overrides)
    return Trial(run, settings, at["subject"], at["seed"], why, {}, [], [], {}, command)


def _with_subjects_named(trials: Sequence[Trial]) -> list[Trial]:
    """A drawn individual has one name, whether a run says it or its class and number only."""
    names = {who: t.subject for t in trials if (who := drawn(t.run.config)) and t.subject != who}
    return [replace(t, subject=names.get(drawn(t.run.config), t.subject)) for t in trials]


def _with_systems_apart(trials: Sequence[Trial]) -> list[Trial]:
    """Images of other systems are told apart by their names where two are of one subject."""
    external = [t for t in trials if t.settings.get("method") == "external"]
    if len({t.subject for t in external}) == len(external):
        return list(trials)
    named = {id(t): f"external {t.run.folder.name}" for t in external}
    return [replace(t, settings={"method": named[id(t)]}) if id(t) in named else t for t in trials]


def _without_doubles(trials: Sequence[Trial], notes: list[str]) -> list[Trial]:
    kept: dict[tuple[Any, ...], Trial] = {}
    for trial in trials:
        place = (frozenset(trial.settings.items()), trial.subject, trial.seed)
        other = kept.get(place)
        if other is None:
            kept[place] = trial
            continue
        first, last = sorted((other, trial), key=_precedence)
        kept[place] = last
        if "missing" not in (first.status.state, last.status.state):
            notes.append(
                f"{first.run.folder} and {last.run.folder} are the same cell, subject and seed: "
                f"{last.run.folder} counts ({describe(last.status)})"
            )
    return list(kept.values())


def _precedence(trial: Trial) -> tuple[bool, bool, str]:
    status = trial.status
    finished = status.state == "finished"
    return finished, status.state != "missing", status.ended if finished else status.started


def _axes(trials: Sequence[Trial], notes: list[str]) -> tuple[str, ...]:
    """What varies. A setting that follows from method and model, such as its steps, is none."""
    values: dict[str, set[str]] = {}
    follows: dict[str, dict[tuple[str, ...], set[str]]] = {}
    for trial in trials:
        by = tuple(trial.settings.get(axis, ABSENT) for axis in ("method", "model"))
        for axis, value in trial.settings.items():
            values.setdefault(axis, set()).add(value)
            follows.setdefault(axis, {}).setdefault(by, set()).add(value)
    varying = [axis for axis, some in values.items() if len(some) > 1]
    own = [axis for axis in varying if axis in KNOWN]
    for axis in (axis for axis in varying if axis not in KNOWN):
        if all(len(some) == 1 for some in follows[axis].values()):
            each = "; ".join(
                f"{next(iter(v))} with {' and '.join(by)}" for by, v in follows[axis].items()
            )
            notes.append(f"{axis} differs with the method or model: {each}")
        else:
            own.append(axis)
    return tuple(sorted(own, key=lambda axis: KNOWN.index(axis) if axis in KNOWN else len(KNOWN)))


def _on_axes(trial: Trial, axes: Sequence[str]) -> Trial:
    return replace(trial, settings={axis: trial.settings.get(axis, ABSENT) for axis in axes})


def _cells(trials: Sequence[Trial], axes: Sequence[str]) -> tuple[Cell, ...]:
    groups: dict[tuple[str, ...], list[Trial]] = {}
    for trial in trials:
        groups.setdefault(tuple(trial.settings.values()), []).append(trial)
    order = sorted(groups, key=lambda at: [order_of(a, v) for a, v in zip(axes, at, strict=True)])
    subjects = list(dict.fromkeys(trial.subject for trial in trials))  # in the sweep's order
    cells: list[Cell] = []
    for at in order:
        settings = dict(zip(axes, at, strict=True))
        label = label_of(settings) or "all runs"
        of_cell = sorted(groups[at], key=lambda t: (subjects.index(t.subject), t.seed))
        key = key_of(label)
        if any(cell.key == key for cell in cells):
            key = f"{key}-{len(cells)}"
        cells.append(Cell(key, label, settings, tuple(of_cell)))
    return tuple(cells)


def _note_sources(trials: Sequence[Trial], notes: list[str]) -> None:
    """Code, commits and versions, where the finished runs differ in them."""
    known = [t.provenance for t in trials if t.status.state == "finished" and t.provenance]
    commits = dict.fromkeys(p.get("git", {}).get("commit", "")[:10] for p in known)
    if len(commits) > 1:
        notes.append(f"the runs are of several commits: {', '.join(filter(None, commits))}")
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
        notes.append(f"{finished - len(known)} of {finished} runs do not say what made them")
