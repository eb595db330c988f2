"""Scores of pictures, whoever drew them: a row for each picture, and the summary of all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dreambooth.metrics.external import PictureFile
from dreambooth.runs.files import Score
from dreambooth.runs.pictures import Picture
from dreambooth.runs.records import Metric
from dreambooth.subjects.subject import Subject

Row = dict[str, Score]


@dataclass(frozen=True)
class PictureSets:
    """What is scored: pictures of a subject, by what they were drawn or enlarged from."""

    subject: Subject
    identifier: str
    prompts: Sequence[Picture]  # of the subject, under its prompts
    class_prompts: Sequence[Picture]
    restored: Sequence[Picture] = ()  # photos shrunk and enlarged again
    originals: Sequence[Picture] = ()  # those photos, one to one

    @property
    def scored(self) -> list[Picture]:
        """In the order of the rows that `evaluate` gives."""
        return [*self.prompts, *self.class_prompts, *self.restored]


@dataclass(frozen=True)
class Scores:
    rows: list[Row]  # one for each picture
    metrics: dict[str, Metric]


class Scorer(Protocol):
    """Numbers for pictures: the seam for every metric."""

    def check(self, subject: Subject) -> None:
        """ValueError, before any work, if it cannot score pictures of this subject."""

    def score(self, sets: PictureSets) -> Scores:
        """Of `sets.prompts`, then `sets.class_prompts`."""

    def score_restored(self, sets: PictureSets) -> Scores:
        """Of `sets.restored`, each against its original."""


def evaluate(scorers: Sequence[Scorer], sets: PictureSets, seed: int | None = None) -> Scores:
    """The rows and numbers of all scorers: what scores.csv and metrics.json hold.

    `seed` is the run's, None for pictures of other systems. A row has `set` ("prompts", "class" or
    "restored"), `prompt`, `template`, `index`, `seed`, the `path` of a picture of another system,
    and a column for each score of the picture.
    """
    drawn = [("prompts", p) for p in sets.prompts] + [("class", p) for p in sets.class_prompts]
    rows = [_row(image_set, picture, seed) for image_set, picture in drawn]
    restored = [_row("restored", picture, seed) for picture in sets.restored]
    found = [scorer.score(sets) for scorer in scorers]
    found_restored = [scorer.score_restored(sets) for scorer in scorers] if restored else []
    metrics: dict[str, Metric] = {}
    for scores in found + found_restored:
        metrics |= scores.metrics
    return Scores(_with_columns(rows, found) + _with_columns(restored, found_restored), metrics)


def _with_columns(rows: list[Row], found: Sequence[Scores]) -> list[Row]:
    for scores in found:
        rows = [row | columns for row, columns in zip(rows, scores.rows, strict=True)]
    return rows


def merge_rows(before: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """`rows`, each with the columns that it lacks from the row before of the same picture."""

    def key(row: Row) -> tuple[Score, ...]:
        return row["set"], row["prompt"], row["index"]

    known = {key(row): row for row in before}
    return [known.get(key(row), {}) | row for row in rows]


def summary_line(metrics: dict[str, Metric]) -> str:
    """In a line: "dino 0.612, clip_t 0.291"."""
    return ", ".join(f"{name} {metric.value:.3f}" for name, metric in metrics.items())


def _row(image_set: str, picture: Picture, seed: int | None) -> Row:
    row: Row = {
        "set": image_set,
        "prompt": picture.prompt,
        "template": picture.template,
        "index": picture.index,
        "seed": seed,
    }
    return row | ({"path": str(picture.path)} if isinstance(picture, PictureFile) else {})
