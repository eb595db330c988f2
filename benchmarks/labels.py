"""Compares the oracle with labels by a person: makes contact sheets, and measures the agreement.

    python benchmarks/labels.py sheets samples.npy prompts.txt benchmarks/labels/NAME
    python benchmarks/labels.py agreement benchmarks/labels/NAME.csv [weights]

`sheets` takes images, uint8 (N, 64, 64, 3), and their prompts, one on each line. It writes the
sheets NAME-0.png, NAME-1.png and so on, of 64 numbered images each, enlarged three times without
smoothing, and the table NAME.csv with the columns index, prompt, class_right and clean. Neither
contains any result of the oracle. Fill in 1 or 0 for each image: `class_right`, whether it shows
the class of its prompt, and `clean`, whether it is undamaged. `agreement` reads the images from
the sheets and compares the labels with what the oracle reads in them.
"""

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

import cv2
import numpy as np

from dreambooth.miniature import WEIGHTS
from dreambooth.miniature.drawing import SIZE_PX
from dreambooth.miniature.oracle import Oracle, Reading, prompted_values
from dreambooth.miniature.scenes import to_tensor
from dreambooth.runs.files import csv_of

COLUMNS = 8
PER_SHEET = COLUMNS * COLUMNS
ENLARGED = 3
_PICTURE_PX = SIZE_PX * ENLARGED
_CAPTION_PX = 43
_GAP_PX = 4
_LINE = 30  # characters in a line of a caption


@dataclass(frozen=True)
class Label:
    """What a person saw in an image."""

    prompt: str
    class_right: bool
    clean: bool


def write_sheets(pixels: np.ndarray, prompts: Sequence[str], name: Path) -> None:
    """Write the sheets and the table without labels.

    Raises ValueError if an image has no prompt or a prompt has no class noun.
    """
    if len(pixels) != len(prompts):
        raise ValueError(
            f"there are {len(pixels)} images and {len(prompts)} prompts: "
            "give one prompt for each image"
        )
    for prompt in prompts:
        if "class" not in prompted_values(prompt):
            raise ValueError(
                f"the prompt {prompt!r} names no class of the miniature: add a class noun"
            )
    name.parent.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(pixels), PER_SHEET):
        sheet = _sheet(pixels[first : first + PER_SHEET], prompts[first : first + PER_SHEET], first)
        path = name.with_name(f"{name.name}-{first // PER_SHEET}.png")
        cv2.imwrite(str(path), sheet[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    rows = [
        {"index": i, "prompt": prompt, "class_right": None, "clean": None}
        for i, prompt in enumerate(prompts)
    ]
    name.with_name(f"{name.name}.csv").write_text(csv_of(rows))


def read_labels(path: Path) -> list[Label]:
    """Read a table. Raises ValueError if a row is not labelled or its index is wrong."""
    labels = []
    for number, row in enumerate(csv.DictReader(path.read_text().splitlines())):
        for column in ("class_right", "clean"):
            if row[column] not in ("0", "1"):
                raise ValueError(
                    f"{path}, image {number}: {column} is {row[column]!r}: fill in 0 or 1"
                )
        if int(row["index"]) != number:
            raise ValueError(
                f"{path}: row {number} has the index {row['index']}: keep the order of the rows"
            )
        labels.append(Label(row["prompt"], row["class_right"] == "1", row["clean"] == "1"))
    return labels


def read_pictures(path: Path, count: int) -> np.ndarray:
    """Return the images on the sheets beside a table NAME.csv, uint8 (count, 64, 64, 3)."""
    pictures = []
    for number in range(-(-count // PER_SHEET)):
        file = path.with_name(f"{path.stem}-{number}.png")
        sheet = cv2.imread(str(file))
        if sheet is None:
            raise ValueError(
                f"{file}, a sheet of {path}, is missing: keep the sheets beside the table"
            )
        for place in range(min(PER_SHEET, count - number * PER_SHEET)):
            y, x = _corner(place)
            enlarged = sheet[y : y + _PICTURE_PX, x : x + _PICTURE_PX, ::-1]
            pictures.append(enlarged[::ENLARGED, ::ENLARGED])
    return np.stack(pictures)


def agreement(labels: Sequence[Label], reading: Reading) -> dict[str, tuple[float, list[int]]]:
    """Return the share of images on which label and oracle agree, and the numbers of the others.

    Two results: `clean`, and `class`, where a class is right only if the image is clean too.
    """
    clean = [bool(p >= 0.5) for p in reading.clean]
    nouns = [prompted_values(label.prompt)["class"] for label in labels]
    right = [seen["class"] == noun for seen, noun in zip(reading.values, nouns, strict=True)]
    pairs = {
        "clean": [(label.clean, c) for label, c in zip(labels, clean, strict=True)],
        "class": [
            (label.class_right and label.clean, r and c)
            for label, r, c in zip(labels, right, clean, strict=True)
        ],
    }
    return {
        name: (
            sum(person == oracle for person, oracle in answers) / len(answers),
            [i for i, (person, oracle) in enumerate(answers) if person != oracle],
        )
        for name, answers in pairs.items()
    }


def _sheet(pixels: np.ndarray, prompts: Sequence[str], first: int) -> np.ndarray:
    rows = -(-len(pixels) // COLUMNS)
    height, width = (n * side + _GAP_PX for n, side in zip((rows, COLUMNS), _cell(), strict=True))
    sheet = np.full((height, width, 3), 255, np.uint8)
    for place, (picture, prompt) in enumerate(zip(pixels, prompts, strict=True)):
        y, x = _corner(place)
        enlarged = picture.repeat(ENLARGED, 0).repeat(ENLARGED, 1)
        sheet[y : y + _PICTURE_PX, x : x + _PICTURE_PX] = enlarged
        for number, words in enumerate(wrap(f"{first + place}: {prompt}", _LINE)[:3]):
            where, font = (x, y + _PICTURE_PX + 11 + 13 * number), cv2.FONT_HERSHEY_SIMPLEX
            cv2.putText(sheet, words, where, font, 0.36, (0, 0, 0), 1, cv2.LINE_AA)
    return sheet


def _cell() -> tuple[int, int]:
    """Return the height and width of an image with its caption and gap."""
    return _PICTURE_PX + _CAPTION_PX + _GAP_PX, _PICTURE_PX + _GAP_PX


def _corner(place: int) -> tuple[int, int]:
    """Return (y, x) of the top left corner of an image on its sheet."""
    height, width = _cell()
    return _GAP_PX + place // COLUMNS * height, _GAP_PX + place % COLUMNS * width


def main(command: str, *paths: str) -> None:
    if command == "sheets":
        samples, prompts, name = paths
        write_sheets(np.load(samples), Path(prompts).read_text().splitlines(), Path(name))
    elif command == "agreement":
        table = Path(paths[0])
        labels = read_labels(table)
        oracle = Oracle.load(Path(paths[1]) if len(paths) > 1 else WEIGHTS)
        reading = oracle.read(to_tensor(read_pictures(table, len(labels))))
        for name, (share, others) in agreement(labels, reading).items():
            print(f"{name}: the oracle agrees in {share:.1%} of {len(labels)}; not in {others}")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["help"]))
