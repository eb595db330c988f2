"""From one command to the processes that do it: the ranks of a run, the cells of a sweep."""

import copy
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from dreambooth.distributed import ranks
from dreambooth.launch.start import compose_sr_stage, queue_run
from dreambooth.runs.overrides import assignment
from dreambooth.runs.run import FinishedRunError, Run, record_killed
from dreambooth.runs.settings import check_count

log = logging.getLogger(__name__)

QUIET = ("hydra.output_subdir=null", "hydra/job_logging=stdout")
"""What every rank but the first adds to its command: only the first one writes files."""

_OF_SWEEPS = ("hydra.mode", "hydra.sweep", "hydra/sweep", "hydra.launcher", "hydra/launcher")


@dataclass(frozen=True)
class Cell:
    """One run of a sweep, as its launcher sees it."""

    number: int
    overrides: list[str]
    config: DictConfig
    folder: Path

    @property
    def devices(self) -> int:
        return checked_num_ranks(self.config)


def cells_of(
    loader: Any, config: DictConfig, job_overrides: Sequence[Sequence[str]], first_number: int
) -> list[Cell]:
    """The cells of a sweep, from what Hydra gives a launcher; `loader`: Hydra's of configs."""
    found, own = [], HydraConfig.instance().cfg
    for number, overrides in enumerate(job_overrides, first_number):
        cell: DictConfig = loader.load_sweep_config(config, list(overrides))
        with read_write(cell.hydra.runtime), open_dict(cell):
            cell.hydra.job.id = cell.hydra.job.num = number
            HydraConfig.instance().set_config(cell)  # what ${hydra:...} in its folder's name is of
            folder = Path(str(cell.hydra.sweep.dir), str(cell.hydra.sweep.subdir)).absolute()
            cell.hydra.runtime.output_dir = str(folder)
        checked_num_ranks(cell)
        found.append(Cell(number, list(overrides), cell, folder))
    HydraConfig.instance().cfg = own
    return found


def job_return(cell: Cell) -> JobReturn:
    """What Hydra's sweeper is told of a cell. A failed one stops no sweep: its folder says so."""
    ended = JobReturn(overrides=cell.overrides, cfg=cell.config, status=JobStatus.COMPLETED)
    try:
        ended.return_value = objective(cell.folder, cell.config.get("objective"))
    except ValueError as error:
        sys.exit(str(error))
    return ended


def objective(folder: Path, name: str | None) -> float | None:
    """The score that a sweeper looks for the best of; None of a run that is not finished, or
    damaged. ValueError where a run has no such score."""
    run = Run(folder, {})
    try:
        if name is None or run.status().state != "finished":
            return None
        metrics = run.read_metrics()
    except ValueError:
        return None
    if name not in metrics:
        known = ", ".join(metrics) or "none"
        raise ValueError(f"objective={name} is no score of {folder}: it has {known}")
    return metrics[name].value


def queue(cell: Cell) -> bool:
    """Write a cell's folder, which says that it waits to be started; False if it is finished."""
    own = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cell.config)
    try:
        task = copy.deepcopy(cell.config)
        with read_write(task), open_dict(task):
            del task["hydra"]
        queue_run(task)
    except FinishedRunError as error:
        log.info("%s", error)
        return False
    finally:
        HydraConfig.instance().cfg = own
    return True


def run_by_ranks(cfg: DictConfig) -> bool:
    """True once processes of their own have done this run, which several devices of this machine
    need. False with one device; and in such a process, which is connected to the others then."""
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.RUN and hydra.runtime.choices.get("launcher") == "slurm":
        raise ValueError("launcher=slurm submits the cells of a sweep: give -m, for one cell too")
    config, folder = cfg, Path(hydra.runtime.output_dir)
    there = Path(cfg.run or "")
    if cfg.stage == "sr":
        config, _ = compose_sr_stage(cfg.run, list(hydra.overrides.task))
    elif cfg.run is not None and (there / "config.yaml").exists():
        # It goes on with that run as it was started.
        folder, config = there, OmegaConf.create(dict(Run.load(there).config))
    trainer, number = config.trainer, checked_num_ranks(config)
    if "WORLD_SIZE" in os.environ:
        if ranks.num_ranks() != number:
            raise ValueError(
                f"there are {ranks.num_ranks()} processes (WORLD_SIZE) for trainer.devices="
                f"{trainer.devices} x trainer.num_nodes={trainer.num_nodes}: make them as many"
            )
        if ranks.rank() > 0:
            logging.getLogger("dreambooth").setLevel(logging.WARNING)
        ranks.connect()
        return False
    if number == 1:
        return False
    if trainer.num_nodes > 1:
        raise ValueError(
            f"trainer.num_nodes={trainer.num_nodes}: several nodes need launcher=slurm, with -m"
        )
    own = command([*hydra.overrides.hydra, *hydra.overrides.task], hydra.runtime.output_dir)
    log.info("%d processes, one for each device", number)
    try:
        ranks.run_ranks([own + list(QUIET if rank else ()) for rank in range(number)])
    except ranks.RanksError as error:
        record_killed(folder, str(error), of_a_rank=error.killed)
        raise
    return True


def checked_num_ranks(config: DictConfig) -> int:
    """Of a run: trainer.devices x trainer.num_nodes. ValueError for what is no count, and where a
    batch is not to be divided by it."""
    trainer = config.trainer
    for key in ("devices", "num_nodes"):
        value = trainer[key]
        check_count(f"trainer.{key}", value)
    number = int(trainer.devices * trainer.num_nodes)
    trained = {"method": "base"}
    if OmegaConf.select(config, "sr.noise_level") is not None:
        trained["sr"] = "sr"
    for group, stage in trained.items():
        if OmegaConf.select(config, "stage") in (None, stage):
            size = OmegaConf.select(config, f"{group}.batch_size")
            ranks.check_batch_size(group, size, number)
    return number


def command(overrides: Sequence[str], folder: Path | str) -> list[str]:
    """That of one run into `folder`, with the overrides of this process's own command."""
    kept = [text for text in overrides if not assignment(text).key.startswith(_OF_SWEEPS)]
    return [sys.executable, sys.argv[0], *kept, f"hydra.run.dir='{folder}'"]
