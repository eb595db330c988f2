"""Does a run that is killed at random moments give the same bits after it is resumed?

    python benchmarks/kills.py [SIGKILL or SIGINT] [NUMBER [SEED [OVERRIDES...]]]

Starts a small run of the miniature with W&B offline, kills it with `kill -9` at a random moment,
resumes it with `python src/train.py run=DIR`, and repeats this until the run finishes. Further runs
follow until there have been NUMBER kills (default 30). OVERRIDES replace all settings of the small
run (`SMALL`); prior.cache= among them is ignored. With SIGINT it is Ctrl-C instead, also during the
start of the run, and no traceback may be printed. With `-m` among OVERRIDES it is a sweep, which
its own command resumes. After each kill, every file must be readable, except those that the next
start deletes, and no process may be left.
At the end of each run or sweep, its weights, images and scores must equal those of an uninterrupted
one, bit for bit.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from zipfile import ZipFile

import yaml
from PIL import Image
from safetensors import safe_open

from dreambooth.runs.ownership import MARKER
from dreambooth.runs.run import Run

ROOT = Path(__file__).parents[1]
SMALL = (
    "experiment=smoke",
    "trainer=cpu",
    "sr=noise_1e-3",
    "method.max_steps=30",
    "method.checkpoint_every=4",
    "sr.max_steps=15",
    "drawing.images_per_prompt=4",
)


def start(log: Path, *overrides: str) -> subprocess.Popen:
    """Start a training run in a process session of its own."""
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "src/train.py", *overrides],
            cwd=ROOT,
            env=os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(process: subprocess.Popen, log: Path) -> None:
    if process.wait():
        sys.exit(f"a run ended with exit code {process.returncode}:\n{log.read_text()}")


def wait_for(path: Path, process: subprocess.Popen, changed_from: float) -> None:
    """Wait until the process has loaded, which it shows by writing `path`, or has ended.

    `changed_from`: the time of the last change of `path` before the process began, in seconds; 0 if
    it did not exist.
    """
    while process.poll() is None and (not path.exists() or path.stat().st_mtime == changed_from):
        time.sleep(0.02)


def where(folder: Path) -> str:
    """Return what a run, or the last begun run of a sweep, was doing when it ended."""
    runs = sorted(run_folders(folder), key=lambda run: (run / MARKER).stat().st_mtime)
    number = f"run {len(runs)}, " if len(runs) > 1 else ""
    return number + (phase(runs[-1]) if runs else "beginning")


def phase(folder: Path) -> str:
    """Return what the run was doing, judged by the last file that it had written."""
    if (folder / "scores.csv").exists():
        return "the end"
    if (folder / "images" / "restored").exists():
        return "scores"
    if (folder / "weights").exists():
        return "images"
    if (folder / "checkpoints" / "sr-trained.pt").exists():
        return "weights"
    if (folder / "checkpoints" / "base-trained.pt").exists():
        return "SR stage"
    return "base stage" if (folder / "names.json").exists() else "beginning"


def check_whole(folder: Path) -> None:
    """Read every file of a killed run; a damaged one raises ValueError or its reader's error."""
    for path in folder.rglob("*"):
        if not path.is_file() or ".partial" in str(path) or "wandb" in path.parts:
            continue
        if path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".yaml":
            yaml.safe_load(path.read_bytes())
        elif path.suffix in (".ckpt", ".pt") and ZipFile(path).testzip():
            raise ValueError(f"{path} is damaged")
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                assert file.keys()


def left_over(session: int, seconds: float = 20) -> list[str]:
    """Return the names of a session's processes that still run after some seconds."""
    end = time.monotonic() + seconds
    while names := _process_names(session):
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    return names


def _process_names(session: int) -> list[str]:
    names = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
        except OSError:  # the process has ended since
            continue
        state, _, _, session_id, *_ = rest.split()
        if int(session_id) == session and state != "Z":
            names.append(name)
    return names


def run_folders(folder: Path) -> list[Path]:
    """Return the folder if it is that of a run, else those of the runs of a sweep."""
    return sorted(mark.parent for mark in folder.rglob(MARKER))


def outcome(folder: Path) -> dict[str, object]:
    """Return the results of a run or sweep that must not depend on kills."""
    results: dict[str, object] = {}
    for run in run_folders(folder):
        files = [*run.glob("weights/**/*.safetensors"), *run.glob("images/**/*.png")]
        files += [run / "scores.csv", run / "metrics.json"]
        results |= {str(p.relative_to(folder)): p.read_bytes() for p in files}
        results[f"{run.relative_to(folder)}: logged"] = [
            {k: v for k, v in row.items() if "time/" not in k}
            for row in Run(run, {}).read_history()
        ]
    return results


def check_interrupted(code: int, log: Path) -> None:
    """After Ctrl-C: no traceback, and the command that goes on, unless the run had just started."""
    output = log.read_text()
    started = "prior images" in output or "resuming" in output
    if "Traceback" in output or code not in (0, 130, -signal.SIGINT):
        sys.exit(f"Ctrl-C ended with {code}:\n{output}")
    if code == 130 and started and "to go on" not in output:
        sys.exit(f"Ctrl-C did not say how to go on:\n{output}")


def main(signum: signal.Signals, number: int, seed: int, overrides: tuple[str, ...]) -> None:
    moments = random.Random(seed)
    is_sweep = "-m" in overrides
    key = "hydra.sweep.dir" if is_sweep else "hydra.run.dir"
    # Ctrl-C may come while a run still starts, and so may the signal to a sweep.
    at_any_moment = signum == signal.SIGINT or is_sweep
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        root = Path(name)
        without_cache = (word for word in overrides if not word.startswith("prior.cache="))
        shared = (*without_cache, f"prior.cache={root / 'prior'}")
        started = time.monotonic()
        log = root / "output.log"
        uninterrupted = root / "uninterrupted"
        reference = start(log, *shared, f"{key}={uninterrupted}")
        if not at_any_moment:
            wait_for(uninterrupted / "names.json", reference, 0)
            started = time.monotonic()
        finish(reference, log)
        duration_s = time.monotonic() - started
        print(f"uninterrupted: {duration_s:.1f} s", flush=True)
        expected = outcome(uninterrupted)
        kills: Counter[str] = Counter()
        runs = 0
        while kills.total() < number:
            folder = root / f"run{runs}"
            arguments = (*shared, f"{key}={folder}")
            while True:
                names = folder / "names.json"
                before = names.stat().st_mtime if names.exists() else 0
                process = start(log, *arguments)
                if not at_any_moment:
                    wait_for(names, process, before)
                try:
                    process.wait(moments.uniform(0, duration_s) if kills.total() < number else None)
                except subprocess.TimeoutExpired:
                    process.send_signal(signum)
                    code = process.wait()
                    if signum == signal.SIGINT:
                        check_interrupted(code, log)
                    kills[where(folder)] += 1
                    print(f"kill {kills.total()}: {folder.name}, {where(folder)}", flush=True)
                    if left := left_over(process.pid):
                        sys.exit(f"processes are left: {', '.join(left)}")
                    check_whole(folder)
                    if (folder / "config.yaml").exists():
                        arguments = (f"run={folder}",)
                    continue
                finish(process, log)
                break
            results = outcome(folder)
            keys = expected.keys() | results.keys()
            if differ := sorted(key for key in keys if results.get(key) != expected.get(key)):
                sys.exit(f"{folder.name} differs from the uninterrupted run in {differ[:5]}")
            if partial := [p.name for p in folder.rglob("*.partial")]:
                sys.exit(f"{folder.name} has left {partial}")
            shutil.rmtree(folder)
            runs += 1
    counts = ", ".join(f"{count} in {place}" for place, count in kills.most_common())
    units = "sweeps" if is_sweep else "runs"
    print(f"{kills.total()} kills ({counts}) in {runs} {units}: same bits as the uninterrupted one")


if __name__ == "__main__":
    words = sys.argv[1:]
    named = bool(words) and words[0].startswith("SIG")
    signum = signal.Signals[words.pop(0)] if named else signal.SIGKILL
    main(
        signum,
        int(words[0]) if words else 30,
        int(words[1]) if len(words) > 1 else 0,
        tuple(words[2:]) or SMALL,
    )
