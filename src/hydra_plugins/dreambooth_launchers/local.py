"""launcher=local: runs the cells of a sweep on this machine."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn, configure_log, filter_overrides, setup_globals

from dreambooth.distributed import ranks
from dreambooth.distributed.preemption import listen_for, stop_requested
from dreambooth.launch.outcome import note_failure, record_failure
from dreambooth.launch.processes import Cell, cells_of, command, job_return
from dreambooth.launch.sweep import print_sweep_progress
from dreambooth.runs.settings import check_count

log = logging.getLogger(__name__)


class LocalLauncher(BasicLauncher):
    """Runs one cell after another in this process, as Hydra does, or `jobs` cells in parallel.

    In parallel, each cell is a separate process that runs the plain command of that one run:
    `python src/train.py OVERRIDES hydra.run.dir=FOLDER`. Its output goes to FOLDER/output.log. A
    cell that fails or is killed does not stop the others. Ctrl-C ends all cells, and so does the
    end of this process. The cells share the CPU cores (by OMP_NUM_THREADS, unless it is set) and
    the GPUs (trainer.devices each). On a CPU, results are reproducible to the bit only for the same
    number of threads.

    Hydra's joblib plugin does not fit: there a killed cell ends its whole pool, and all cells print
    into one terminal.
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
            one_by_one = _UntilStopped(job_overrides)
            returns: Sequence[JobReturn] = super().launch(one_by_one, initial_job_idx)
            return returns
        setup_globals()
        assert self.config is not None
        assert self.hydra_context is not None
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        try:
            cells = cells_of(
                self.hydra_context.config_loader, self.config, job_overrides, initial_job_idx
            )
            slots = _slots(self.jobs, cells)
        except ValueError as error:
            sys.exit(str(error))
        log.info("Launching %d jobs locally, %d at a time", len(cells), self.jobs)
        self._run(cells, slots, list(self.config.hydra.overrides.hydra))
        return [job_return(cell) for cell in cells]

    def _run(
        self,
        cells: Sequence[Cell],
        slots: Sequence[Mapping[str, str]],
        hydra_overrides: list[str],
    ) -> None:
        waiting, free = list(cells), list(slots)
        running: list[tuple[Cell, Mapping[str, str], subprocess.Popen]] = []
        listen_for(signal.SIGINT, signal.SIGTERM)
        interrupted = False
        try:
            while waiting or running:
                if stop_requested.is_set() and not interrupted:
                    ranks.interrupt_processes([process for _, _, process in running])
                    waiting, interrupted = [], True
                while waiting and free:
                    cell, slot = waiting.pop(0), free.pop(0)
                    log.info("\t#%d : %s", cell.number, " ".join(filter_overrides(cell.overrides)))
                    try:
                        running.append((cell, slot, _start(cell, slot, hydra_overrides)))
                    except OSError as error:
                        free.append(slot)
                        log.error("\t#%d: %s", cell.number, error)
                        note_failure(cell.folder.name, str(error))
                for entry in [entry for entry in running if entry[2].poll() is not None]:
                    running.remove(entry)
                    cell, slot, process = entry
                    free.append(slot)
                    if not interrupted:
                        _report_end(cell, process.returncode)
                    print_sweep_progress(cell.folder.parent)
                time.sleep(0.1)
        finally:
            ranks.end_processes([process for _, _, process in running])


class _UntilStopped(list[Sequence[str]]):
    """The overrides of each cell; their iteration ends when this process is asked to stop."""

    def __iter__(self) -> Iterator[Sequence[str]]:
        return takewhile(lambda _: not stop_requested.is_set(), super().__iter__())


def _start(cell: Cell, slot: Mapping[str, str], hydra_overrides: list[str]) -> subprocess.Popen:
    cell.folder.mkdir(parents=True, exist_ok=True)
    with (cell.folder / "output.log").open("ab") as output:
        cell_command = command([*hydra_overrides, *cell.overrides], cell.folder)
        return ranks.start_process(cell_command, os.environ | slot, output)


def _report_end(cell: Cell, code: int) -> None:
    if code == 0:
        log.info("\t#%d succeeded: %s", cell.number, cell.folder)
        return
    how = f"#{cell.number} {ranks.exit_in_words(code)}: see {cell.folder / 'output.log'}"
    log.error("\t%s", how)
    record_failure(cell.folder, ranks.exit_in_words(code))


def _slots(jobs: int, cells: Sequence[Cell]) -> list[dict[str, str]]:
    """The environment variables of each of the `jobs` slots: its threads, and its GPUs if any.

    ValueError if there are too few GPUs.
    """
    devices = max(cell.devices for cell in cells)
    threads = os.environ.get("OMP_NUM_THREADS") or str(ranks.num_threads(jobs * devices))
    slots = [{"OMP_NUM_THREADS": threads} for _ in range(jobs)]
    gpus = _gpus() if any(cell.config.trainer.accelerator != "cpu" for cell in cells) else []
    if not gpus:
        return slots
    if jobs * devices > len(gpus):
        raise ValueError(
            f"launcher.jobs={jobs} cells of {devices} devices each need {jobs * devices} GPUs, but "
            f"this machine has {len(gpus)}: give a smaller launcher.jobs"
        )
    for i, slot in enumerate(slots):
        slot["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[i * devices : (i + 1) * devices])
    return slots


def _gpus() -> list[str]:
    """The ids of the GPUs that this process may use."""
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return visible.split(",")
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
