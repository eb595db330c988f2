"""Where a run stands: its state, in which job and on which machine."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from hashlib import sha256

OPEN = ("running", "queued", "preempted")  # what is still to end
STATES = (*OPEN, "finished", "failed")


@dataclass(frozen=True)
class Status:
    """Where a run stands; the states `damaged` and `missing` (a cell of a sweep that has not begun)
    are never written, only found."""

    state: str
    reason: str = ""  # of failed and damaged
    progress: float = 0.0  # of the whole run, 0..1
    started: str = ""  # ISO 8601, UTC
    ended: str = ""
    job: str = ""  # of SLURM, that it waits or runs in: "12", or of an array "12_3"
    host: str = ""  # the machine that it last ran on: a hash of its name


def describe(status: Status) -> str:
    """In a few words: "finished", "running, 40 %", "failed: the loss is NaN at step 12"."""
    if status.state in ("running", "preempted"):
        return f"{status.state}, {status.progress:.0%}".replace("%", " %")
    return f"{status.state}: {status.reason}" if status.reason else status.state


def this_host() -> str:
    """Tells this machine from others without naming it."""
    return sha256(socket.gethostname().encode()).hexdigest()[:12]


def own_job() -> str:
    """The SLURM job that this process is in, if any."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")
