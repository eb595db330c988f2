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
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dreambooth.parallel import rank
from dreambooth.run import Run

_SOURCE = Path(__file__).parent
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


def provenance() -> dict[str, Any]:
    """What provenance.json holds when a run starts; `timed` adds `seconds` and the peak memory.

    `code` is a hash of the package's source without its reporting: it tells whether two runs were
    made by the same code, whatever was committed when. Energy is not measured.
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
    """Adds the seconds of a phase, and the peak memory so far, to the run's provenance.json."""
    started = time.monotonic()
    try:
        yield
    finally:
        if rank() == 0:
            known = run.read_provenance()
            seconds = known.setdefault("seconds", {})
            seconds[phase] = round(seconds.get(phase, 0.0) + time.monotonic() - started, 3)
            run.write_provenance(known | _peak_memory())


def _peak_memory() -> dict[str, int]:
    import torch

    peak = {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if torch.cuda.is_available():
        peak["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
    return peak


@cache
def _code() -> str:
    digest = sha256()
    for path in sorted(_SOURCE.rglob("*.py")):
        name = path.relative_to(_SOURCE).as_posix()
        if not name.startswith("reporting/"):
            digest.update(f"{name}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


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
