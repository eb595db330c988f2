"""launcher=slurm: the cells of a sweep as a SLURM job array."""

import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, filter_overrides
from hydra_plugins.hydra_submitit_launcher import submitit_launcher

import dreambooth
from dreambooth.distributed import slurm
from dreambooth.launch import outcome, sweep
from dreambooth.launch.processes import QUIET, Cell, cells_of, job_return, queue
from dreambooth.runs.orphans import refresh_status
from dreambooth.runs.overrides import assignment
from dreambooth.runs.run import Run
from dreambooth.runs.settings import check_count
from dreambooth.runs.status import describe

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 2.0
# A Python that keeps a signal for later which comes while it loads, instead of dying of it.
_PATIENT = """import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"""

# What is not passed on to sbatch as it stands.
_OWN = ("wait", "jobs", "gpu_type", "max_num_timeout", "setup", "additional_parameters")


class SlurmLauncher(submitit_launcher.SlurmLauncher):
    """hydra-submitit-launcher, where it does not fall short: it pickles the job and runs it.

    What is its own here, and why:
    - `launch`: the plugin waits for each cell and gives up at the first that failed, has one
      request for all cells whatever trainer.devices they have, and passes the variables of a job
      that it runs in itself on to the new one.
    - `__call__`: in the plugin every task writes the folder's files; a signal ends the job wherever
      it is, by submitit's handler. Here the run saves at the end of its step and stops, and then
      submitit queues it again.
    """

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        assert self.config is not None
        assert self.hydra_context is not None
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        if shutil.which("sbatch") is None:
            sys.exit(
                "launcher=slurm: there is no sbatch here. Give the command on a machine of the "
                "cluster, or try a small cluster of your own: make slurm-test-cluster"
            )
        loader = self.hydra_context.config_loader
        try:
            for key in ("time", "jobs"):
                check_count(f"launcher.{key}", self.params[key])
            cells = cells_of(loader, self.config, job_overrides, initial_job_idx)
            self._submit(cells)
        except ValueError as error:
            sys.exit(str(error))
        if self.params["wait"]:
            self._wait([cell for cell in cells if cell.folder.name not in outcome.noted_failures()])
        else:
            log.info("The jobs are SLURM's now: the same command again tells how they are")
        return [job_return(cell) for cell in cells]

    def _submit(self, cells: Sequence[Cell]) -> None:
        """One array for all cells of the same shape."""
        there = slurm.active_jobs() or {}
        left = [cell for cell in cells if _queued(cell, there)]
        for shape, group in groupby(sorted(left, key=_shape), key=_shape):
            alike = list(group)
            executor = self._executor(*shape)
            jobs = [
                (_of_job(cell), "hydra.sweep.dir", cell.number, "", Singleton.get_state())
                for cell in alike
            ]
            with _clean_environment():
                try:
                    submitted = executor.map_array(self, *zip(*jobs, strict=True))
                except Exception as error:  # submitit has several
                    reason = f"SLURM does not take the jobs: {_in_a_line(error)}"
                    for cell in left:
                        if not Run(cell.folder, {}).status().job:
                            Run(cell.folder, {}).set_status("failed", reason)
                    raise ValueError(reason) from error
            for cell, job in zip(alike, submitted, strict=True):
                log.info("\t#%d : %s", cell.number, " ".join(filter_overrides(cell.overrides)))
                log.info("\t     job %s, which prints into %s", job.job_id, job.paths.stdout)
                Run(cell.folder, {}).set_status("queued", job=job.job_id)
            # Held till now: a job that starts says so in the same files.
            slurm.release_jobs([job.job_id for job in submitted])

    def _executor(self, num_nodes: int, devices: int, on_cpu: bool) -> Any:
        import submitit

        assert self.config is not None
        params = self.params
        folder = Path(str(self.config.hydra.sweep.dir), ".submitit", "%j").absolute()
        python = shlex.join([sys.executable, "-c", _PATIENT])
        executor = submitit.SlurmExecutor(folder, params["max_num_timeout"], python=python)
        gpus = f"{params['gpu_type']}:{devices}" if params["gpu_type"] else devices
        source = Path(dreambooth.__file__).parents[1]
        executor.update_parameters(
            **{k: v for k, v in params.items() if k not in _OWN and v is not None},
            job_name=Path(str(self.config.hydra.sweep.dir)).name,
            nodes=num_nodes,
            ntasks_per_node=devices,
            gpus_per_node=None if on_cpu else gpus,
            array_parallelism=params["jobs"],
            stderr_to_stdout=True,
            srun_args=["--kill-on-bad-exit=1"],
            setup=[
                "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",  # else srun takes 1
                "export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK",
                f"export PYTHONPATH={source}:${{PYTHONPATH:-}}",
                *params["setup"],
            ],
            additional_parameters={**params["additional_parameters"], "hold": True},  # see _submit
        )
        return executor

    def _wait(self, cells: Sequence[Cell]) -> None:
        """Until none of them is SLURM's any more."""
        left = {cell.folder: cell for cell in cells}
        try:
            while left:
                there, before = slurm.active_jobs(), len(left)
                for folder, cell in list(left.items()):
                    status = refresh_status(Run(folder, {}), there)
                    if status.state in ("finished", "failed"):
                        del left[folder]
                        log.info("\t#%d %s: %s", cell.number, describe(status), folder)
                if len(left) < before:
                    sweep.print_sweep_progress(cells[0].folder.parent)
                time.sleep(_SECONDS_BETWEEN_LOOKS if left else 0)
        except KeyboardInterrupt:
            jobs = " ".join(Run(folder, {}).status().job for folder in left)
            sys.exit(f"The jobs go on without this command. To end them: scancel {jobs}")

    def __call__(self, sweep_overrides: list[str], *args: Any) -> JobReturn:
        """In the job, in each of its tasks."""
        import submitit

        from dreambooth.distributed import preemption

        job = submitit.JobEnvironment()
        if job.num_tasks > 1:
            ranks = submitit.helpers.TorchDistributedEnvironment()
            ranks.export(set_cuda_visible_devices=False, overwrite=True)
            os.environ["GROUP_RANK"] = str(job.node)
        user_signal = signal.SIGUSR2  # of submitit
        queue_again = signal.getsignal(user_signal)  # submitit's
        # SIGTERM: scancel, or a preemption that SLURM follows up itself.
        preemption.listen_for(user_signal, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [user_signal])
        assert self.config is not None
        # What a user would type: provenance.json has it.
        sys.argv = [f"src/{self.config.hydra.job.name}.py", *sweep_overrides]
        own = [] if job.global_rank == 0 else list(QUIET)
        ended = super().__call__([*sweep_overrides, *own], *args)
        run = Run(Path(ended.hydra_cfg.hydra.runtime.output_dir), {})
        if preemption.stop_requested.is_set() and run.status().state == "preempted":
            assert callable(queue_again)
            try:
                # Only another task may have heard of it. After SIGTERM it is SLURM's turn.
                if signal.SIGTERM not in preemption.received_signals:
                    queue_again(user_signal, None)
            except subprocess.CalledProcessError as error:
                # SLURM ends a job that it queues again, and may so end what asked it to.
                if error.returncode != -signal.SIGTERM:
                    raise
                sys.exit(1)
            except submitit.core.utils.UncompletedJobError:
                most = self.params["max_num_timeout"]
                run.set_status(
                    "failed",
                    f"its time was over more than launcher.max_num_timeout={most} times: give the "
                    "same command, with more launcher.time",
                )
                raise
        elif outcome.noted_failures():
            sys.exit(1)  # so that SLURM ends the other tasks
        return ended


def _queued(cell: Cell, there: Mapping[str, str]) -> bool:
    """Whether a cell is to be submitted; one that cannot be stops no other."""
    try:
        return not _has_job(cell, there) and queue(cell)
    except (ValueError, OSError) as error:
        log.error("\t#%d: %s", cell.number, error)
        outcome.note_failure(cell.folder.name, str(error))
        return False


def _shape(cell: Cell) -> tuple[int, int, bool]:
    """What decides the request: nodes, devices of each, and whether they are CPUs."""
    trainer = cell.config.trainer
    return trainer.num_nodes, trainer.devices, trainer.accelerator == "cpu"


def _in_a_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "error:" in line), lines[0] if lines else repr(error))


def _has_job(cell: Cell, there: Mapping[str, str]) -> bool:
    """Whether it waits or runs already."""
    try:
        job = Run(cell.folder, {}).status().job
    except ValueError:  # damaged: with force=true it is replaced
        return False
    if job in there:
        log.info("\t#%d is job %s (%s)", cell.number, job, there[job])
    return job in there


def _of_job(cell: Cell) -> list[str]:
    """The overrides of the job. Not `force`: a job that is queued again is to go on."""
    return [text for text in cell.overrides if assignment(text).key != "force"]


@contextmanager
def _clean_environment() -> Iterator[None]:
    """Without the variables of a job that this process may be in; but where SLURM's configuration
    is stays known."""
    from submitit.helpers import clean_env

    where = {key: os.environ[key] for key in ("SLURM_CONF",) if key in os.environ}
    with clean_env():
        os.environ.update(where)
        yield
