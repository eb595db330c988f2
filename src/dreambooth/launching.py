"""From one command to the processes that do it: the ranks of a run, the cells of a sweep."""

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict

from dreambooth import parallel
from dreambooth.run import Run

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
        return num_ranks(self.config.trainer)


def cells_of(
    loader: Any, config: DictConfig, job_overrides: Sequence[Sequence[str]], first_number: int
) -> list[Cell]:
    """The cells of a sweep, from what Hydra gives a launcher; `loader`: Hydra's of configs."""
    found, own = [], HydraConfig.instance().cfg
    for number, overrides in enumerate(job_overrides, first_number):
        cell: DictConfig = loader.load_sweep_config(config, list(overrides))
        with open_dict(cell):
            cell.hydra.job.id = cell.hydra.job.num = number
        HydraConfig.instance().set_config(cell)  # what ${hydra:...} in the folder's name refers to
        sweep = cell.hydra.sweep
        folder = Path(str(sweep.dir), str(sweep.subdir)).absolute()
        found.append(Cell(number, list(overrides), cell, folder))
    HydraConfig.instance().cfg = own
    return found


def returned(cell: Cell) -> JobReturn:
    """What Hydra's sweeper is told of a cell. A failed one stops no sweep: its folder says so."""
    ended = JobReturn(overrides=cell.overrides, cfg=cell.config, status=JobStatus.COMPLETED)
    ended.return_value = None
    return ended


def queued(cell: Cell, job: str) -> None: ...


def done_by_ranks(cfg: DictConfig) -> bool:
    """True once processes of their own have done this run, which several devices of this machine
    need. False with one device; and in such a process, which is connected to the others then."""
    hydra = HydraConfig.get()
    trainer, folder = cfg.trainer, Path(hydra.runtime.output_dir)
    if cfg.run is not None and cfg.stage is None:  # goes on with that run as it was started
        folder = Path(cfg.run)
        trainer = OmegaConf.create(Run.there(folder).config["trainer"])
    number = num_ranks(trainer)
    if "WORLD_SIZE" in os.environ:
        if parallel.num_ranks() != number:
            raise ValueError(
                f"there are {parallel.num_ranks()} processes (WORLD_SIZE) for trainer.devices="
                f"{trainer.devices} x trainer.num_nodes={trainer.num_nodes}: make them as many"
            )
        if parallel.rank() > 0:
            logging.getLogger("dreambooth").setLevel(logging.WARNING)
        parallel.connect()
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
        parallel.run_ranks([own + list(QUIET if rank else ()) for rank in range(number)])
    except parallel.RanksError as error:
        tell_killed(folder, str(error))
        raise
    return True


def num_ranks(trainer: DictConfig) -> int:
    """Of a run: trainer.devices x trainer.num_nodes; ValueError for what is no count."""
    for key in ("devices", "num_nodes"):
        value = trainer[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"trainer.{key}={value}: give a whole number from 1 up")
    return int(trainer.devices * trainer.num_nodes)


def command(overrides: Sequence[str], folder: Path | str) -> list[str]:
    """That of one run into `folder`, with the overrides of this process's own command."""
    kept = [text for text in overrides if not text.lstrip("+~").startswith(_OF_SWEEPS)]
    return [sys.executable, sys.argv[0], *kept, f"hydra.run.dir='{folder}'"]


def tell_killed(folder: Path, reason: str) -> None:
    """The status of a run whose processes have ended, which a killed one has not told."""
    run = Run(folder, {})
    if (folder / "status.json").exists() and run.status().state == "running":
        run.set_status("failed", reason)
