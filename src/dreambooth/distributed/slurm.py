"""What SLURM says of jobs."""

import os
import re
import subprocess
from collections.abc import Sequence

_NOT_ENDED = (
    *("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING"),
    *("REQUEUED", "REQUEUE_HOLD", "STOPPED", "SIGNALING", "STAGE_OUT"),
)


def active_jobs() -> dict[str, str] | None:
    """Job ("12", of an array "12_3") to state ("PENDING"), of this user's jobs that have not ended;
    None where SLURM cannot be asked now. Without `sacct`, which needs a database that small
    clusters lack."""
    words = ["squeue", "--noheader", "--array", "--format=%i %T", f"--user={os.getuid()}"]
    told = _said(words)
    return None if told is None else dict(line.split()[:2] for line in told.splitlines())


def release_jobs(jobs: Sequence[str]) -> None:
    """Let jobs that were submitted with --hold start. ValueError where SLURM does not."""
    arrays = ",".join(dict.fromkeys(job.partition("_")[0] for job in jobs))
    if _said(["scontrol", "release", arrays]) is None:
        raise ValueError(f"SLURM does not release the jobs {arrays}: try scontrol release {arrays}")


def describe_end(job: str) -> str:
    """How a job ended, in words, as long as SLURM remembers; "" where it has not ended."""
    told = _said(["scontrol", "--oneliner", "show", "job", job]) or ""
    if state := re.search(r"JobState=(\w+)(?: Reason=(\w+))?", told):
        if state[1] in _NOT_ENDED:
            return ""
        reason = f" ({state[2]})" if state[2] not in (None, "None") else ""
        return f"SLURM's word for its end is {state[1]}{reason}"
    return "SLURM does not know it any more"


def _said(words: list[str]) -> str | None:
    try:
        ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout if ended.returncode == 0 else None
