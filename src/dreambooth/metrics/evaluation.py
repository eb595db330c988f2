"""Scoring images from any source: one row for each image, and metrics over all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from dreambooth.metrics.columns import interval_of_run
from dreambooth.metrics.external import PictureFile
from dreambooth.runs.files import Score
from dreambooth.runs.pictures import Picture
from dreambooth.runs.records import Metric
from dreambooth.subjects.subject import Subject

Row = dict[str, Score]


@dataclass(frozen=True)
class PictureSets:
    """The images to score, grouped by their origin."""

    subject: Subject
    identifier: str
    prompts: Sequence[Picture]  # images of the subject, one or more of each evaluation prompt
    class_prompts: Sequence[Picture]  # images of the class prompt
    restored: Sequence[Picture] = ()  # photos that were shrunk and enlarged again
    originals: Sequence[Picture] = ()  # the original of each restored photo
    # What replaces the identifier in the text of CLIP-T; "": nothing, it is left out.
    in_text: str = field(default="", kw_only=True)

    @property
    def scored(self) -> list[Picture]:
        """All scored images, in the order of the rows that `evaluate` returns."""
        return [*self.prompts, *self.class_prompts, *self.restored]


@dataclass(frozen=True)
class Scores:
    """Scores of each image, and metrics over all of them."""

    rows: list[Row]  # one for each image
    metrics: dict[str, Metric]


class Scorer(Protocol):
    """Scores images: the interface that every metric implements."""

    def check(self, subject: Subject) -> None:
        """Raise ValueError before any work if this scorer cannot score images of `subject`."""

    def score(self, sets: PictureSets) -> Scores:
        """Score `sets.prompts`, then `sets.class_prompts`."""

    def score_restored(self, sets: PictureSets) -> Scores:
        """Score each of `sets.restored` against its original."""


def evaluate(scorers: Sequence[Scorer], sets: PictureSets, seed: int | None = None) -> Scores:
    """Score images with all scorers; the result is what scores.csv and metrics.json hold.

    `seed`: the seed of the run; None for images of other systems. A row has `set` ("prompts",
    "class" or "restored"), `prompt`, `template`, `index`, `seed`, the `path` of an image of
    another system, and a column for each score. The interval of a metric is over the run's prompts,
    if its mean is that of a column; else it is the scorer's own.
    """
    drawn = [("prompts", p) for p in sets.prompts] + [("class", p) for p in sets.class_prompts]
    rows = [row_of(image_set, picture, seed) for image_set, picture in drawn]
    restored = [row_of("restored", picture, seed) for picture in sets.restored]
    of_drawn = [scorer.score(sets) for scorer in scorers]
    of_restored = [scorer.score_restored(sets) for scorer in scorers] if restored else []
    metrics: dict[str, Metric] = {}
    for scores in of_drawn + of_restored:
        metrics |= scores.metrics
    scored = _with_columns(rows, of_drawn) + _with_columns(restored, of_restored)
    for name, metric in metrics.items():
        interval = interval_of_run(scored, name, metric.value)
        metrics[name] = replace(metric, ci95=interval) if interval else metric
    return Scores(scored, metrics)


def _with_columns(rows: list[Row], all_scores: Sequence[Scores]) -> list[Row]:
    for scores in all_scores:
        rows = [row | columns for row, columns in zip(rows, scores.rows, strict=True)]
    return rows


def merge_rows(earlier: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Add to each row the columns that only the earlier row of the same image has."""

    def key(row: Row) -> tuple[Score, ...]:
        return row["set"], row["prompt"], row["index"]

    by_picture = {key(row): row for row in earlier}
    return [by_picture.get(key(row), {}) | row for row in rows]


def summary_line(metrics: dict[str, Metric]) -> str:
    """All metrics in one line: "dino 0.612, clip_t 0.291"."""
    return ", ".join(f"{name} {metric.value:.3f}" for name, metric in metrics.items())


def row_of(image_set: str, picture: Picture, seed: int | None) -> Row:
    """What a row says of its image, without scores."""
    row: Row = {
        "set": image_set,
        "prompt": picture.prompt,
        "template": picture.template,
        "index": picture.index,
        "seed": seed,
    }
    return row | ({"path": str(picture.path)} if isinstance(picture, PictureFile) else {})
