"""The image files of a run, with the prompt and the scores of each. Pixels are not read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dreambooth.reporting.study import Trial
from dreambooth.runs.files import Score
from dreambooth.runs.pictures import picture_name

T = TypeVar("T")
_NOT_SCORES = ("set", "prompt", "template", "index", "seed", "path")  # columns of scores.csv


@dataclass(frozen=True)
class Sample:
    """An image file of a run, its prompt and its scores."""

    path: Path
    image_set: str  # the folder under images/: photos, prompts, class ...
    prompt: str
    template: str  # the prompt with {} in place of the subject; "" if unknown
    index: int
    scores: Mapping[str, Score]


def samples_of(trial: Trial, image_set: str) -> list[Sample]:
    """Return the existing images of a set, sorted by file name; [] if the run lacks the set.

    Prompt, template and index are read from scores.csv or, for an image without a row in it, from
    the file's metadata.
    """
    rows = [row for row in trial.rows if row.get("set") == image_set]
    external = [(Path(str(row["path"])), row) for row in rows if row.get("path")]
    if external:  # images of another system are outside the run folder
        return [_from_row(path, image_set, row) for path, row in external if path.is_file()]
    if not trial.run.images.has(image_set):
        return []
    row_of = {picture_name(str(row["prompt"]), _index(row)): row for row in rows}
    return [
        _from_row(path, image_set, row_of[path.name])
        if path.name in row_of
        else _from_file(path, image_set)
        for path in trial.run.images.paths(image_set)
    ]


def spread(items: Sequence[T], most: int) -> list[T]:
    """Return at most `most` of the items, evenly spaced."""
    if len(items) <= most:
        return list(items)
    return [items[i * len(items) // most] for i in range(most)]


def _from_row(path: Path, image_set: str, row: Mapping[str, Score]) -> Sample:
    scores = {k: v for k, v in row.items() if k not in _NOT_SCORES and v is not None}
    template = str(row.get("template") or "")
    return Sample(path, image_set, str(row["prompt"]), template, _index(row), scores)


def _from_file(path: Path, image_set: str) -> Sample:
    from PIL import Image

    try:
        with Image.open(path) as image:
            info = {key: str(value) for key, value in image.info.items()}
        index = int(info.get("index", 0))
    except (OSError, SyntaxError, ValueError):  # its thumbnail will be missing too
        info, index = {}, 0
    return Sample(path, image_set, info.get("prompt", ""), info.get("template", ""), index, {})


def _index(row: Mapping[str, Score]) -> int:
    return int(float(row["index"] or 0))
