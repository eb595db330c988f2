"""How a run ends, alone or in a sweep: status, exit code, and errors in one sentence."""

import errno
import logging
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from dreambooth.distributed.preemption import StoppedError, received_signals
from dreambooth.distributed.ranks import RanksError, disconnect, num_ranks, rank
from dreambooth.runs.provenance import begin_provenance
from dreambooth.runs.run import FinishedRunError, Run, record_killed
from dreambooth.runs.status import Status

log = logging.getLogger(__name__)

_NOT_WRITABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
)

_failures: dict[str, str] = {}  # of this process's sweep: cell -> reason


@contextmanager
def record_outcome(run: Run) -> Iterator[None]:
    """status.json tells how it ended, provenance.json what made it, and the logger is closed."""
    exit_code = 1
    try:
        if rank() == 0:
            begin_provenance(run)
        yield
        if rank() == 0:
            run.set_status("finished")
            run.tidy()
            log.info("finished: %s", run.folder)
        exit_code = 0
    except StoppedError:
        _record_end(run, "preempted")
        raise
    except BaseException as error:
        reason = reason_of(error)
        with suppress(OSError):  # the disk is full: that is the error to tell
            told = _record_end(run, "failed", reason)
            if told.reason != reason:
                raise RanksError(f"another process of it failed: {told.reason}") from error
        raise
    finally:
        _finish_wandb(exit_code)


def _record_end(run: Run, state: str, reason: str = "") -> Status:
    """The run's status from now on: the word of the first of its ranks, since when one fails the
    others fail too, for want of it."""
    if num_ranks() == 1 or run.status().state == "running":
        run.set_status(state, reason)
    return run.status()


def reason_of(error: BaseException) -> str:
    # Lightning's answer to Ctrl-C is to exit.
    if isinstance(error, KeyboardInterrupt) or (
        isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt)
    ):
        return "interrupted"
    return str(error) or type(error).__name__


@contextmanager
def report_errors() -> Iterator[None]:
    """A user's mistake is one sentence, not a traceback. In a sweep the other cells go on."""
    logging.raiseExceptions = False  # a full disk takes no log either: one error is enough
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        yield
        disconnect()
    except FinishedRunError as error:
        log.info("%s", error)
        disconnect()
    except Exception as error:
        if _is_one_sentence(error):
            of_all = isinstance(error, ValueError | StoppedError)  # every rank finds it
            log.log(logging.ERROR if rank() == 0 or not of_all else logging.DEBUG, "%s", error)
            log.debug("raised here:", exc_info=True)  # hydra.verbose=true
            if isinstance(error, StoppedError):
                disconnect()
                if signal.SIGTERM in received_signals:
                    sys.exit(128 + signal.SIGTERM)  # the cells of a sweep that are left too
        elif in_sweep:
            log.exception("this cell failed")
        else:
            raise
        if not in_sweep:
            sys.exit(1)
        note_failure(Path(HydraConfig.get().runtime.output_dir).name, str(error))


def _is_one_sentence(error: Exception) -> bool:
    told = re.search(r"\(os error (\d+)\)", str(error))  # by what is written in Rust
    if isinstance(error, OSError) or told:
        number = int(told[1]) if told else getattr(error, "errno", None)
        return number in _NOT_WRITABLE
    if isinstance(error, ValueError | RanksError | StoppedError):
        return True
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from dreambooth.methods.two_terms import DivergedError

    return isinstance(error, DivergedError | MisconfigurationException)


def record_failure(folder: Path, reason: str) -> None:
    """As `note_failure`, of a cell that had a process of its own, and in its status."""
    note_failure(folder.name, reason)
    with suppress(ValueError, OSError):  # its folder is damaged, or there is none
        record_killed(folder, reason)


def note_failure(cell: str, reason: str) -> None:
    """The sweep of this process ends with 1, and says why."""
    _failures[cell] = reason


def noted_failures() -> dict[str, str]:
    """Of this process's sweep: cell -> reason."""
    return dict(_failures)


def forget_failures() -> None:
    """A sweep begins."""
    _failures.clear()


def _finish_wandb(exit_code: int) -> None:
    wandb: Any = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=exit_code)
