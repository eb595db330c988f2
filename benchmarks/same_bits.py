"""Does a refactoring change a number? Two checkouts do the same runs; their results are compared.

    python benchmarks/same_bits.py CHECKOUT_A CHECKOUT_B [NAME=WORDS...]
    python benchmarks/same_bits.py record CHECKOUT FOLDER [NAME=WORDS...]   writes FOLDER/bits.json
    python benchmarks/same_bits.py compare A.json B.json [PATTERN...]

A record takes 3 minutes of processor time (5 to 11 minutes on two busy cores) and 375 MB of disk.

Prints a line for each difference (run, what, before, after), and exits with 1 if there is any.
NAME=WORDS replaces an entry of `SCRIPTS` for a checkout that has renamed the script; in the first
form, for CHECKOUT_B: `train="-m dreambooth.train"`. A PATTERN ignores intended differences, such as
`"*protocol"` or `"sd15: images/*"`. Make both records on one machine with the same packages.
"""

import csv
import json
import os
import random
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

SCRIPTS = {"train": "src/train.py", "report": "src/report.py"}
# The runs, in this order. {folder} is the run folder, {root} contains all run folders, and {inputs}
# contains a model and photos for both checkouts.
EVERY_RUN = (
    "trainer=cpu logger=csv prior.cache={root}/prior "
    "hydra.run.dir={folder} hydra.sweep.dir={folder}"
)
RUNS = {
    "smoke": "{train} -m experiment=smoke prior.lambda=0,1 " + EVERY_RUN,
    "cell": "{train} prior.lambda=1 class=correct method.max_steps=60 prior.num_images=4 "
    "drawing.images_per_prompt=1 drawing.num_class_images=4 " + EVERY_RUN,
    "sr": "{train} experiment=smoke sr=noise_1e-5 sr.max_steps=4 " + EVERY_RUN,
    "sd15": "{train} model=sd15 model.backbone.pretrained={inputs}/stable-diffusion "
    "model.rare_token_ids=[592,722] subject=folder photos={inputs}/photos class_noun=dog "
    "subject.kind=live subject.prompts=minibench metrics=miniature ~metrics.oracle "
    "method.max_steps=8 prior.num_images=4 model.sampling.prior.base.num_steps=20 "
    "drawing.images_per_prompt=2 drawing.num_class_images=4 " + EVERY_RUN,
    # Enough images that both ranks draw some.
    "ranks": "{train} experiment=smoke trainer.devices=2 method.batch_size=4 prior.num_images=20 "
    "drawing.images_per_prompt=3 sr=off " + EVERY_RUN,
    "resumed": "{train} experiment=smoke method.max_steps=12 sr=off " + EVERY_RUN,
    "report": "{report} sweep={root}/smoke name={folder}",
    "joined_report": "{report} sweep=[{root},{root}/smoke] name={folder}",
}
# Run -> the file whose appearance stops it, and the command that resumes it.
STOPPED = {"resumed": ("checkpoints/*.ckpt", "{train} run={folder}")}
# Results that differ each time: "FILE", "FILE: COLUMN" or "FILE: KEY". Paths, versions and the
# commit are in files that `read` skips: config.yaml, provenance.json, status.json.
LEFT_OUT = ("*history.csv: *time/*",)

Bits = dict[str, dict[str, str]]  # run -> result ("FILE", "FILE: COLUMN", ...) -> hash or value


class Difference(NamedTuple):
    run: str
    what: str
    before: str
    after: str

    def __str__(self) -> str:
        before, after = (re.sub("^([0-9a-f]{12})[0-9a-f]{52}$", r"\1", v) for v in self[2:])
        return f"{self.run}: {self.what}: {before} -> {after}"


def differences(before: Bits, after: Bits, ignored: Iterable[str] = ()) -> list[Difference]:
    """Return the differences of two records. A run that only one record has is one difference.

    Differences whose "RUN: WHAT" matches a pattern of `ignored` are left out.
    """
    changes = []
    for run in before | after:
        if run not in before or run not in after:
            states = ["missing" if run not in bits else "recorded" for bits in (before, after)]
            changes.append(Difference(run, "the run", *states))
            continue
        for what in before[run] | after[run]:
            values = [bits[run].get(what, "missing") for bits in (before, after)]
            if values[0] != values[1]:
                changes.append(Difference(run, what, *values))
    return [d for d in changes if not any(fnmatch(f"{d.run}: {d.what}", p) for p in ignored)]


def bits_of(folder: Path) -> dict[str, str]:
    """Return result -> hash or value of a run folder: per file, CSV column or JSON key."""
    bits = {}
    for path in sorted(folder.rglob("*")):
        file = path.relative_to(folder).as_posix()
        for part, value in read(path):
            what = f"{file}: {part}" if part else file
            if not any(fnmatch(what, pattern) for pattern in LEFT_OUT):
                bits[what] = value
    return bits


def read(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (part, hash or value) for each part of a file; nothing for other kinds of files."""
    if path.suffix == ".safetensors":
        tensors = safetensors.deserialize(path.read_bytes())  # without the file's metadata
        yield "", digest(sorted((k, t["dtype"], t["shape"], t["data"]) for k, t in tensors))
    elif path.suffix == ".png":  # pixels, not metadata
        with Image.open(path) as image:
            yield "", digest([image.mode, image.size, image.tobytes()])
    elif path.suffix == ".csv":
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        for column, *values in zip(*rows, strict=True):
            yield column, digest(values)
    elif path.suffix == ".tex":  # the rows, without caption and notes
        rows_on = path.read_text().partition(r"\midrule")[2]
        yield "", digest([rows_on.partition(r"\bottomrule")[0]])
    elif path.name in ("metrics.json", "names.json"):
        yield from leaves(json.loads(path.read_bytes()))


def leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", repr(value)


def digest(parts: Sequence[object]) -> str:
    return sha256(repr(parts).encode()).hexdigest()


def record(checkout: Path, folder: Path, inputs: Path, scripts: Mapping[str, str]) -> Path:
    """Do all runs in a new folder. Returns the path of its bits.json."""
    if not (checkout / "src").is_dir():
        sys.exit(f"{checkout} is not a checkout: it has no src")
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"{folder} is not empty: give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    started, root = time.monotonic(), folder / "runs"
    make_inputs(inputs)
    for name, command in RUNS.items():
        fields = {"folder": root / name, "root": root, "inputs": inputs, **scripts}
        stop_at, resume = STOPPED.get(name, ("", ""))
        run(checkout, command, fields, folder / f"{name}.log", stop_at)
        if resume:
            run(checkout, resume, fields, folder / f"{name}.log")
        print(f"{checkout}: {name}, at {time.monotonic() - started:.0f} s", flush=True)
    bits: Bits = {name: bits_of(root / name) for name in ("prior", *RUNS)}
    if empty := [name for name, results in bits.items() if not results]:
        sys.exit(f"{folder}: run {empty[0]} left nothing to compare")
    (folder / "bits.json").write_text(json.dumps(bits, indent=1))
    return folder / "bits.json"


def run(
    checkout: Path, command: str, fields: Mapping[str, object], log: Path, stop_at: str = ""
) -> None:
    """Run a command with the source of a checkout; `fields` fill its placeholders.

    The command is stopped when a file that matches `stop_at` appears in the run folder.
    """
    script, *overrides = (word.format(**fields) for word in shlex.split(command))
    with log.open("a") as output:
        process = subprocess.Popen(
            [sys.executable, *shlex.split(script), *overrides],
            cwd=checkout,
            env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(checkout / "src")},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        stopped = False
        while stop_at and process.poll() is None and not stopped:
            if stopped := any(Path(str(fields["folder"])).glob(stop_at)):
                process.terminate()
            time.sleep(0.02)
        code = process.wait()
    if stop_at and not (stopped and code):
        sys.exit(f"{checkout}: a run ended before it was stopped:\n{log.read_text()[-3000:]}")
    if code and not stopped:
        sys.exit(f"{checkout}: {shlex.join(overrides)}\n{log.read_text()[-3000:]}")


def make_inputs(folder: Path) -> None:
    """Write a tiny Stable Diffusion and three photos, with the same bits each time."""
    if folder.exists():
        return
    photos, rng = folder / "photos", random.Random(0)
    photos.mkdir(parents=True)
    for number in range(3):
        image = Image.new("RGB", (96, 80), (90 + 40 * number, 160, 120))
        left, top = rng.randrange(30), rng.randrange(20)
        ImageDraw.Draw(image).ellipse((left, top, left + 50, top + 50), "sienna", "black", 4)
        image.save(photos / f"{number}.png")
    tiny_models = runpy.run_path(str(ROOT / "tests" / "tiny_models.py"))
    tiny_models["stable_diffusion_folder"](folder / "stable-diffusion")


def compare(before: Path, after: Path, ignored: Sequence[str] = ()) -> None:
    a, b = (json.loads(path.read_bytes()) for path in (before, after))
    changes = differences(a, b, ignored)
    for difference in changes:
        print(difference)
    print(f"differences: {len(changes)} of {sum(map(len, a.values()))} hashes and values")
    sys.exit(1 if changes else 0)


def scripts(words: Sequence[str]) -> dict[str, str]:
    """Return `SCRIPTS` with replacements NAME=WORDS, for a checkout that has renamed scripts."""
    renamed = dict(word.split("=", 1) for word in words)
    if unknown := renamed.keys() - SCRIPTS.keys():
        sys.exit(f"{min(unknown)} is not a script: choose from {', '.join(SCRIPTS)}")
    return SCRIPTS | renamed


def main(words: Sequence[str]) -> None:
    match words:
        case ["compare", before, after, *patterns]:
            compare(Path(before), Path(after), patterns)
        case ["record", checkout, folder, *renamed]:
            new = Path(folder).resolve()
            print(record(Path(checkout).resolve(), new, new / "inputs", scripts(renamed)))
        case [before, after, *renamed]:
            scripts_after = scripts(renamed)
            with tempfile.TemporaryDirectory(prefix="same-bits-") as name:
                root = Path(name)
                a = record(Path(before).resolve(), root / "a", root / "inputs", SCRIPTS)
                b = record(Path(after).resolve(), root / "b", root / "inputs", scripts_after)
                compare(a, b)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
