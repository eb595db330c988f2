"""Run folders to a study: cells, their trials, and what is missing; no picture is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.files import Score
from dreambooth.run import Metric, Run, Status


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

    key: str  # letters, digits, "-" and "_"; unique in the study: for ids and file names
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
    of two, the later finished one counts. ValueError where a folder is not there or has no runs.
    """
    raise NotImplementedError
