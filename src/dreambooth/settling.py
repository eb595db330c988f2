"""The status of runs that ended without a word: SLURM ended their job, or a kill their process."""

import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path

from dreambooth.files import is_claimed
from dreambooth.run import OPEN, Run, Status
from dreambooth.slurm import end_of, waiting_or_running

log = logging.getLogger(__name__)


def settle(folder: Path) -> None:
    """Statuses of a sweep's cells, or of a single run, as they are; of this user's runs only."""
    files = [*folder.glob("status.json"), *folder.glob("*/status.json")]
    runs = [Run(file.parent, {}) for file in files if file.stat().st_uid == os.getuid()]
    try:
        left = [run for run in runs if run.status().state in OPEN]
        there = waiting_or_running() if any(run.status().job for run in left) else None
        for run in left:
            settled(run, there)
    except (ValueError, OSError) as error:  # a damaged one, or a disk that takes nothing
        log.debug("left as they say they are: %s", error)


def settled(run: Run, there: Mapping[str, str] | None) -> Status:
    """A run's status; one that is said to wait or run, in a job or process that is gone, has
    failed, and its status says so from now on. `there`: what `waiting_or_running` told just before.
    """
    status = run.status()
    if status.state in OPEN and (reason := _gone(run, status, there)) and run.status() == status:
        run.set_status("failed", reason)  # it had not ended while we looked
    return run.status()


def _gone(run: Run, status: Status, there: Mapping[str, str] | None) -> str:
    if status.job:
        lost = there is not None and status.job not in there
        return f"job {status.job} is gone: {end_of(status.job)}" if lost else ""
    here = status.state == "running" and status.host == socket.gethostname()
    return "its process was killed" if here and not is_claimed(run.folder) else ""
