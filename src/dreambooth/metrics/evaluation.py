"""Scores of pictures, whoever drew them: a row for each picture, and the summary of all."""

from collections.abc import Sequence
from typing import Protocol

from dreambooth.metrics.external import PictureFile
from dreambooth.runs.files import Score
from dreambooth.runs.pictures import Picture
from dreambooth.runs.records import Metric
from dreambooth.subjects.subject import Subject

Row = dict[str, Score]


class Scorer(Protocol):
    """Numbers for pictures: the seam for every metric."""

    def check(self, subject: Subject) -> None:
        """ValueError, before any work, if it cannot score pictures of this subject."""

    def score(
        self,
        subject: Subject,
        identifier: str,
        prompts: Sequence[Picture],
        class_prompts: Sequence[Picture],
    ) -> tuple[list[Row], dict[str, Metric]]:
        """A row for each picture (those of `prompts`, then of `class_prompts`), and the summary."""

    def score_restored(
        self, subject: Subject, restored: Sequence[Picture], originals: Sequence[Picture]
    ) -> tuple[list[Row], dict[str, Metric]]:
        """The same of photos shrunk and enlarged again, each against its original."""


def evaluate(
    scorers: Sequence[Scorer],
    subject: Subject,
    identifier: str,
    prompts: Sequence[Picture],
    class_prompts: Sequence[Picture],
    seed: int | None = None,
    restored: Sequence[Picture] = (),
    originals: Sequence[Picture] = (),
) -> tuple[list[Row], dict[str, Metric]]:
    """The rows and numbers of all scorers: what scores.csv and metrics.json hold.

    `restored`: photos shrunk and enlarged again, and their `originals`. `seed` is the run's,
    None for pictures of other systems. A row has `set` ("prompts", "class" or "restored"),
    `prompt`, `template`, `index`, `seed`, the `path` of a picture of another system, and a column
    for each score of the picture.
    """
    rows = [_row(name, picture, seed) for name, picture in _named(prompts, class_prompts)]
    metrics: dict[str, Metric] = {}
    for scorer in scorers:
        columns, summary = scorer.score(subject, identifier, prompts, class_prompts)
        rows = [row | column for row, column in zip(rows, columns, strict=True)]
        metrics |= summary
    if not restored:
        return rows, metrics
    more = [_row("restored", picture, seed) for picture in restored]
    for scorer in scorers:
        columns, summary = scorer.score_restored(subject, restored, originals)
        more = [row | column for row, column in zip(more, columns, strict=True)]
        metrics |= summary
    return rows + more, metrics


def joined(before: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """`rows`, each with the columns that it lacks from the row before of the same picture."""

    def key(row: Row) -> tuple[Score, ...]:
        return row["set"], row["prompt"], row["index"]

    known = {key(row): row for row in before}
    return [known.get(key(row), {}) | row for row in rows]


def told(metrics: dict[str, Metric]) -> str:
    """In a line: "dino 0.612, clip_t 0.291"."""
    return ", ".join(f"{name} {metric.value:.3f}" for name, metric in metrics.items())


def _named(
    prompts: Sequence[Picture], class_prompts: Sequence[Picture]
) -> list[tuple[str, Picture]]:
    return [("prompts", p) for p in prompts] + [("class", p) for p in class_prompts]


def _row(image_set: str, picture: Picture, seed: int | None) -> Row:
    row: Row = {
        "set": image_set,
        "prompt": picture.prompt,
        "template": picture.template,
        "index": picture.index,
        "seed": seed,
    }
    return row | ({"path": str(picture.path)} if isinstance(picture, PictureFile) else {})
