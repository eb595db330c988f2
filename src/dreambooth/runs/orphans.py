"""Detecting runs that died without a record: SLURM ended the job or the process was killed."""

import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from dreambooth.distributed.slurm import active_jobs, describe_end
from dreambooth.runs.files import if_free
from dreambooth.runs.run import Run
from dreambooth.runs.status import OPEN, Status, this_host

log = logging.getLogger(__name__)


def mark_orphans_failed(folder: Path) -> None:
    """Mark dead runs as failed, in a sweep folder or a single run folder.

    Runs of other users are left alone.
    """
    jobs: Mapping[str, str] | None = None
    queried = False
    for file in [*folder.glob("status.json"), *folder.glob("*/status.json")]:
        run = Run(file.parent, {})
        try:
            status = run.status()
            if status.state not in OPEN or file.stat().st_uid != os.getuid():
                continue
            if status.job and not queried:
                jobs, queried = active_jobs(), True
            refresh_status(run, jobs)
        except (ValueError, OSError) as error:  # damaged, just moved away, or the disk is full
            log.debug("the status of %s is left unchanged: %s", run.folder, error)


def refresh_status(run: Run, jobs: Mapping[str, str] | None) -> Status:
    """Mark a run as failed if its job or process no longer exists; return its status.

    `jobs`: the result of a recent call of `active_jobs`.
    """
    status = run.status()
    if status.state in OPEN and (reason := _reason_gone(status, jobs)):
        with if_free(run.folder) as free:  # a living process holds the lock
            if free and run.status() == status:
                last_written = (run.folder / "status.json").stat().st_mtime
                ended = datetime.fromtimestamp(last_written, UTC).isoformat(timespec="seconds")
                run.set_status("failed", reason, ended=ended)
    return run.status()


def _reason_gone(status: Status, jobs: Mapping[str, str] | None) -> str:
    """Why the run cannot be waiting or running any more; "" if it may be."""
    if status.job:
        gone = jobs is not None and status.job not in jobs
        how = describe_end(status.job) if gone else ""
        return how and f"job {status.job} is gone: {how}"
    on_this_host = status.state == "running" and status.host == this_host()
    return "its process is gone" if on_this_host else ""
