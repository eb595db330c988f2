"""Where a run's figures come from: command, code, versions, machine, time and memory.

The machine is told by its processor and graphics card, never by its name.
"""

import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dreambooth.distributed.ranks import rank
from dreambooth.runs.hashes import sha256_of
from dreambooth.runs.run import Run

_SOURCE = Path(__file__).parents[1]
# Code that only tells of results.
_NOT_OF_RESULTS = ("reporting/", "launch/sweep_progress.py", "launch/sweep_table.py")
_PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "diffusers",
    "transformers",
    "open-clip-torch",
    "torchmetrics",
    "numpy",
)


def begin_provenance(run: Run) -> None:
    """provenance.json as a run starts; `timed` adds `seconds`, of one that goes on to those that it
    has, and the peak memory, which is counted from now on (not on Linux: since the process began).
    """
    kept = {k: v for k, v in run.read_provenance().items() if k in ("started", "seconds")}
    run.write_provenance(provenance() | kept)
    _forget_peak()


def provenance() -> dict[str, Any]:
    """Command, code, versions and machine, of this process and now.

    `code` is a hash of the package's source without what only reports: it tells whether two runs
    were made by the same code, whatever was committed when. Energy is not measured.
    """
    import torch

    return {
        "command": shlex.join(["python", *sys.argv]),
        "git": _git(),
        "code": _code(),
        "versions": {"python": platform.python_version(), **_versions()},
        "hardware": {
            "cpu": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {},
    }


@contextmanager
def timed(run: Run, phase: str) -> Iterator[None]:
    """Adds the seconds of a phase, without those of phases within it, and the peak memory so far to
    the run's provenance.json."""
    started = time.monotonic()
    _within.append(0.0)
    try:
        yield
    finally:
        took = time.monotonic() - started
        own = took - _within.pop()
        if _within:
            _within[-1] += took
        if rank() == 0:
            known = run.read_provenance()
            seconds = known.setdefault("seconds", {})
            seconds[phase] = round(seconds.get(phase, 0.0) + own, 3)
            run.write_provenance(known | _peak_memory())


_within: list[float] = []  # of each phase that is being timed, the seconds of those within it


def _forget_peak() -> None:
    import torch

    with suppress(OSError):  # not on Linux, or not allowed
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak_memory() -> dict[str, int]:
    import torch

    try:
        told = Path("/proc/self/status").read_text()
        peak = int(told.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):  # not Linux, or a sandbox that does not tell
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak *= 1 if sys.platform == "darwin" else 1024
    found = {"peak_memory_bytes": peak}
    if torch.cuda.is_available():
        found["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
    return found


@cache
def _code() -> str:
    parts: list[str | bytes] = []
    for path in sorted(_SOURCE.rglob("*.py")):
        name = path.relative_to(_SOURCE).as_posix()
        if not name.startswith(_NOT_OF_RESULTS):
            parts += [f"{name}\n", path.read_bytes()]
    return sha256_of(parts)[:12]


@cache
def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def _git() -> dict[str, Any]:
    """The commit that the source is of, and whether it was changed since; {} outside of git."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(_SOURCE), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(_SOURCE))
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return {}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
