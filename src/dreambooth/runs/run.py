"""The run folder: what training writes, and what generation, evaluation and reports read.

    config.yaml      the resolved config, plain YAML; `overrides` lists what the command line said
    status.json      queued, running, preempted, finished, or failed with the reason
    checkpoints/     to go on with an unfinished run; see training/checkpoints.py
    weights/         the fine-tuned model, in the diffusers layout
    names.json       the identifier and the nouns that the run's prompts are made of
    images/SET/      PNG files, each with what it was made from in its metadata
    scores.csv       a row per image
    metrics.json     each number with its count and its protocol
    history.csv      a row per logged step: losses, curves, times
    provenance.json  command, code, versions, machine, seconds of each part
    replaced/        the run that was here before, until this one is finished (force=true)

Every name in it is written and read in this module only. Files are replaced whole: a full disk or
a kill leaves the previous one. A user's mistake or a damaged file is a ValueError.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from dreambooth.runs.configs import differences_of
from dreambooth.runs.files import Score, csv_of, if_free, slug, write_atomically
from dreambooth.runs.files import claimed as claimed
from dreambooth.runs.pictures import Picture as Picture
from dreambooth.runs.pictures import png_of, read_png

_REPLACED = "replaced"
_WORK = ("names.json", "checkpoints", "weights", "images", "scores.csv", "metrics.json")
_CONTENT = ("config.yaml", "status.json", *_WORK, "history.csv", "provenance.json", "wandb")
OPEN = ("running", "queued", "preempted")  # what is still to end
STATES = (*OPEN, "finished", "failed")


@dataclass(frozen=True)
class Status:
    """Where a run stands; the states `damaged` and `missing` (a cell of a sweep that has not begun)
    are never written, only found."""

    state: str
    reason: str = ""  # of failed and damaged
    progress: float = 0.0  # of the whole run, 0..1
    started: str = ""  # ISO 8601, UTC
    ended: str = ""
    job: str = ""  # of SLURM, that it waits or runs in: "12", or of an array "12_3"
    host: str = ""  # the machine that it last ran on: a hash of its name


@dataclass(frozen=True)
class Metric:
    """One number; nothing is reported without its protocol and its count."""

    value: float
    count: int  # images, or pairs of images, that it is a mean over
    protocol: str  # enough words to measure it again
    ci95: tuple[float, float] | None = None  # low, high


class FinishedRunError(ValueError):
    """The folder holds this very run, finished: there is nothing left to do."""


@dataclass(frozen=True)
class Run:
    """A run folder: `Run.create` starts one, `Run.open` loads a finished one."""

    folder: Path
    config: Mapping[str, Any]
    damage: str = ""  # why config.yaml or status.json cannot be read (from cells.find_runs only)

    @classmethod
    def create(
        cls, folder: Path, config: Mapping[str, Any], replace: bool = False, state: str = "running"
    ) -> Run:
        """Start a run in a new folder, or go on with the same run where it is unfinished.

        The folder may hold other files, such as a launcher's logs. Two configs are of the same run
        if they differ in `overrides` at most. FinishedRunError if that run is finished; ValueError
        if the folder holds a run of another config that has done something, or a damaged one. With
        `replace` these are set aside, until the new run is finished.
        """
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file: give a folder to write the run into")
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        config = yaml.safe_load(text)  # as it will be read
        if holds_a_run(folder):
            try:
                run = cls.there(folder)
                if differences := differences_of(run.config, config):
                    raise ValueError(
                        f"{folder} holds a run of another experiment ({'; '.join(differences)}): "
                        "give another folder, or remove this one"
                    )
                return run.go_on(state)
            except ValueError as error:
                begun = _has_begun(folder) or isinstance(error, FinishedRunError)
                if begun and not replace:
                    raise
            _set_aside(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "config.yaml", text.encode())
        run = cls(folder, config)
        run.set_status(state)
        return run

    def go_on(self, state: str = "running") -> Run:
        """Go on with this run. FinishedRunError if it is finished; ValueError if damaged."""
        if (self.folder / "status.json").exists() and self.status().state == "finished":
            raise FinishedRunError(
                f"this run is finished, in {self.folder}: use it; its command with force=true "
                "runs it again"
            )
        self.set_status(state)
        return self

    @classmethod
    def there(cls, folder: Path) -> Run:
        """The run of a folder, finished or not. ValueError where there is none."""
        if not folder.is_dir():
            raise ValueError(f"there is no run folder {folder}")
        if not holds_a_run(folder):
            raise ValueError(f"{folder} is not a run folder: it has no config.yaml and status.json")
        return cls(folder, read_config(folder))

    @classmethod
    def open(cls, folder: Path, with_weights: bool = True) -> Run:
        """Load a finished run. ValueError says what the folder lacks; weights too, if asked."""
        run = cls.there(folder)
        status = run.status()
        if status.state != "finished":
            raise ValueError(
                f"the run in {folder} is not finished ({describe(status)}): go on with it by "
                f"python src/train.py run={folder}"
            )
        if with_weights and not run.weights.is_dir():
            raise ValueError(f"the run in {folder} is damaged: weights/ is missing")
        return run

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def weights(self) -> Path:
        return self.folder / "weights"

    def status(self) -> Status:
        if self.damage:
            return Status("damaged", self.damage)
        begun = (self.folder / "status.json").exists() or _has_begun(self.folder)
        if not begun or not holds_a_run(self.folder):
            return Status("missing", "it has not begun")
        content = self._read_json("status.json")
        try:
            status = Status(**content)
        except TypeError as error:
            raise damaged(self.folder / "status.json", error) from error
        if status.state not in STATES:
            raise damaged(self.folder / "status.json", f"no state {status.state!r}")
        return status

    def set_status(
        self,
        state: str,
        reason: str = "",
        progress: float | None = None,
        job: str | None = None,
        ended: str | None = None,
    ) -> None:
        """One of `STATES`, with progress 0..1 of the whole run; `failed` with the reason. What is
        not given stays as it was; a running one is in the job of this process, if in any."""
        assert state in STATES, state
        assert bool(reason) == (state == "failed"), "a failed run has a reason, and no other"
        now = datetime.now(UTC).isoformat(timespec="seconds")
        exists = (self.folder / "status.json").exists()
        before = self.status() if exists else Status(state, started=now)
        status = replace(
            before,
            state=state,
            reason=reason,
            progress=1.0
            if state == "finished"
            else before.progress
            if progress is None
            else progress,
            ended="" if state in ("queued", "running") else ended or now,
            job=(_own_job() if state == "running" else before.job) if job is None else job,
            host=this_host() if state == "running" else before.host,
        )
        self._write_json("status.json", asdict(status))

    def save_images(self, image_set: str, pictures: Sequence[Picture]) -> list[Path]:
        """Write pictures as images/SET/<words of the prompt>-<index>.png, and give their paths.

        Different prompts have different names, on file systems that ignore case too. A picture of
        the same set, prompt and index is replaced.
        """
        self._image_set(image_set).mkdir(parents=True, exist_ok=True)
        paths = [self._image_path(image_set, p.prompt, p.index) for p in pictures]
        assert len(set(paths)) == len(paths), "a prompt and index given twice"
        for path, picture in zip(paths, pictures, strict=True):
            write_atomically(path, png_of(picture))
        return paths

    def read_images(self, image_set: str) -> list[Picture]:
        """The pictures of a set, ordered by file name."""
        return [read_png(path) for path in self.image_paths(image_set)]

    def has_image(self, image_set: str, prompt: str, index: int, template: str) -> bool:
        """Whether that picture is there, whole."""
        path = self._image_path(image_set, prompt, index)
        try:
            kept = read_png(path) if path.exists() else None
        except ValueError:
            return False
        return kept is not None and (kept.prompt, kept.template) == (prompt, template)

    def has_images(self, image_set: str) -> bool:
        return self._image_set(image_set).is_dir()

    def tidy(self) -> None:
        """Delete what is of no use once it is finished: its checkpoints, most of its size, and the
        run that it replaces."""
        for folder in (self.checkpoints, self.folder / _REPLACED):
            shutil.rmtree(folder, ignore_errors=True)

    def image_paths(self, image_set: str) -> list[Path]:
        folder = self._image_set(image_set)
        if not folder.is_dir():
            raise ValueError(f"the run in {self.folder} has no images/{image_set}")
        return sorted(folder.glob("*.png"))

    def write_scores(self, rows: Sequence[Mapping[str, Score]]) -> None:
        """scores.csv: a row per image, a column per key of any row."""
        write_atomically(self.folder / "scores.csv", csv_of(rows).encode())

    def read_scores(self) -> list[dict[str, Score]]:
        """Rows as written, but with every number a float; None where a row has no value."""
        return self._read_rows("scores.csv")

    def write_history(self, rows: Sequence[Mapping[str, Score]]) -> None:
        """history.csv: `step`, of the stage that a column's prefix names, and what was logged."""
        write_atomically(self.folder / "history.csv", csv_of(rows).encode())

    def read_history(self) -> list[dict[str, float]]:
        """Rows as written, without what they lack; none where nothing was logged yet."""
        if not (self.folder / "history.csv").exists():
            return []
        rows = self._read_rows("history.csv")
        return [{k: v for k, v in row.items() if isinstance(v, float)} for row in rows]

    def write_provenance(self, provenance: Mapping[str, Any]) -> None:
        self._write_json("provenance.json", provenance)

    def read_provenance(self) -> dict[str, Any]:
        """{} where there is none, as in older folders."""
        exists = (self.folder / "provenance.json").exists()
        return self._read_json("provenance.json") if exists else {}

    def write_names(self, names: Mapping[str, str | None]) -> None:
        """names.json: what a finished run is reloaded with, beside its weights."""
        self._write_json("names.json", names)

    def read_names(self) -> dict[str, Any]:
        return self._read_json("names.json")

    def write_metrics(self, metrics: Mapping[str, Metric]) -> None:
        """metrics.json; NaN and infinity, which JSON lacks, are written as null and read as NaN."""
        content = {
            name: {
                "value": float(metric.value) if math.isfinite(metric.value) else None,
                "ci95": metric.ci95 and [float(bound) for bound in metric.ci95],
                "count": int(metric.count),
                "protocol": metric.protocol,
            }
            for name, metric in metrics.items()
        }
        self._write_json("metrics.json", content)

    def read_metrics(self) -> dict[str, Metric]:
        try:
            return {
                name: Metric(
                    value=math.nan if entry["value"] is None else float(entry["value"]),
                    count=int(entry["count"]),
                    protocol=entry["protocol"],
                    ci95=entry["ci95"] and (float(entry["ci95"][0]), float(entry["ci95"][1])),
                )
                for name, entry in self._read_json("metrics.json").items()
            }
        except (KeyError, TypeError, IndexError) as error:
            raise damaged(self.folder / "metrics.json", error) from error

    def _image_path(self, image_set: str, prompt: str, index: int) -> Path:
        return self._image_set(image_set) / picture_name(prompt, index)

    def _image_set(self, image_set: str) -> Path:
        if not re.fullmatch(r"\w[\w.-]*", image_set):
            raise ValueError(f"{image_set!r} cannot name a set of images: use letters and digits")
        return self.folder / "images" / image_set

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError as error:
            raise ValueError(f"the run in {self.folder} is damaged: {name} is missing") from error

    def _read_rows(self, name: str) -> list[dict[str, Score]]:
        text = io.StringIO(self._read(name).decode())
        try:
            rows = list(csv.DictReader(text, quoting=csv.QUOTE_NONNUMERIC, strict=True))
        except (ValueError, csv.Error) as error:
            raise damaged(self.folder / name, error) from error
        if any(None in row or None in row.values() for row in rows):
            raise damaged(self.folder / name, "a row is cut short")
        return [{k: None if v == "" else v for k, v in row.items()} for row in rows]

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads(self._read(name))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise damaged(self.folder / name, error) from error
        if not isinstance(content, dict):
            raise damaged(self.folder / name, "no JSON object")
        return content

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(self.folder / name, f"{text}\n".encode())


def tell_killed(folder: Path, reason: str, of_a_rank: bool = False) -> None:
    """The status of a run whose processes have ended, which a killed one has not told; where it was
    one of several, the others have told that they lost it. One that another process is at is left
    alone. ValueError where the status is damaged."""
    run = Run(folder, {})
    if run.status().state in ("running", *(["failed"] if of_a_rank else [])):
        with if_free(folder) as free:
            if free:
                run.set_status("failed", reason)


def picture_name(prompt: str, index: int) -> str:
    """The file of a picture in its set."""
    return f"{slug(prompt)}-{index:03d}.png"


def this_host() -> str:
    """Tells this machine from others without naming it."""
    return sha256(socket.gethostname().encode()).hexdigest()[:12]


def describe(status: Status) -> str:
    """In a few words: "finished", "running, 40 %", "failed: the loss is NaN at step 12"."""
    if status.state in ("running", "preempted"):
        return f"{status.state}, {status.progress:.0%}".replace("%", " %")
    return f"{status.state}: {status.reason}" if status.reason else status.state


def _own_job() -> str:
    """The SLURM job that this process is in, if any."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def holds_a_run(folder: Path) -> bool:
    return (folder / "config.yaml").exists() or (folder / "status.json").exists()


def _has_begun(folder: Path) -> bool:
    """Whether a run has done anything but to say that it failed."""
    return any((folder / name).exists() for name in _WORK)


def _set_aside(folder: Path) -> None:
    """Make room for a run that replaces this one, which tidy() deletes. Where there is an earlier
    one that has not been replaced yet, this one did not replace it, and is deleted now."""
    aside = folder / _REPLACED
    keep = _has_begun(folder) and not aside.exists()
    for path in (folder / name for name in _CONTENT if (folder / name).exists()):
        if keep:
            aside.mkdir(exist_ok=True)
            path.rename(aside / path.name)
        else:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    if not path.exists():
        raise ValueError(f"the run in {folder} is damaged: config.yaml is missing")
    try:
        config = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise damaged(path, " ".join(str(error).split())) from error
    if not isinstance(config, dict):
        raise damaged(path, "no mapping of keys to values")
    return config


def damaged(path: Path, why: object) -> ValueError:
    return ValueError(f"{path} is damaged ({why})")
