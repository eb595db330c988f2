"""Does a run that is killed at any moment go on to the same bits?

    python benchmarks/kills.py [NUMBER [SEED [OVERRIDES...]]]

Starts a small run of the miniature, with W&B offline, kills it by `kill -9` at a random moment,
starts it again with `python src/train.py run=DIR`, and so on; a finished run is followed by a new
one, until there were NUMBER kills (30). After each kill every file must be whole (but for those
that the next start sweeps away) and no process be left. At the end of each run weights, pictures
and scores must be those of an undisturbed run, bit for bit.
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
    """A training in a session of its own."""
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
    """Until the process has begun its work, and written the file: what comes before is loading."""
    while process.poll() is None and (not path.exists() or path.stat().st_mtime == changed_from):
        time.sleep(0.02)


def phase(folder: Path) -> str:
    """What the run was doing, by what it had written last."""
    if (folder / "scores.csv").exists():
        return "the end"
    if (folder / "images" / "restored").exists():
        return "scores"
    if (folder / "weights").exists():
        return "pictures"
    if (folder / "checkpoints" / "sr-trained.pt").exists():
        return "weights"
    if (folder / "checkpoints" / "base-trained.pt").exists():
        return "SR stage"
    return "base stage" if (folder / "names.json").exists() else "beginning"


def check_whole(folder: Path) -> None:
    """Every file of a killed run can be read; ValueError or the reader's own error if not."""
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
    """PromptNames of a session's processes that are still there some seconds later."""
    end = time.monotonic() + seconds
    while names := _names(session):
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    return names


def _names(session: int) -> list[str]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
        except OSError:  # gone since
            continue
        state, _, _, own, *_ = rest.split()
        if int(own) == session and state != "Z":
            found.append(name)
    return found


def outcome(folder: Path) -> dict[str, object]:
    """What must not depend on kills."""
    kept = [*folder.glob("weights/**/*.safetensors"), *folder.glob("images/**/*.png")]
    kept += [folder / "scores.csv", folder / "metrics.json"]
    files: dict[str, object] = {str(p.relative_to(folder)): p.read_bytes() for p in kept}
    files["logged"] = [
        {k: v for k, v in row.items() if "time/" not in k} for row in Run(folder, {}).read_history()
    ]
    return files


def main(number: int, seed: int, overrides: tuple[str, ...]) -> None:
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        root = Path(name)
        own = (*overrides, f"prior.cache={root / 'prior'}")
        began = time.monotonic()
        log = root / "output.log"
        undisturbed = start(log, *own, f"hydra.run.dir={root / 'undisturbed'}")
        wait_for(root / "undisturbed" / "names.json", undisturbed, 0)
        begun = time.monotonic()
        finish(undisturbed, log)
        seconds = time.monotonic() - begun
        print(f"undisturbed: {seconds:.1f} s of work, {begun - began:.1f} s to load", flush=True)
        expected = outcome(root / "undisturbed")
        kills: Counter[str] = Counter()
        runs = 0
        while kills.total() < number:
            folder = root / f"run{runs}"
            words = (*own, f"hydra.run.dir={folder}")
            while True:
                names = folder / "names.json"
                before = names.stat().st_mtime if names.exists() else 0
                process = start(log, *words)
                wait_for(names, process, before)
                try:
                    process.wait(moments.uniform(0, seconds) if kills.total() < number else None)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    kills[phase(folder)] += 1
                    print(f"kill {kills.total()}: {folder.name}, {phase(folder)}", flush=True)
                    if left := left_over(process.pid):
                        sys.exit(f"processes are left: {', '.join(left)}")
                    check_whole(folder)
                    words = (f"run={folder}",)
                    continue
                finish(process, log)
                break
            found = outcome(folder)
            differ = [k for k in expected.keys() | found.keys() if found.get(k) != expected.get(k)]
            if differ:
                sys.exit(f"{folder.name} differs from the undisturbed run in {sorted(differ)[:5]}")
            if partial := [p.name for p in folder.rglob("*.partial")]:
                sys.exit(f"{folder.name} has left {partial}")
            shutil.rmtree(folder)
            runs += 1
    where = ", ".join(f"{count} in {phase}" for phase, count in kills.most_common())
    print(
        f"{kills.total()} kills ({where}) in {runs} runs: all as the undisturbed one, bit for bit"
    )


if __name__ == "__main__":
    words = sys.argv[1:]
    main(
        int(words[0]) if words else 30,
        int(words[1]) if len(words) > 1 else 0,
        tuple(words[2:]) or SMALL,
    )
