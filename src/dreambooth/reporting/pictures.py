"""The pictures of a run as a report shows them: files, and what is known of each; no pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dreambooth.reporting.study import Trial
from dreambooth.runs.files import Score
from dreambooth.runs.pictures import picture_name

T = TypeVar("T")
_OF_THE_PICTURE = ("set", "prompt", "template", "index", "seed", "path")


@dataclass(frozen=True)
class Sample:
    """A picture file of a run: what it was made from, and its scores."""

    path: Path
    image_set: str  # the folder under images/: photos, prompts, class ...
    prompt: str
    template: str  # the prompt before the subject was named; "" where nothing says
    index: int
    scores: Mapping[str, Score]


def samples_of(trial: Trial, image_set: str) -> list[Sample]:
    """The pictures of a set that are there, ordered by file name; [] if the run has no such set.

    What a picture was made from is read from scores.csv, and where that is silent from the file.
    """
    rows = [row for row in trial.rows if row.get("set") == image_set]
    elsewhere = [(Path(str(row["path"])), row) for row in rows if row.get("path")]
    if elsewhere:  # pictures of another system
        return [_from_row(path, image_set, row) for path, row in elsewhere if path.is_file()]
    if not trial.run.has_images(image_set):
        return []
    named = {picture_name(str(row["prompt"]), _index(row)): row for row in rows}
    return [
        _from_row(path, image_set, named[path.name])
        if path.name in named
        else _from_file(path, image_set)
        for path in trial.run.image_paths(image_set)
    ]


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spread over their order."""
    if len(items) <= most:
        return list(items)
    return [items[i * len(items) // most] for i in range(most)]


def _from_row(path: Path, image_set: str, row: Mapping[str, Score]) -> Sample:
    scores = {k: v for k, v in row.items() if k not in _OF_THE_PICTURE and v is not None}
    template = str(row.get("template") or "")
    return Sample(path, image_set, str(row["prompt"]), template, _index(row), scores)


def _from_file(path: Path, image_set: str) -> Sample:
    from PIL import Image

    try:
        with Image.open(path) as image:
            said = {key: str(value) for key, value in image.info.items()}
        index = int(said.get("index", 0))
    except (OSError, SyntaxError, ValueError):  # its thumbnail will be missing too
        said, index = {}, 0
    return Sample(path, image_set, said.get("prompt", ""), said.get("template", ""), index, {})


def _index(row: Mapping[str, Score]) -> int:
    return int(float(row["index"] or 0))
