"""The status of runs that ended without a word: SLURM ended their job, or a kill their process."""

import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from dreambooth.distributed.slurm import end_of, waiting_or_running
from dreambooth.runs.files import if_free
from dreambooth.runs.run import Run
from dreambooth.runs.status import OPEN, Status, this_host

log = logging.getLogger(__name__)


def mark_orphans_failed(folder: Path) -> None:
    """Statuses of a sweep's cells, or of a single run, as they are; of this user's runs only."""
    there: Mapping[str, str] | None = None
    asked = False
    for file in [*folder.glob("status.json"), *folder.glob("*/status.json")]:
        run = Run(file.parent, {})
        try:
            status = run.status()
            if status.state not in OPEN or file.stat().st_uid != os.getuid():
                continue
            if status.job and not asked:
                there, asked = waiting_or_running(), True
            status_now(run, there)
        except (ValueError, OSError) as error:  # damaged, set aside just now, or on a full disk
            log.debug("%s is left as it says it is: %s", run.folder, error)


def status_now(run: Run, there: Mapping[str, str] | None) -> Status:
    """A run's status; one that is said to wait or run, in a job or process that is gone, has
    failed, and its status says so from now on. `there`: what `waiting_or_running` told just before.
    """
    status = run.status()
    if status.state in OPEN and (reason := _gone(status, there)):
        with if_free(run.folder) as free:  # a living process has it
            if free and run.status() == status:
                last = (run.folder / "status.json").stat().st_mtime
                ended = datetime.fromtimestamp(last, UTC).isoformat(timespec="seconds")
                run.set_status("failed", reason, ended=ended)
    return run.status()


def _gone(status: Status, there: Mapping[str, str] | None) -> str:
    """Why it cannot be waiting or running; "" where it may be."""
    if status.job:
        lost = there is not None and status.job not in there
        how = end_of(status.job) if lost else ""
        return how and f"job {status.job} is gone: {how}"
    here = status.state == "running" and status.host == this_host()
    return "its process is gone" if here else ""
