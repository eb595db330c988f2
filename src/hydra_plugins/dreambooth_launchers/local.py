"""launcher=local: the cells of a sweep on this machine."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn, configure_log, filter_overrides, setup_globals

from dreambooth.distributed import ranks
from dreambooth.launch.outcome import note_failure, record_failure
from dreambooth.launch.processes import Cell, cells_of, command, job_return
from dreambooth.launch.sweep import print_sweep_progress
from dreambooth.runs.settings import check_count

log = logging.getLogger(__name__)


class LocalLauncher(BasicLauncher):
    """One cell after the other in this process, as Hydra does it; or `jobs` cells at a time.

    Then each cell is a process of its own, which runs the plain command of that one run: `python
    src/train.py OVERRIDES hydra.run.dir=FOLDER`. What it prints is in FOLDER/output.log. A cell
    that fails, or is killed, stops no other. Ctrl-C ends them all, and so does the end of this
    process. The cores are divided among the cells (OMP_NUM_THREADS, unless it is set), and so are
    the GPUs: each cell has trainer.devices of its own. The bits of a result on a CPU hold for one
    number of threads.

    Why not Hydra's joblib plugin: there a killed cell takes its whole pool along, and all cells
    print into one terminal.
    """

    def __init__(self, jobs: int = 1) -> None:
        super().__init__()
        self.jobs = jobs

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        try:
            check_count("launcher.jobs", self.jobs)
        except ValueError as error:
            sys.exit(str(error))
        if self.jobs == 1:
            one_by_one: Sequence[JobReturn] = super().launch(job_overrides, initial_job_idx)
            return one_by_one
        setup_globals()
        assert self.config is not None
        assert self.hydra_context is not None
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        try:
            cells = cells_of(
                self.hydra_context.config_loader, self.config, job_overrides, initial_job_idx
            )
            seats = _seats(self.jobs, cells)
        except ValueError as error:
            sys.exit(str(error))
        log.info("Launching %d jobs locally, %d at a time", len(cells), self.jobs)
        own = list(self.config.hydra.overrides.hydra)
        self._run(cells, seats, own)
        return [job_return(cell) for cell in cells]

    def _run(
        self, cells: Sequence[Cell], seats: Sequence[Mapping[str, str]], own: list[str]
    ) -> None:
        waiting, free = list(cells), list(seats)
        running: list[tuple[Cell, Mapping[str, str], subprocess.Popen]] = []
        try:
            while waiting or running:
                while waiting and free:
                    cell, seat = waiting.pop(0), free.pop(0)
                    log.info("\t#%d : %s", cell.number, " ".join(filter_overrides(cell.overrides)))
                    try:
                        running.append((cell, seat, _start(cell, seat, own)))
                    except OSError as error:
                        free.append(seat)
                        log.error("\t#%d: %s", cell.number, error)
                        note_failure(cell.folder.name, str(error))
                for ended in [entry for entry in running if entry[2].poll() is not None]:
                    running.remove(ended)
                    free.append(ended[1])
                    _tell(ended[0], ended[2].returncode)
                    print_sweep_progress(ended[0].folder.parent)
                time.sleep(0.1)
        except KeyboardInterrupt:
            ranks.interrupt_processes([process for _, _, process in running])
            raise
        finally:
            ranks.end_processes([process for _, _, process in running])


def _start(cell: Cell, seat: Mapping[str, str], own: list[str]) -> subprocess.Popen:
    cell.folder.mkdir(parents=True, exist_ok=True)
    with (cell.folder / "output.log").open("ab") as output:
        words = command([*own, *cell.overrides], cell.folder)
        return ranks.start_process(words, os.environ | seat, output)


def _tell(cell: Cell, code: int) -> None:
    if code == 0:
        log.info("\t#%d ended well: %s", cell.number, cell.folder)
        return
    how = f"#{cell.number} {ranks.exit_in_words(code)}: see {cell.folder / 'output.log'}"
    log.error("\t%s", how)
    record_failure(cell.folder, ranks.exit_in_words(code))


def _seats(jobs: int, cells: Sequence[Cell]) -> list[dict[str, str]]:
    """The environment of each place that a cell may take: its threads, and its GPUs if there are
    any. ValueError if there are too few."""
    most = max(cell.devices for cell in cells)
    threads = os.environ.get("OMP_NUM_THREADS") or str(ranks.num_threads(jobs * most))
    seats = [{"OMP_NUM_THREADS": threads} for _ in range(jobs)]
    gpus = _gpus() if any(cell.config.trainer.accelerator != "cpu" for cell in cells) else []
    if not gpus:
        return seats
    if jobs * most > len(gpus):
        raise ValueError(
            f"launcher.jobs={jobs} cells of {most} devices each need {jobs * most} GPUs, and "
            f"{len(gpus)} are here: give a smaller launcher.jobs"
        )
    for i, seat in enumerate(seats):
        seat["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[i * most : (i + 1) * most])
    return seats


def _gpus() -> list[str]:
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return visible.split(",")
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
