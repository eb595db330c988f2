"""Damage that is obvious, mild changes, and the labels of both."""

import itertools
import math

import numpy as np
import pytest

from dreambooth.miniature.damage import (
    CLEAN_BELOW,
    DAMAGED_FROM,
    DAMAGES,
    damage_and_label,
    is_clean,
    mildly_changed,
    visible_change,
    warp,
)
from dreambooth.miniature.drawing import draw
from dreambooth.miniature.scenes import nth_scene

DRAWINGS = [draw(nth_scene(i, 5)) for i in range(24)]


@pytest.mark.parametrize("kind", DAMAGES)
def test_every_kind_of_damage_is_obvious_and_depends_on_its_random_numbers_only(kind):
    labels = []
    for i, drawing in enumerate(DRAWINGS):
        before = drawing.copy()
        after, label = damage_and_label(drawing, DRAWINGS[i - 1], np.random.default_rng(i), kind)
        again, _ = damage_and_label(drawing, DRAWINGS[i - 1], np.random.default_rng(i), kind)
        assert np.array_equal(after, again)
        assert np.array_equal(drawing, before)
        assert (after.shape, after.dtype) == (drawing.shape, np.uint8)
        labels.append(label)
    assert np.mean(np.array(labels) == 0) >= 0.8


def test_without_a_kind_the_damage_is_random():
    rng = np.random.default_rng(0)
    changes = [damage_and_label(DRAWINGS[0], DRAWINGS[1], rng)[0] for _ in range(5)]
    assert len({change.tobytes() for change in changes}) == 5


def test_the_visible_change_is_the_mean_of_the_most_changed_window_around_the_subject():
    before = np.full((64, 64, 3), 100, np.uint8)
    assert visible_change(before, before) == 0
    after = before.copy()
    after[20:36, 20:36] += 64  # a whole window
    assert visible_change(before, after) == pytest.approx(64)
    after = before.copy()
    after[20:28, 20:36, 0] += 96  # half of a window, in one of three channels
    assert visible_change(before, after) == pytest.approx(96 / 2 / 3)


def test_small_changes_are_clean_large_ones_are_not_and_those_between_have_no_label():
    assert is_clean(CLEAN_BELOW - 0.1) == 1
    assert math.isnan(is_clean(CLEAN_BELOW))
    assert math.isnan(is_clean(DAMAGED_FROM - 0.1))
    assert is_clean(DAMAGED_FROM) == 0
    dotted = DRAWINGS[0].copy()
    dotted[30, 30] = 255 - dotted[30, 30]
    assert is_clean(visible_change(DRAWINGS[0], dotted)) == 1


def test_a_warp_moves_pixels_by_the_given_displacement():
    y, x = np.mgrid[:64, :64]
    places = np.stack([2 * x + 50, 2 * y + 50, 0 * x], -1).astype(np.uint8)
    moved = [
        (warp(places, places, np.random.default_rng(i), 2.0).astype(float) - places)[8:-8, 8:-8] / 2
        for i in range(20)
    ]
    assert np.sqrt(np.mean([(m**2).sum(2).mean() for m in moved])) == pytest.approx(2, rel=0.15)


def test_mild_changes_are_smaller_than_damage_and_leave_some_pictures_unchanged():
    rng = np.random.default_rng(0)
    mild = [mildly_changed(drawing, rng) for drawing in DRAWINGS for _ in range(4)]
    clean = [drawing for drawing in DRAWINGS for _ in range(4)]
    change = [np.abs(m - c.astype(float)).mean() for m, c in zip(mild, clean, strict=True)]
    damage = [
        np.abs(damage_and_label(drawing, other, rng, "several")[0] - drawing.astype(float)).mean()
        for drawing, other in itertools.pairwise(DRAWINGS)
    ]
    assert np.mean(change) < np.mean(damage) / 2
    assert 0.05 < np.mean(np.array(change) == 0) < 0.5
    flat = np.full((64, 64, 3), 128, np.uint8)
    assert max(np.abs(mildly_changed(flat, rng) - 128.0).mean() for _ in range(50)) < 13
    assert all(m.dtype == np.uint8 and m.shape == (64, 64, 3) for m in mild)
