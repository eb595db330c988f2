"""The status of a run: its state and progress, its SLURM job and its machine."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from hashlib import sha256

OPEN = ("running", "queued", "preempted")  # states of a run that has not ended
STATES = (*OPEN, "finished", "failed")


@dataclass(frozen=True)
class Status:
    """The status of a run.

    Two states exist only in memory and are never written: `damaged`, and `missing` for a cell of a
    sweep that has not begun.
    """

    state: str
    reason: str = ""  # why it is failed, damaged or missing
    progress: float = 0.0  # of the whole run, 0..1
    started: str = ""  # ISO 8601, UTC
    ended: str = ""
    job: str = ""  # its SLURM job: "12", or "12_3" for a task of an array
    host: str = ""  # a hash of the name of the machine that it last ran on


def describe(status: Status) -> str:
    """A short description: "finished", "running, 40 %", "failed: the loss is NaN at step 12"."""
    if status.state in ("running", "preempted"):
        return f"{status.state}, {status.progress:.0%}".replace("%", " %")
    return f"{status.state}: {status.reason}" if status.reason else status.state


def this_host() -> str:
    """A hash of this machine's name: tells machines apart without naming them."""
    return sha256(socket.gethostname().encode()).hexdigest()[:12]


def current_job() -> str:
    """The SLURM job of this process; "" if it is not in a job."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")
