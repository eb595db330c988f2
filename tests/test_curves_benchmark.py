"""benchmarks/curves.py: when a curve reaches a value, and means over subjects."""

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from curves import over_subjects, steps_to, summary


def test_the_step_is_interpolated_between_points():
    curve = {0: {"identity": 0.0}, 50: {"identity": 0.6}, 100: {"identity": 1.0}}
    assert steps_to(curve, "identity", 0.8) == pytest.approx(75.0)
    assert math.isnan(steps_to(curve, "identity", 1.1))
    assert steps_to({10: {"identity": 0.9}}, "identity", 0.8) == 10


def test_the_summary_has_the_scores_of_the_last_step():
    curve = {100: {"identity": 0.9, "drift": 0.1}, 0: {"identity": 0.2, "drift": 0.5}}
    scores = summary(curve)
    assert (scores["identity"], scores["drift"]) == (0.9, 0.1)
    assert math.isnan(scores["dino"])


def test_the_seeds_of_a_subject_are_averaged_first():
    values = {("a", 0, "none"): 1.0, ("a", 1, "none"): 3.0, ("b", 0, "none"): 4.0}
    mean, half, count = over_subjects(values)
    assert (mean, count) == (3.0, 2)
    assert half == pytest.approx(12.706 * 2**0.5 / 2**0.5, rel=1e-3)  # t(1), s = sqrt(2)
