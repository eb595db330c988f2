"""Hydra callbacks for sweeps: the folder names, the progress, and the table."""

import logging
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from dreambooth.distributed.preemption import exit_code_of_stop
from dreambooth.launch.checks import check_jobs, check_search, refuse
from dreambooth.launch.outcome import forget_failures, noted_failures, reason_of
from dreambooth.runs.cells import (
    affects_result,
    cell_name,
    find_runs,
    order_in,
    read_cells,
    result_settings,
    sweep_folder,
    write_cells,
)
from dreambooth.runs.checks import check_writable
from dreambooth.runs.overrides import assignment
from dreambooth.runs.ownership import check_folder
from dreambooth.runs.run import Run
from dreambooth.runs.settings import as_typed
from dreambooth.subjects.dreambench import ALL, DreamBench

log = logging.getLogger(__name__)

_cells: list[str] = []  # of this process's sweep; empty if they are not known in advance

OmegaConf.register_new_resolver("cell", cell_name, replace=True)  # for conf/train.yaml


class Folders(Callback):
    """Sets where runs are written.

    A sweep folder is named by what is swept, a cell folder by the cell's overrides, in the order of
    the command line. If an earlier sweep of the same keys in another order exists, it is continued:
    its folder and its order are used. A resumed run stays in its folder.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        resumed = Path(config.run or "")
        if config.run is not None and config.stage != "sr" and (resumed / "config.yaml").exists():
            with open_dict(config):
                config.hydra.run.dir, config.hydra.output_subdir = str(resumed), None
        try:
            check_folder(Path(config.hydra.run.dir))  # before Hydra writes its files into it
        except ValueError as error:
            sys.exit(str(error))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        _cells.clear()
        hydra = config.hydra
        with refuse(), open_dict(config):
            hydra.overrides.task = _with_all_subjects(config)
        params = [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()]
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        overrides = parser.parse_overrides([*params, *hydra.overrides.task])
        fixed = result_settings([str(o.input_line) for o in overrides if not o.is_sweep_override()])
        fixed = {key: value for key, value in fixed.items() if f"{key}={value}" not in params}
        typed = result_settings([str(o.input_line) for o in overrides])
        swept = [key for key in typed if key not in fixed]
        dir_given = any(assignment(o).key == "hydra.sweep.dir" for o in hydra.overrides.hydra)
        with refuse():
            if not hydra.sweep.dir:
                raise ValueError(f"hydra.sweep.dir={as_typed(hydra.sweep.dir)}: give a folder")
        root = Path(hydra.sweep.dir)
        folder = root if dir_given else sweep_folder(root, swept, fixed)
        keys = list(fixed)
        with refuse():
            orders = [order_in(name, swept) for name in (folder.name, *read_cells(folder))]
        order = next(filter(None, orders), swept)
        with open_dict(config):
            hydra.overrides.task = _in_order(hydra.overrides.task, order)
            hydra.sweep.dir = str(folder)
            hydra.job.config.override_dirname.exclude_keys = keys
            # Hydra composes the config of each cell again, from these overrides.
            hydra.overrides.hydra += [
                f"hydra.sweep.dir='{folder}'",
                f"hydra.job.config.override_dirname.exclude_keys={keys}",
            ]
        # Other sweepers choose each cell by the results of earlier ones.
        if not hydra.sweeper._target_.endswith(".BasicSweeper"):
            with refuse():
                check_search(config)
            return
        overrides = parser.parse_overrides([*params, *hydra.overrides.task])
        with refuse():
            jobs = BasicSweeper.split_arguments(overrides, None)[0]
            if not jobs:
                raise ValueError("this sweep has no cell: list values, as seed=0,1")
            check_writable("hydra.sweep.dir", folder)
            finished = [
                not config.force and _is_finished(folder / cell_name(job, keys)) for job in jobs
            ]
            check_jobs(config, jobs, finished)
            cells = {cell_name(job, keys): [*filter(affects_result, job)] for job in jobs}
            _cells[:] = cells
            write_cells(folder, cells)
            _print_num_finished(folder, cells, config.force)


def _with_all_subjects(config: DictConfig) -> list[str]:
    """The overrides, in which subject.name=all of DreamBench is the list of its subjects."""
    overrides, every = list(config.hydra.overrides.task), f"subject.name={ALL}"
    if (
        every in overrides
        and "dreambench" in config
        and not OmegaConf.is_missing(config, "dreambench")
    ):
        bench = DreamBench.read(config.dreambench)
        if not bench.present:
            raise ValueError(f"{bench.folder} holds the photos of no subject of DreamBench")
        if len(bench.present) < len(bench.classes):
            count = f"{len(bench.present)} of {len(bench.classes)}"
            print(f"{bench.folder} holds {count} subjects of DreamBench: these are the sweep's")
        overrides[overrides.index(every)] = f"subject.name={','.join(bench.present)}"
    return overrides


def _in_order(overrides: Sequence[str], order: Sequence[str]) -> list[str]:
    """Put the overrides of some keys into an order; all others stay where they are."""
    keys = [next(iter(result_settings([text])), "") for text in overrides]
    chosen = [
        (order.index(key), text) for key, text in zip(keys, overrides, strict=True) if key in order
    ]
    ordered = iter(text for _, text in sorted(chosen))
    return [
        next(ordered) if key in order else text for key, text in zip(keys, overrides, strict=True)
    ]


def _is_finished(cell: Path) -> bool:
    with suppress(ValueError):  # it is damaged
        return Run(cell, {}).status().state == "finished"
    return False


def _print_num_finished(folder: Path, cells: Collection[str], force: bool) -> None:
    states = {run.folder.name: run.status().state for run in find_runs(folder)}
    number = sum(states[name] == "finished" for name in cells)
    if number and not force:
        print(f"{number} of {len(cells)} cells finished already, in {folder}")


class SweepTable(Callback):
    """Prints the progress of a sweep after each cell, and its results at the end.

    At the end it prints the table, writes sweep.csv into the sweep folder and, with `report`,
    makes the report.
    """

    def __init__(self, report: bool = False):
        self.report = report

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        forget_failures()

    def on_job_end(self, config: DictConfig, job_return: Any, **_: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN:
            print_sweep_progress(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        rows: list[dict[str, Any]] = []
        problems = []
        try:
            rows = _rows(folder)
            _print_and_save(rows, folder)
            if self.report:
                from dreambooth.reporting.report import report_on

                print(report_on([folder]))
        except Exception as error:  # Hydra would turn it into a warning and exit with 0
            log.debug("raised here:", exc_info=True)
            problems = [f"the table or the report could not be made: {reason_of(error)}"]
        code = exit_code_of_stop()
        bad = ["failed", "damaged", *([] if code is not None else ["missing"])]
        failed = {
            str(row["run"]): row["reason"]
            for row in rows
            if row["state"] in bad and (not _cells or row["run"] in _cells)
        } | noted_failures()
        if failed:
            lines = [
                f"  {name}: {reason}{_log_files(folder / name)}" for name, reason in failed.items()
            ]
            number = len(_cells or rows)
            problems += [f"{len(failed)} of {number} runs failed:", *lines]
        _cells.clear()
        if code is not None:
            print("\n".join([*problems, "stopped as asked; to go on, give the same command again"]))
            sys.exit(code)
        if problems:
            sys.exit("\n".join(problems))


def print_sweep_progress(folder: Path) -> None:
    """Print the progress of this process's sweep. A failure to do so does not stop the sweep."""
    from dreambooth.launch.sweep_progress import print_progress

    try:
        print_progress(folder, _cells)
    except Exception:  # e.g. a file is damaged, or just being replaced
        log.debug("the progress of the sweep cannot be printed:", exc_info=True)


def _log_files(cell: Path) -> str:
    return "".join(f"\n    {path}" for path in sorted(cell.glob("*.log")))


def print_sweep_table(folder: Path) -> None:
    """Print the table of a folder of runs, and save it there as sweep.csv."""
    _print_and_save(_rows(folder), folder)


def _rows(folder: Path) -> list[dict[str, Any]]:
    from dreambooth.launch.sweep_table import sweep_rows

    return sweep_rows(folder)


def _print_and_save(rows: list[dict[str, Any]], folder: Path) -> None:
    from dreambooth.launch.sweep_table import print_table, write_csv

    print_table(rows)
    write_csv(rows, folder / "sweep.csv")
    print(f"\n{folder / 'sweep.csv'}")
