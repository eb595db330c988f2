"""A run's provenance: command, code, versions, hardware, time and memory.

The machine is described by its processor and GPUs, never by its name.
"""

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
from statistics import median
from typing import Any

from dreambooth.distributed.ranks import num_cores, rank
from dreambooth.runs.hashes import sha256_of
from dreambooth.runs.hub import commits_of
from dreambooth.runs.ownership import WRITTEN
from dreambooth.runs.run import Run

_SOURCE = Path(__file__).parents[1]
# This code presents results and does not change them.
_ONLY_PRESENTS_RESULTS = ("reporting/", "launch/sweep_progress.py", "launch/sweep_table.py")
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
    """Write provenance.json at the start of a run, and start to measure its peak memory.

    A resumed run keeps its start time and its `seconds`, to which `timed` adds. On systems other
    than Linux, the peak memory is measured since the process began.
    """
    kept = {k: v for k, v in run.read_provenance().items() if k in ("started", "seconds")}
    run.write_provenance(provenance() | kept)
    _reset_peak_memory()


def provenance() -> dict[str, Any]:
    """The command, code, versions and hardware of this process, and the current time.

    `code` is a hash of the package's source, without the code that only presents results. Two runs
    with the same hash were made by the same code, committed or not. Energy is not measured.
    """
    import torch

    return {
        "command": shlex.join(["python", *sys.argv]),
        "git": _git(),
        "code": _code_hash(),
        "versions": {"python": platform.python_version(), **_versions()},
        "hardware": {
            "cpu": _processor(),
            "cores": num_cores(),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {},
    }


@contextmanager
def timed(run: Run, phase: str) -> Iterator[None]:
    """Add the seconds of a phase to the run's provenance.json, and the peak memory so far.

    The time of a nested phase counts for the nested phase only.
    """
    started = time.monotonic()
    _nested.append(0.0)
    try:
        yield
    finally:
        took = time.monotonic() - started
        without_nested = took - _nested.pop()
        if _nested:
            _nested[-1] += took
        if rank() == 0:
            known = run.read_provenance()
            seconds = known.setdefault("seconds", {})
            seconds[phase] = round(seconds.get(phase, 0.0) + without_nested, 3)
            run.write_provenance(known | _peak_memory())


def record_model(run: Run) -> None:
    """Add to provenance.json the commits of the models that came from the Hub, by their ids."""
    if commits := commits_of(run.config["model"]["backbone"]):
        run.write_provenance(run.read_provenance() | {"models": commits})


def record_costs(run: Run, trained_parameters: int) -> None:
    """Add to provenance.json what training cost: trained parameters, size of the saved weights,
    and the median time of the base stage's steps, which are in history.csv.
    """
    steps = [row["time/step_ms"] for row in run.read_history() if "time/step_ms" in row]
    files = [path for path in run.weights.rglob("*") if path.is_file() and path.name != WRITTEN]
    costs: dict[str, float] = {
        "trained_parameters": trained_parameters,
        "weights_bytes": sum(path.stat().st_size for path in files),
    }
    costs |= {"step_ms": round(median(steps), 3)} if steps else {}
    run.write_provenance(run.read_provenance() | {"costs": costs})


_nested: list[float] = []  # for each phase being timed: the seconds of the phases nested in it


def _reset_peak_memory() -> None:
    import torch

    with suppress(OSError):  # not on Linux, or not allowed
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak_memory() -> dict[str, int]:
    import torch

    try:
        process_status = Path("/proc/self/status").read_text()
        peak = int(process_status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):  # not Linux, or a sandbox that hides it
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak *= 1 if sys.platform == "darwin" else 1024
    memory = {"peak_memory_bytes": peak}
    if torch.cuda.is_available():
        memory["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
    return memory


@cache
def _code_hash() -> str:
    parts: list[str | bytes] = []
    for path in sorted(_SOURCE.rglob("*.py")):
        name = path.relative_to(_SOURCE).as_posix()
        if not name.startswith(_ONLY_PRESENTS_RESULTS):
            parts += [f"{name}\n", path.read_bytes()]
    return sha256_of(parts)[:12]


@cache
def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


@cache
def _git() -> dict[str, Any]:
    """The commit of the source, and whether it has uncommitted changes; {} outside of git."""

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
