"""How a run ends, alone or in a sweep: its status, exit code and error message."""

import errno
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from dreambooth.distributed.preemption import StoppedError, exit_code_of_stop
from dreambooth.distributed.ranks import RanksError, disconnect, num_ranks, rank
from dreambooth.runs.provenance import begin_provenance
from dreambooth.runs.run import FinishedRunError, Run, record_killed
from dreambooth.runs.status import Status

log = logging.getLogger(__name__)

_NOT_WRITABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
)

_failures: dict[str, str] = {}  # cell -> reason, for the sweep of this process


@contextmanager
def record_outcome(run: Run) -> Iterator[None]:
    """Record a run's start in provenance.json and its end in status.json, and close W&B."""
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
        with suppress(OSError):  # if the disk is full, the original error is the one to raise
            status = _record_end(run, "failed", reason)
            if status.reason != reason:
                raise RanksError(f"another rank of this run failed: {status.reason}") from error
        raise
    finally:
        _finish_wandb(exit_code)


def _record_end(run: Run, state: str, reason: str = "") -> Status:
    """Write how the run ended, unless another rank already did, and return its status.

    The first rank to fail knows the cause; the others fail because they lost it.
    """
    if num_ranks() == 1 or run.status().state == "running":
        run.set_status(state, reason)
    return run.status()


def reason_of(error: BaseException) -> str:
    """The reason to record for an error: its message, its type, or "interrupted" for Ctrl-C."""
    # Lightning turns Ctrl-C into SystemExit.
    if isinstance(error, KeyboardInterrupt) or (
        isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt)
    ):
        return "interrupted"
    return str(error) or type(error).__name__


@contextmanager
def report_errors() -> Iterator[None]:
    """Log a user's mistake as one sentence instead of a traceback. A sweep goes on after it."""
    logging.raiseExceptions = False  # a full disk breaks the log file too: one error is enough
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        yield
        disconnect()
    except FinishedRunError as error:
        log.info("%s", error)
        disconnect()
    except Exception as error:
        if _is_one_sentence(error):
            on_every_rank = isinstance(error, ValueError | StoppedError)
            shown = rank() == 0 or not on_every_rank
            log.log(logging.ERROR if shown else logging.DEBUG, "%s", error)
            log.debug("raised here:", exc_info=True)  # shown with hydra.verbose=true
            if isinstance(error, StoppedError):
                disconnect()
                if (code := exit_code_of_stop()) is not None:
                    if in_sweep:
                        return  # the remaining cells are skipped, and SweepTable ends the sweep
                    if rank() == 0:
                        log.info("to go on: python src/train.py run=%s", _folder())
                    sys.exit(code)
        elif in_sweep:
            log.exception("this cell failed")
        else:
            raise
        if not in_sweep:
            sys.exit(1)
        note_failure(_folder().name, str(error))


def _folder() -> Path:
    return Path(HydraConfig.get().runtime.output_dir)


def _is_one_sentence(error: Exception) -> bool:
    """Whether the message of an error says enough without a traceback."""
    rust_errno = re.search(r"\(os error (\d+)\)", str(error))  # safetensors is written in Rust
    if isinstance(error, OSError) or rust_errno:
        number = int(rust_errno[1]) if rust_errno else getattr(error, "errno", None)
        return number in _NOT_WRITABLE
    if isinstance(error, ValueError | RanksError | StoppedError):
        return True
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from dreambooth.methods.two_terms import DivergedError

    return isinstance(error, DivergedError | MisconfigurationException)


def record_failure(folder: Path, reason: str) -> None:
    """Note the failure of a cell that ran in its own process, and write it into its status."""
    note_failure(folder.name, reason)
    with suppress(ValueError, OSError):  # the folder is damaged or does not exist
        record_killed(folder, reason)


def note_failure(cell: str, reason: str) -> None:
    """Note that a cell failed: the sweep of this process ends with exit code 1 and says why."""
    _failures[cell] = reason


def noted_failures() -> dict[str, str]:
    """Cell -> reason, for the sweep of this process."""
    return dict(_failures)


def forget_failures() -> None:
    """Clear the noted failures when a sweep begins."""
    _failures.clear()


def _finish_wandb(exit_code: int) -> None:
    wandb: Any = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=exit_code)
