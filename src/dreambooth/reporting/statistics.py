"""Means over subjects with their intervals, and paired differences with a corrected test."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval; `low` and `high` are NaN where one value alone is there."""

    mean: float
    low: float
    high: float
    num_subjects: int
    num_images: int
    unit: str = "subjects"  # what the interval is over: subjects, prompts or pictures


@dataclass(frozen=True)
class Difference:
    """a - b over what both have: the same subject, seed, prompt and index, and so the same noise.

    `p` is two-sided; `p_holm` is corrected for all comparisons of its table. `effect_size` is
    Cohen's d of the paired units (their mean difference over its standard deviation); NaN where all
    differences are the same.
    """

    mean: float
    low: float
    high: float
    p: float
    p_holm: float
    effect_size: float
    num_subjects: int
    num_pairs: int  # of pictures
    unit: str = "subjects"
