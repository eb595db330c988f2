"""Does a redesign change a number? Two checkouts do the same runs, and every bit is compared.

    python benchmarks/same_bits.py CHECKOUT_A CHECKOUT_B [NAME=WORDS...]
    python benchmarks/same_bits.py record CHECKOUT FOLDER [NAME=WORDS...]   writes FOLDER/bits.json
    python benchmarks/same_bits.py compare A.json B.json [PATTERN...]

One record took 5 minutes on two cores that other programs kept busy, and 11 when they were busier
(3 minutes of processor time in both), and 375 MB of disk.

Prints a line for each difference (run, what, before, after), and exits with 1 if there is any.
NAME=WORDS replaces an entry of `SCRIPTS` for a checkout that has renamed it, in the first form for
CHECKOUT_B: `train="-m dreambooth.train"`. A PATTERN leaves out differences that are meant, as in
`"*protocol"` or `"sd15: images/*"`. Both records must be of one machine and the same packages.
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
# What is run, in this order. {folder} is the run's own, {root} holds the folders of all, {inputs} a
# model and photos that both checkouts are given.
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
    # As many pictures as make both ranks draw some.
    "ranks": "{train} experiment=smoke trainer.devices=2 method.batch_size=4 prior.num_images=20 "
    "drawing.images_per_prompt=3 sr=off " + EVERY_RUN,
    "resumed": "{train} experiment=smoke method.max_steps=12 sr=off " + EVERY_RUN,
    "report": "{report} sweep={root}/smoke name={folder}",
    "joined_report": "{report} sweep=[{root},{root}/smoke] name={folder}",
}
# Runs that are told to stop once such a file is there, and the command that goes on with them.
STOPPED = {"resumed": ("checkpoints/*.ckpt", "{train} run={folder}")}
# What differs each time and is left out, as "FILE", "FILE: COLUMN" or "FILE: KEY". Paths, versions
# and the commit are in files that `read` does not read: config.yaml, provenance.json, status.json.
LEFT_OUT = ("*history.csv: *time/*",)

Bits = dict[str, dict[str, str]]  # of each run, what -> its hash or its value


class Difference(NamedTuple):
    run: str
    what: str
    before: str
    after: str

    def __str__(self) -> str:
        before, after = (re.sub("^([0-9a-f]{12})[0-9a-f]{52}$", r"\1", v) for v in self[2:])
        return f"{self.run}: {self.what}: {before} -> {after}"


def differences(before: Bits, after: Bits, ignored: Iterable[str] = ()) -> list[Difference]:
    """Of two records, without those whose "RUN: WHAT" matches a pattern of `ignored`. A run that
    only one of them has is one difference."""
    found = []
    for run in before | after:
        if run not in before or run not in after:
            state = ["missing" if run not in bits else "recorded" for bits in (before, after)]
            found.append(Difference(run, "the run", *state))
            continue
        for what in before[run] | after[run]:
            values = [bits[run].get(what, "missing") for bits in (before, after)]
            if values[0] != values[1]:
                found.append(Difference(run, what, *values))
    return [d for d in found if not any(fnmatch(f"{d.run}: {d.what}", p) for p in ignored)]


def bits_of(folder: Path) -> dict[str, str]:
    """What a run has left, by file; of tables by column, of JSON by key."""
    found = {}
    for path in sorted(folder.rglob("*")):
        file = path.relative_to(folder).as_posix()
        for part, value in read(path):
            what = f"{file}: {part}" if part else file
            if not any(fnmatch(what, pattern) for pattern in LEFT_OUT):
                found[what] = value
    return found


def read(path: Path) -> Iterator[tuple[str, str]]:
    """Parts of a file with the hash or the value of each; of other kinds of files, nothing."""
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
    elif path.suffix == ".tex":  # the rows, without what is said of them
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
    """Do all runs in a new folder; gives its bits.json."""
    if not (checkout / "src").is_dir():
        sys.exit(f"{checkout} is not a checkout: it has no src")
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"{folder} is not empty: give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    began, root = time.monotonic(), folder / "runs"
    make_inputs(inputs)
    for name, command in RUNS.items():
        places = {"folder": root / name, "root": root, "inputs": inputs, **scripts}
        stop_at, again = STOPPED.get(name, ("", ""))
        run(checkout, command, places, folder / f"{name}.log", stop_at)
        if again:
            run(checkout, again, places, folder / f"{name}.log")
        print(f"{checkout}: {name}, at {time.monotonic() - began:.0f} s", flush=True)
    bits: Bits = {name: bits_of(root / name) for name in ("prior", *RUNS)}
    if empty := [name for name, found in bits.items() if not found]:
        sys.exit(f"{folder}: nothing to compare in {empty[0]}")
    (folder / "bits.json").write_text(json.dumps(bits, indent=1))
    return folder / "bits.json"


def run(
    checkout: Path, command: str, places: Mapping[str, object], log: Path, stop_at: str = ""
) -> None:
    """A command in a checkout, with its own source; stopped once it has written such a file."""
    script, *overrides = (word.format(**places) for word in shlex.split(command))
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
            if stopped := any(Path(str(places["folder"])).glob(stop_at)):
                process.terminate()
            time.sleep(0.02)
        code = process.wait()
    if stop_at and not (stopped and code):
        sys.exit(f"{checkout}: it was to be stopped, and ended before:\n{log.read_text()[-3000:]}")
    if code and not stopped:
        sys.exit(f"{checkout}: {shlex.join(overrides)}\n{log.read_text()[-3000:]}")


def make_inputs(folder: Path) -> None:
    """A tiny Stable Diffusion, and three photos; the same bits each time."""
    if folder.exists():
        return
    photos, places = folder / "photos", random.Random(0)
    photos.mkdir(parents=True)
    for number in range(3):
        image = Image.new("RGB", (96, 80), (90 + 40 * number, 160, 120))
        left, top = places.randrange(30), places.randrange(20)
        ImageDraw.Draw(image).ellipse((left, top, left + 50, top + 50), "sienna", "black", 4)
        image.save(photos / f"{number}.png")
    tiny_models = runpy.run_path(str(ROOT / "tests" / "tiny_models.py"))
    tiny_models["stable_diffusion_folder"](folder / "stable-diffusion")


def compare(before: Path, after: Path, ignored: Sequence[str] = ()) -> None:
    a, b = (json.loads(path.read_bytes()) for path in (before, after))
    found = differences(a, b, ignored)
    for difference in found:
        print(difference)
    print(f"differences: {len(found)} of {sum(map(len, a.values()))} hashes and values")
    sys.exit(1 if found else 0)


def scripts(words: Sequence[str]) -> dict[str, str]:
    """`SCRIPTS`, of a checkout that has renamed some."""
    renamed = dict(word.split("=", 1) for word in words)
    if unknown := renamed.keys() - SCRIPTS.keys():
        sys.exit(f"{min(unknown)} is not a script: give one of {', '.join(SCRIPTS)}")
    return SCRIPTS | renamed


def main(words: Sequence[str]) -> None:
    match words:
        case ["compare", before, after, *patterns]:
            compare(Path(before), Path(after), patterns)
        case ["record", checkout, folder, *renamed]:
            new = Path(folder).resolve()
            print(record(Path(checkout).resolve(), new, new / "inputs", scripts(renamed)))
        case [before, after, *renamed]:
            of_after = scripts(renamed)
            with tempfile.TemporaryDirectory(prefix="same-bits-") as name:
                root = Path(name)
                a = record(Path(before).resolve(), root / "a", root / "inputs", SCRIPTS)
                b = record(Path(after).resolve(), root / "b", root / "inputs", of_after)
                compare(a, b)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
