"""Queries and commands to SLURM about jobs."""

import os
import re
import subprocess
from collections.abc import Sequence

_NOT_ENDED = (
    *("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING"),
    *("REQUEUED", "REQUEUE_HOLD", "STOPPED", "SIGNALING", "STAGE_OUT"),
)


def active_jobs() -> dict[str, str] | None:
    """The jobs of this user that have not ended: id ("12", or "12_3" in an array) -> "PENDING" etc.

    None if SLURM does not answer. `sacct` is not used, because it needs a database that small
    clusters lack.
    """
    command = ["squeue", "--noheader", "--array", "--format=%i %T", f"--user={os.getuid()}"]
    output = _output_of(command)
    return None if output is None else dict(line.split()[:2] for line in output.splitlines())


def release_jobs(jobs: Sequence[str]) -> None:
    """Let jobs start that were submitted with --hold. ValueError if SLURM refuses."""
    arrays = ",".join(dict.fromkeys(job.partition("_")[0] for job in jobs))
    if _output_of(["scontrol", "release", arrays]) is None:
        raise ValueError(f"SLURM does not release the jobs {arrays}: try scontrol release {arrays}")


def describe_end(job: str) -> str:
    """Describe how a job ended, as long as SLURM remembers it; "" if it has not ended."""
    output = _output_of(["scontrol", "--oneliner", "show", "job", job]) or ""
    if state := re.search(r"JobState=(\w+)(?: Reason=(\w+))?", output):
        if state[1] in _NOT_ENDED:
            return ""
        reason = f" ({state[2]})" if state[2] not in (None, "None") else ""
        return f"SLURM reports its state as {state[1]}{reason}"
    return "SLURM does not know it any more"


def _output_of(command: list[str]) -> str | None:
    """What a command prints; None if it fails, is missing or takes longer than a minute."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None
