"""How a run ends, alone or in a sweep: its status, its error in one sentence, the sweep's table."""

import errno
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from dreambooth.launching import tell_killed
from dreambooth.parallel import RanksError, num_ranks, rank
from dreambooth.run import FinishedRunError, Run, Status
from dreambooth.stopping import StoppedError

log = logging.getLogger(__name__)

_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_failures: list[str] = []  # of this process's sweep


@contextmanager
def recorded(run: Run) -> Iterator[None]:
    """status.json tells how it ended, and the logger is closed."""
    exit_code = 1
    try:
        yield
        if rank() == 0:
            run.set_status("finished")
            run.discard_checkpoints()
            log.info("finished: %s", run.folder)
        exit_code = 0
    except KeyboardInterrupt:
        _tell_end(run, "failed", "interrupted")
        raise
    except StoppedError:
        _tell_end(run, "preempted")
        raise
    except SystemExit as error:
        # Lightning's answer to Ctrl-C is to exit.
        interrupted = isinstance(error.__context__, KeyboardInterrupt)
        _tell_end(run, "failed", "interrupted" if interrupted else str(error))
        raise
    except BaseException as error:
        told = _tell_end(run, "failed", str(error) or type(error).__name__)
        if told.reason not in (str(error), type(error).__name__):
            raise RanksError(f"another process of this run failed: {told.reason}") from error
        raise
    finally:
        _finish_wandb(exit_code)


def _tell_end(run: Run, state: str, reason: str = "") -> Status:
    """The run's status from now on: the word of the first of its ranks, since when one fails the
    others fail too, for want of it."""
    if num_ranks() == 1 or run.status().state == "running":
        run.set_status(state, reason)
    return run.status()


@contextmanager
def tell_errors() -> Iterator[None]:
    """A user's mistake is one sentence, not a traceback. In a sweep the other cells go on."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from dreambooth.module import DivergedError

    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        yield
    except FinishedRunError as error:
        log.info("%s", error)
    except Exception as error:
        if isinstance(
            error,
            ValueError | DivergedError | RanksError | StoppedError | MisconfigurationException,
        ) or (isinstance(error, OSError) and error.errno in _DISK_IS_FULL):
            of_all = isinstance(error, ValueError | StoppedError)  # every rank finds it
            log.log(logging.ERROR if rank() == 0 or not of_all else logging.DEBUG, "%s", error)
            log.debug("raised here:", exc_info=True)  # hydra.verbose=true
        elif in_sweep:
            log.exception("this cell failed")
        else:
            raise
        if not in_sweep:
            sys.exit(1)
        _failures.append(str(error))


def tell_failure(folder: Path, reason: str) -> None:
    """Of a cell that had a process of its own: the sweep ends badly, and its status tells why."""
    tell_killed(folder, reason)
    _failures.append(reason)


def failures() -> list[str]:
    """Of this process's sweep."""
    return _failures


def _finish_wandb(exit_code: int) -> None:
    wandb: Any = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=exit_code)


class SweepTable(Callback):
    """After a sweep: its table in the terminal, and sweep.csv in its folder."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        _failures.clear()

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        rows = tell_table(Path(config.hydra.sweep.dir))
        failed = [row for row in rows if row["state"] in ("failed", "damaged")]
        if failed or _failures:
            sys.exit(f"{max(len(failed), len(_failures))} of {len(rows)} runs failed")


def tell_table(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder of runs: in the terminal, and as its sweep.csv."""
    from dreambooth.reporting.table import print_table, sweep_rows, write_csv

    rows = sweep_rows(folder)
    print_table(rows)
    write_csv(rows, folder / "sweep.csv")
    print(f"\n{folder / 'sweep.csv'}")
    return rows
