"""launcher=slurm: submits the cells of a sweep as SLURM job arrays."""

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

_POLLING_SECONDS = 2.0
# Starts Python with SIGUSR2 blocked: a signal that arrives during the imports waits instead of
# killing the process.
_PYTHON_WITH_BLOCKED_SIGNAL = """import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"""

# Settings of conf/launcher/slurm.yaml that are not passed to sbatch as they are.
_NOT_FOR_SBATCH = ("wait", "jobs", "gpu_type", "max_num_timeout", "setup", "additional_parameters")


class SlurmLauncher(submitit_launcher.SlurmLauncher):
    """hydra-submitit-launcher, which pickles jobs and runs them, with two methods replaced.

    - `launch`: the plugin stops waiting at the first cell that fails, requests the same resources
      for all cells whatever their trainer.devices, and, if it runs inside a job itself, passes that
      job's variables on to the new ones.
    - `__call__`: in the plugin every task writes the files of the run folder, and submitit's signal
      handler interrupts the job at once. Here the run finishes its step, saves and stops, and
      submitit then queues the job again.
    """

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        assert self.config is not None
        assert self.hydra_context is not None
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        if shutil.which("sbatch") is None:
            sys.exit(
                "launcher=slurm: sbatch is not installed here. Give the command on a node of the "
                "cluster, or start a small test cluster with make slurm-test-cluster"
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
            log.info("The jobs are submitted: repeat the command to see their status")
        return [job_return(cell) for cell in cells]

    def _submit(self, cells: Sequence[Cell]) -> None:
        """Submit one job array for all cells that need the same resources."""
        active = slurm.active_jobs() or {}
        to_submit = [cell for cell in cells if _must_submit(cell, active)]
        for resources, group in groupby(sorted(to_submit, key=_resources), key=_resources):
            array = list(group)
            executor = self._executor(*resources)
            jobs = [
                (_job_overrides(cell), "hydra.sweep.dir", cell.number, "", Singleton.get_state())
                for cell in array
            ]
            with _clean_environment():
                try:
                    submitted = executor.map_array(self, *zip(*jobs, strict=True))
                except Exception as error:  # submitit raises several types
                    reason = f"SLURM does not accept the jobs: {_in_one_line(error)}"
                    for cell in to_submit:
                        if not Run(cell.folder, {}).status().job:
                            Run(cell.folder, {}).set_status("failed", reason)
                    raise ValueError(reason) from error
            for cell, job in zip(array, submitted, strict=True):
                log.info("\t#%d : %s", cell.number, " ".join(filter_overrides(cell.overrides)))
                log.info("\t     job %s, with its output in %s", job.job_id, job.paths.stdout)
                Run(cell.folder, {}).set_status("queued", job=job.job_id)
            # The jobs were held until now, because a starting job writes the same status files.
            slurm.release_jobs([job.job_id for job in submitted])

    def _executor(self, num_nodes: int, devices: int, on_cpu: bool) -> Any:
        import submitit

        assert self.config is not None
        params = self.params
        folder = Path(str(self.config.hydra.sweep.dir), ".submitit", "%j").absolute()
        python = shlex.join([sys.executable, "-c", _PYTHON_WITH_BLOCKED_SIGNAL])
        executor = submitit.SlurmExecutor(folder, params["max_num_timeout"], python=python)
        gpus = f"{params['gpu_type']}:{devices}" if params["gpu_type"] else devices
        source = Path(dreambooth.__file__).parents[1]
        executor.update_parameters(
            **{k: v for k, v in params.items() if k not in _NOT_FOR_SBATCH and v is not None},
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
        """Wait until every cell has finished or failed. Ctrl-C ends the waiting, not the jobs."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        left = {cell.folder: cell for cell in cells}
        try:
            while left:
                active, before = slurm.active_jobs(), len(left)
                for folder, cell in list(left.items()):
                    status = refresh_status(Run(folder, {}), active)
                    if status.state in ("finished", "failed"):
                        del left[folder]
                        log.info("\t#%d %s: %s", cell.number, describe(status), folder)
                if len(left) < before:
                    sweep.print_sweep_progress(cells[0].folder.parent)
                time.sleep(_POLLING_SECONDS if left else 0)
        except KeyboardInterrupt:
            jobs = " ".join(Run(folder, {}).status().job for folder in left)
            sys.exit(f"The jobs continue without this command. To end them: scancel {jobs}")

    def __call__(self, sweep_overrides: list[str], *args: Any) -> JobReturn:
        """Run the cell; SLURM starts this in each task of the job."""
        import submitit

        from dreambooth.distributed import preemption

        job = submitit.JobEnvironment()
        if job.num_tasks > 1:
            ranks = submitit.helpers.TorchDistributedEnvironment()
            ranks.export(set_cuda_visible_devices=False, overwrite=True)
            os.environ["GROUP_RANK"] = str(job.node)
        user_signal = signal.SIGUSR2  # submitit has SLURM send it before the time limit
        queue_again = signal.getsignal(user_signal)  # submitit's handler
        # SIGTERM comes from scancel, or from a preemption after which SLURM itself requeues.
        preemption.listen_for(user_signal, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [user_signal])
        assert self.config is not None
        # provenance.json records the command that a user would type.
        sys.argv = [f"src/{self.config.hydra.job.name}.py", *sweep_overrides]
        quiet = [] if job.global_rank == 0 else list(QUIET)
        result = super().__call__([*sweep_overrides, *quiet], *args)
        run = Run(Path(result.hydra_cfg.hydra.runtime.output_dir), {})
        if preemption.stop_requested.is_set() and run.status().state == "preempted":
            assert callable(queue_again)
            try:
                # The handler is called directly, since perhaps only another task received the
                # signal. After SIGTERM, requeuing is up to SLURM.
                if signal.SIGTERM not in preemption.received_signals:
                    queue_again(user_signal, None)
            except subprocess.CalledProcessError as error:
                # SLURM ends a job that it requeues, and this may end the requeue command itself.
                if error.returncode != -signal.SIGTERM:
                    raise
                sys.exit(1)
            except submitit.core.utils.UncompletedJobError:
                limit = self.params["max_num_timeout"]
                run.set_status(
                    "failed",
                    f"it reached its time limit more than launcher.max_num_timeout={limit} times: "
                    "repeat the command with a longer launcher.time",
                )
                raise
        elif outcome.noted_failures():
            sys.exit(1)  # so that SLURM ends the other tasks
        return result


def _must_submit(cell: Cell, active: Mapping[str, str]) -> bool:
    """Queue a cell unless it is finished or in an active job; return whether to submit it.

    A cell that cannot be queued is logged as failed and does not stop the others.
    """
    try:
        return not _has_job(cell, active) and queue(cell)
    except (ValueError, OSError) as error:
        log.error("\t#%d: %s", cell.number, error)
        outcome.note_failure(cell.folder.name, str(error))
        return False


def _resources(cell: Cell) -> tuple[int, int, bool]:
    """What a cell needs: the number of nodes, the devices per node, and whether these are CPUs."""
    trainer = cell.config.trainer
    return trainer.num_nodes, trainer.devices, trainer.accelerator == "cpu"


def _in_one_line(error: Exception) -> str:
    """The first line of an error message that contains "error:", or else its first line."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "error:" in line), lines[0] if lines else repr(error))


def _has_job(cell: Cell, active: Mapping[str, str]) -> bool:
    """Whether a cell already waits or runs in a job."""
    try:
        job = Run(cell.folder, {}).status().job
    except ValueError:  # a damaged run is replaced with force=true
        return False
    if job in active:
        log.info("\t#%d is job %s (%s)", cell.number, job, active[job])
    return job in active


def _job_overrides(cell: Cell) -> list[str]:
    """The overrides of a cell without `force`, so that a requeued job resumes its run."""
    return [text for text in cell.overrides if assignment(text).key != "force"]


@contextmanager
def _clean_environment() -> Iterator[None]:
    """Hide the variables of the job that this process may run in, but keep SLURM_CONF."""
    from submitit.helpers import clean_env

    kept = {key: os.environ[key] for key in ("SLURM_CONF",) if key in os.environ}
    with clean_env():
        os.environ.update(kept)
        yield
