"""From one command to its processes: the ranks of a run and the cells of a sweep."""

import copy
import logging
import os
import signal
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
from dreambooth.distributed.preemption import StoppedError, listen_for, stop_requested
from dreambooth.launch.start import compose_sr_stage, queue_run
from dreambooth.runs.overrides import assignment
from dreambooth.runs.run import FinishedRunError, Run, record_killed
from dreambooth.runs.settings import check_count

log = logging.getLogger(__name__)

QUIET = ("hydra.output_subdir=null", "hydra/job_logging=stdout")
"""Overrides for every rank but rank 0, which alone writes files."""

_SWEEP_KEYS = (
    *("hydra.mode", "hydra.sweep", "hydra/sweep", "hydra.launcher", "hydra/launcher"),
    *("launcher", "report"),
)


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
    """The cells of a sweep, from the arguments that Hydra gives a launcher.

    `loader` is Hydra's config loader.
    """
    cells, hydra_config = [], HydraConfig.instance().cfg
    for number, overrides in enumerate(job_overrides, first_number):
        cell: DictConfig = loader.load_sweep_config(config, list(overrides))
        with read_write(cell.hydra.runtime), open_dict(cell):
            cell.hydra.job.id = cell.hydra.job.num = number
            HydraConfig.instance().set_config(cell)  # resolves ${hydra:...} in the folder's name
            folder = Path(str(cell.hydra.sweep.dir), str(cell.hydra.sweep.subdir)).absolute()
            cell.hydra.runtime.output_dir = str(folder)
        checked_num_ranks(cell)
        cells.append(Cell(number, list(overrides), cell, folder))
    HydraConfig.instance().cfg = hydra_config
    return cells


def job_return(cell: Cell) -> JobReturn:
    """The result of a cell for Hydra's sweeper.

    A failed cell counts as completed, so that the sweep goes on; its status records the failure.
    """
    result = JobReturn(overrides=cell.overrides, cfg=cell.config, status=JobStatus.COMPLETED)
    try:
        result.return_value = objective(cell.folder, cell.config.get("objective"))
    except ValueError as error:
        sys.exit(str(error))
    return result


def objective(folder: Path, name: str | None) -> float | None:
    """The score that a sweeper optimizes; None if `name` is None or the run is not finished.

    ValueError if the finished run has no such score.
    """
    run = Run(folder, {})
    try:
        if name is None or run.status().state != "finished":
            return None
        metrics = run.read_metrics()
    except ValueError:
        return None
    if name not in metrics:
        known = ", ".join(metrics) or "none"
        raise ValueError(f"objective={name} is not a score of {folder}: choose from {known}")
    return metrics[name].value


def queue(cell: Cell) -> bool:
    """Create a cell's run folder with the status "queued"; False if the run is finished."""
    hydra_config = HydraConfig.instance().cfg
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
        HydraConfig.instance().cfg = hydra_config
    return True


def run_by_ranks(cfg: DictConfig) -> bool:
    """Run the command in one process for each device; return True when they have ended.

    Starts nothing and returns False if this process should do the run itself, because there is only
    one device or because this process is one of the ranks. A rank is then connected to the others.
    """
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.RUN and hydra.runtime.choices.get("launcher") == "slurm":
        raise ValueError("launcher=slurm submits the cells of a sweep: add -m, even for one cell")
    config, folder = cfg, Path(hydra.runtime.output_dir)
    earlier = Path(cfg.run or "")
    if cfg.stage == "sr":
        config, _ = compose_sr_stage(cfg.run, list(hydra.overrides.task))
    elif cfg.run is not None and (earlier / "config.yaml").exists():
        # This command resumes that run, with its config.
        folder, config = earlier, OmegaConf.create(dict(Run.load(earlier).config))
    trainer, number = config.trainer, checked_num_ranks(config)
    if "WORLD_SIZE" in os.environ:
        if ranks.num_ranks() != number:
            raise ValueError(
                f"there are {ranks.num_ranks()} processes (WORLD_SIZE) for trainer.devices="
                f"{trainer.devices} x trainer.num_nodes={trainer.num_nodes}: the numbers must agree"
            )
        if ranks.rank() > 0:
            logging.getLogger("dreambooth").setLevel(logging.WARNING)
        ranks.connect()
        return False
    if number == 1:
        return False
    check_one_node(config)
    one_rank = command([*hydra.overrides.hydra, *hydra.overrides.task], hydra.runtime.output_dir)
    log.info("%d processes, one for each device", number)
    listen_for(signal.SIGTERM, signal.SIGINT)
    commands = [one_rank + list(QUIET if rank else ()) for rank in range(number)]
    try:
        ranks.run_ranks(commands, stop_requested.is_set)
    except ranks.RanksError as error:
        record_killed(folder, str(error), of_a_rank=error.killed)
        raise
    if stop_requested.is_set():
        raise StoppedError("stopped as asked")
    return True


def check_one_node(config: DictConfig) -> None:
    """ValueError for several nodes where SLURM has not started a process on each of them."""
    number = OmegaConf.select(config, "trainer.num_nodes")
    if "WORLD_SIZE" not in os.environ and number is not None and number > 1:
        raise ValueError(
            f"trainer.num_nodes={number}: for several nodes, give launcher=slurm and -m"
        )


def checked_num_ranks(config: DictConfig) -> int:
    """The number of ranks of a run: trainer.devices x trainer.num_nodes.

    ValueError if one of these is not a count, or if a batch size is not a multiple of the result.
    """
    trainer = config.trainer
    for key in ("devices", "num_nodes"):
        value = trainer[key]
        check_count(f"trainer.{key}", value)
    number = int(trainer.devices * trainer.num_nodes)
    stage_of_group = {"method": "base"}
    if OmegaConf.select(config, "sr.noise_level") is not None:
        stage_of_group["sr"] = "sr"
    for group, stage in stage_of_group.items():
        if OmegaConf.select(config, "stage") in (None, stage):
            size = OmegaConf.select(config, f"{group}.batch_size")
            ranks.check_batch_size(group, size, number)
    return number


def command(overrides: Sequence[str], folder: Path | str) -> list[str]:
    """The command for a single run into `folder`, with these overrides."""
    kept = [text for text in overrides if not assignment(text).key.startswith(_SWEEP_KEYS)]
    return [sys.executable, sys.argv[0], *kept, f"hydra.run.dir='{folder}'"]
