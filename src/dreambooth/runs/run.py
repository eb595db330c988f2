"""The run folder: what training writes, and what generation, evaluation and reports read.

    config.yaml      the resolved config, plain YAML; `overrides` lists the command-line overrides
    inputs.json      the SHA-256 of each photo and other file of the user that the run reads
    status.json      queued, running, preempted, finished, or failed with the reason
    checkpoints/     for resuming an unfinished run; see training/checkpoints.py
    weights/         the fine-tuned model, in the diffusers layout
    names.json       the identifier and the nouns in the run's prompts
    prompts.json     the run's prompts, and what each asks for
    images/SET/      PNG files; the metadata of each says what it was made from
    scores.csv       a row per image
    metrics.json     each number with its count and its protocol
    frontier.csv     a row per image at each strength of the training (experiment=frontier)
    history.csv      a row per logged step: losses, curves, times
    provenance.json  command, code, versions, hardware, seconds of each phase
    replaced/        the previous run in this folder, until this one is finished (force=true)
    .dreambooth-run  marks the folder as that of a run

Only this module, image_sets.py and ownership.py know the names of these files; records.py,
pictures.py, configs.py and status.py define their contents. Files are written atomically: a full
disk or a kill leaves the previous content. Files that a run has not written are never deleted. A
user's mistake or a damaged file raises a ValueError.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from dreambooth.runs.configs import changed_inputs, differences_of, read_config
from dreambooth.runs.files import Score, atomic_folder, csv_of, if_free, write_atomically
from dreambooth.runs.image_sets import ImageSets
from dreambooth.runs.ownership import (
    MARKER,
    MARKER_TEXT,
    WRITTEN,
    check_folder,
    delete_run,
    delete_written,
)
from dreambooth.runs.records import (
    Metric,
    damaged,
    read_json,
    read_metrics,
    read_rows,
    write_json,
    write_metrics,
)
from dreambooth.runs.status import STATES, Status, current_job, describe, this_host

_REPLACED = "replaced"
_RESULTS = (
    *("names.json", "prompts.json", "checkpoints", "weights", "images"),
    *("scores.csv", "metrics.json", "frontier.csv"),
)
_CONTENT = (
    *("config.yaml", "inputs.json", "status.json", *_RESULTS),
    *("history.csv", "provenance.json", "wandb"),
)


class FinishedRunError(ValueError):
    """The folder already holds this run, and it is finished: there is nothing left to do."""


@dataclass(frozen=True)
class Run:
    """A run folder. `Run.create` starts a run, `Run.load_finished` loads a finished one."""

    folder: Path
    config: Mapping[str, Any]
    damage: str = ""  # why config.yaml or status.json cannot be read (set by cells.find_runs only)

    @classmethod
    def create(
        cls,
        folder: Path,
        config: Mapping[str, Any],
        force: bool = False,
        state: str = "running",
        inputs: Mapping[str, str] | None = None,
    ) -> Run:
        """Start a run in a new folder, or resume the unfinished run that the folder holds.

        The folder must be new, empty or that of a run (`check_folder`). Two configs belong to the
        same run if they differ only in `overrides` and in `CHANGE_NO_RESULT`.
        `inputs`: the hashes of the user's files.

        FinishedRunError if the same run is finished. ValueError if the folder holds the results of
        another config or of other inputs, or a damaged run. With `force`, no error is raised in
        these cases: the old run is kept in replaced/ until the new run is finished.
        """
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file: give a folder to write the run into")
        check_folder(folder)
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        config = yaml.safe_load(text)  # as `load` will read it
        if holds_a_run(folder):
            try:
                run = cls.load(folder)
                if differences := differences_of(run.config, config):
                    raise ValueError(
                        f"{folder} holds a run of another experiment ({'; '.join(differences)}): "
                        "give another folder, or force=true to replace that run"
                    )
                run.resume(state, inputs)
                return cls(folder, {**config, "overrides": run.config.get("overrides", [])})
            except ValueError as error:
                worth_keeping = _has_results(folder) or isinstance(error, FinishedRunError)
                if worth_keeping and not force:
                    raise
            _set_aside(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / MARKER, MARKER_TEXT)
        write_atomically(folder / "config.yaml", text.encode())
        run = cls(folder, config)
        run._write_inputs(inputs)
        run.set_status(state)
        return run

    def resume(self, state: str = "running", inputs: Mapping[str, str] | None = None) -> Run:
        """Resume this run. FinishedRunError if it is finished.

        ValueError if it is damaged, or if it has results of other inputs.
        """
        if _has_results(self.folder):
            self.check_inputs(inputs)
        if (self.folder / "status.json").exists() and self.status().state == "finished":
            raise FinishedRunError(
                f"this run is finished, in {self.folder}: to run it again, repeat the "
                "command with force=true"
            )
        self._write_inputs(inputs)
        self.set_status(state)
        return self

    def check_inputs(self, inputs: Mapping[str, str] | None) -> None:
        """ValueError if the user's files are not those that the run began with.

        Runs that recorded none, as older ones, and inputs that are None are not compared.
        """
        begun_with = self.read_inputs()
        if inputs is None or not begun_with:
            return
        if changes := changed_inputs(begun_with, inputs):
            raise ValueError(
                f"the run in {self.folder} began with other files ({'; '.join(changes)}): "
                "put them back, or start a new run in another folder"
            )

    def read_inputs(self) -> dict[str, str]:
        """Read inputs.json; {} if it does not exist: no files, or an older run."""
        exists = (self.folder / "inputs.json").exists()
        return read_json(self.folder / "inputs.json") if exists else {}

    def _write_inputs(self, inputs: Mapping[str, str] | None) -> None:
        if inputs:
            write_json(self.folder / "inputs.json", inputs)

    @classmethod
    def load(cls, folder: Path) -> Run:
        """Load the run of a folder, finished or not. ValueError if the folder holds no run."""
        if not folder.is_dir():
            raise ValueError(f"there is no run folder {folder}")
        if not holds_a_run(folder):
            raise ValueError(f"{folder} is not a run folder: it has no config.yaml and status.json")
        return cls(folder, read_config(folder))

    @classmethod
    def load_finished(cls, folder: Path, with_weights: bool = True) -> Run:
        """Load a finished run. ValueError if it is unfinished or its weights are missing."""
        run = cls.load(folder)
        status = run.status()
        if status.state != "finished":
            raise ValueError(
                f"the run in {folder} is not finished ({describe(status)}): resume it with "
                f"python src/train.py run={folder}"
            )
        if with_weights and not run.weights.is_dir():
            raise ValueError(f"the run in {folder} is damaged: weights/ is missing")
        return run

    @property
    def images(self) -> ImageSets:
        return ImageSets(self.folder)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def weights(self) -> Path:
        return self.folder / "weights"

    def status(self) -> Status:
        """Read status.json. ValueError if it is missing or damaged, though the run has begun."""
        if self.damage:
            return Status("damaged", self.damage)
        begun = (self.folder / "status.json").exists() or _has_results(self.folder)
        if not begun or not holds_a_run(self.folder):
            return Status("missing", "it has not begun")
        content = read_json(self.folder / "status.json")
        try:
            status = Status(**content)
        except TypeError as error:
            raise damaged(self.folder / "status.json", error) from error
        if status.state not in STATES:
            raise damaged(self.folder / "status.json", f"unknown state {status.state!r}")
        return status

    def set_status(
        self,
        state: str,
        reason: str = "",
        progress: float | None = None,
        job: str | None = None,
        ended: str | None = None,
    ) -> None:
        """Write status.json: one of `STATES`, and the progress 0..1 of the whole run.

        `failed` needs a reason; no other state takes one. If left out, `progress` and `job` keep
        their values, and `ended` is the current time. But a finished run has progress 1, and a
        running one the SLURM job of this process, if any.
        """
        assert state in STATES, state
        assert bool(reason) == (state == "failed"), "exactly the failed runs have a reason"
        now = datetime.now(UTC).isoformat(timespec="seconds")
        exists = (self.folder / "status.json").exists()
        before = self.status() if exists else Status(state, started=now)
        if progress is None:
            progress = before.progress
        status = replace(
            before,
            state=state,
            reason=reason,
            progress=1.0 if state == "finished" else progress,
            ended="" if state in ("queued", "running") else ended or now,
            job=(current_job() if state == "running" else before.job) if job is None else job,
            host=this_host() if state == "running" else before.host,
        )
        write_json(self.folder / "status.json", asdict(status))

    def save_weights(self, save: Callable[[Path], None]) -> None:
        """Write weights/, whole or not at all: `save` writes the files into the folder it gets."""
        with atomic_folder(self.weights) as folder:
            folder.mkdir()
            save(folder)
            files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))
            (folder / WRITTEN).write_text(json.dumps(files))

    def tidy(self) -> None:
        """Delete what a finished run no longer needs: checkpoints, and the run that it replaced.

        Files in them that no run has written are kept, at their earlier place.
        """
        delete_written(self.folder, ["checkpoints"])
        delete_written(self.folder / _REPLACED, _CONTENT, rest=self.folder)
        if (self.folder / _REPLACED).is_dir() and not any((self.folder / _REPLACED).iterdir()):
            (self.folder / _REPLACED).rmdir()

    def write_scores(self, rows: Sequence[Mapping[str, Score]]) -> None:
        """Write scores.csv: a row per image, and a column for each key that any row has."""
        write_atomically(self.folder / "scores.csv", csv_of(rows).encode())

    def read_scores(self) -> list[dict[str, Score]]:
        """Read scores.csv. Every number becomes a float, every empty cell None."""
        return read_rows(self.folder / "scores.csv")

    def write_frontier(self, rows: Sequence[Mapping[str, Score]]) -> None:
        """Write frontier.csv: rows as those of scores.csv, with the `strength` of the model."""
        write_atomically(self.folder / "frontier.csv", csv_of(rows).encode())

    def read_frontier(self) -> list[dict[str, Score]]:
        """Read frontier.csv; [] if it does not exist."""
        path = self.folder / "frontier.csv"
        return read_rows(path) if path.exists() else []

    def write_history(self, rows: Sequence[Mapping[str, Score]]) -> None:
        """Write history.csv: `step`, and logged values in columns prefixed with their stage."""
        write_atomically(self.folder / "history.csv", csv_of(rows).encode())

    def read_history(self) -> list[dict[str, float]]:
        """Read history.csv without its empty cells; [] if nothing was logged yet."""
        if not (self.folder / "history.csv").exists():
            return []
        rows = read_rows(self.folder / "history.csv")
        return [{k: v for k, v in row.items() if isinstance(v, float)} for row in rows]

    def write_provenance(self, provenance: Mapping[str, Any]) -> None:
        write_json(self.folder / "provenance.json", provenance)

    def read_provenance(self) -> dict[str, Any]:
        """Read provenance.json; {} if it does not exist, as in older folders."""
        exists = (self.folder / "provenance.json").exists()
        return read_json(self.folder / "provenance.json") if exists else {}

    def write_names(self, names: Mapping[str, str | None]) -> None:
        """Write names.json: the words that a finished run is reloaded with, beside its weights."""
        write_json(self.folder / "names.json", names)

    def read_names(self) -> dict[str, Any]:
        return read_json(self.folder / "names.json")

    def write_prompts(self, families: Mapping[str, str]) -> None:
        """Write prompts.json: template -> what it asks for, of the images that are scored."""
        write_json(self.folder / "prompts.json", families)

    def read_prompts(self) -> dict[str, str]:
        """Read prompts.json; {} if it does not exist, as in older folders."""
        exists = (self.folder / "prompts.json").exists()
        return read_json(self.folder / "prompts.json") if exists else {}

    def write_metrics(self, metrics: Mapping[str, Metric]) -> None:
        """Write metrics.json. NaN and infinity are written as null and read as NaN."""
        write_metrics(self.folder / "metrics.json", metrics)

    def read_metrics(self) -> dict[str, Metric]:
        return read_metrics(self.folder / "metrics.json")


def record_killed(folder: Path, reason: str, of_a_rank: bool = False) -> None:
    """Mark a run as failed after its process was killed and could not record the failure.

    `of_a_rank`: the process was one of several ranks. The other ranks recorded only that they lost
    it, so `reason` replaces theirs. A run that another process is using is left alone. ValueError
    if the status is damaged.
    """
    run = Run(folder, {})
    if run.status().state in ("running", *(["failed"] if of_a_rank else [])):
        with if_free(folder) as free:
            if free:
                run.set_status("failed", reason)


def delete_unless_begun(folder: Path) -> None:
    """Delete the folder of a new run that was refused: it has not even written its names."""
    if not (folder / "names.json").exists():
        delete_run(folder, _CONTENT)


def holds_a_run(folder: Path) -> bool:
    """Whether a run has written its config or status into a folder; the run may be damaged.

    `belongs_to_run` is stricter where the marker is missing, since the files may be someone else's.
    """
    return (folder / "config.yaml").exists() or (folder / "status.json").exists()


def _has_results(folder: Path) -> bool:
    """Whether a run has written anything worth keeping, such as checkpoints or scores."""
    return any((folder / name).exists() for name in _RESULTS)


def _set_aside(folder: Path) -> None:
    """Move the run in a folder to replaced/, to make room for a run that replaces it.

    If replaced/ already holds a run, the run in the folder was an unfinished attempt to replace
    it, and is deleted. `Run.tidy` deletes replaced/ once a run is finished.
    """
    aside = folder / _REPLACED
    if not _has_results(folder) or aside.exists():
        delete_written(folder, _CONTENT, rest=aside)
        return
    aside.mkdir()
    for path in (folder / name for name in _CONTENT if (folder / name).exists()):
        path.rename(aside / path.name)
