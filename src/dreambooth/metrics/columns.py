"""Where the scores of a metric are in scores.csv, the range of its values, and its interval.

A run's metrics.json and the report take the interval of a mean from here, so that one number has
one interval.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dreambooth.metrics.intervals import ci95, ci95_of_share, pseudo_values, units
from dreambooth.runs.files import Score

PictureKey = tuple[str, int]  # template of the prompt, index

# metric -> (image set, column of scores.csv); for other metrics, prompts and the metric's name
_COLUMNS = {
    "drift": ("class", "identity"),
    "pres": ("class", "pres"),
    "diversity": ("class", "diversity"),
    "clean": ("prompts", "is_clean"),
    "class_accuracy": ("prompts", "class_right"),
    "context_accuracy": ("prompts", "context_right"),
    "unrelated_change": ("unrelated", "unrelated_change"),
}
_MEANS_OVER_PAIRS = ("diversity",)
_FROM_MINUS_1_TO_1 = ("dino", "clip_i", "clip_t", "pres", "copy", "sr_dino", "sr_ssim")
_FROM_0_TO_1 = (
    *("identity", "drift", "clean", "class_accuracy", "context_accuracy"),
    *("asked", "kept", "both", "copied", "copied_null"),
    *("sr_layout_error", "sr_identity"),
)
_FROM_0 = ("div", "diversity", "sr_invented", "sr_lpips", "unrelated_change")


class Range(NamedTuple):
    """The least and the greatest value of a score."""

    least: float
    most: float


def range_of(metric: str) -> Range | None:
    """The range of a metric's values; None for a metric that is not known here."""
    if metric in _FROM_MINUS_1_TO_1:
        return Range(-1, 1)
    if metric in _FROM_0_TO_1:
        return Range(0, 1)
    return Range(0, math.inf) if metric in _FROM_0 else None


def image_set_of(metric: str) -> str:
    """The image set that a metric is computed on: prompts, class, restored or unrelated."""
    if metric.startswith("sr_"):
        return "restored"
    return _COLUMNS.get(metric, ("prompts", ""))[0]


def scores_of(rows: Iterable[Mapping[str, Score]], metric: str) -> dict[PictureKey, float]:
    """The score of each image that a metric is computed on; images without one are left out."""
    image_set, column = _COLUMNS.get(metric, (image_set_of(metric), metric))
    scores: dict[PictureKey, float] = {}
    for row in rows:
        value = row.get(column)
        if row["set"] == image_set and isinstance(value, float | int):
            scores[str(row["template"] or ""), int(row["index"] or 0)] = float(value)
    return scores


def is_mean_of(scores: Mapping[PictureKey, float], value: float) -> bool:
    """Whether a recorded mean is that of these scores, up to what files round."""
    mean = sum(scores.values()) / len(scores) if scores else math.nan
    return math.isclose(mean, value, rel_tol=1e-3, abs_tol=1e-5)


def independent_scores(scores: Mapping[PictureKey, float], metric: str) -> dict[PictureKey, float]:
    """Scores whose spread is that of their mean: pseudo-values in place of means over pairs."""
    if metric not in _MEANS_OVER_PAIRS or len(scores) < 3:
        return dict(scores)
    return dict(zip(scores, pseudo_values(list(scores.values())).tolist(), strict=True))


def units_of_run(scores: Mapping[PictureKey, float]) -> tuple[str, NDArray[np.float64]]:
    """The independent units of one run's mean, and a value for each: its prompts, or the images
    of its only prompt."""
    by_prompt: dict[str, list[float]] = {}
    for (template, _), score in scores.items():
        by_prompt.setdefault(template, []).append(score)
    if len(by_prompt) > 1:
        return "prompts", units(list(by_prompt.values()))
    return "images", np.array(list(scores.values()))


def interval_of(
    metric: str, of_units: NDArray[np.float64], scores: Iterable[float]
) -> tuple[float, float] | None:
    """The 95 % interval of a mean of independent units, within the metric's range.

    `scores`: of the images; if they are all 0 or 1, the mean is a share. None for a single unit.
    """
    limits = range_of(metric)
    is_share = limits in (None, Range(0, 1)) and set(scores) <= {0.0, 1.0}
    interval = ci95_of_share(of_units) if is_share else ci95(of_units)
    if interval is None or limits is None:
        return interval
    return max(interval[0], limits.least), min(interval[1], limits.most)


def interval_of_run(
    rows: Sequence[Mapping[str, Score]], metric: str, value: float
) -> tuple[float, float] | None:
    """The interval of a run's mean by its rows; None if the rows do not have its scores."""
    scores = scores_of(rows, metric)
    if not is_mean_of(scores, value):
        return None
    independent = independent_scores(scores, metric)
    return interval_of(metric, units_of_run(independent)[1], scores.values())
