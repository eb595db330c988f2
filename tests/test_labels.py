"""benchmarks/labels.py: contact sheets to label by eye, and the agreement of the oracle."""

import runpy

import numpy as np
import pytest
import torch
from commands import ROOT

from dreambooth.miniature.oracle import EMBEDDING, Reading
from dreambooth.runs.files import csv_of

PROMPTS = [f"a {noun} in the snow" for noun in ("dog", "cat", "car")] * 22  # two sheets


@pytest.fixture(scope="module")
def labels():
    from types import SimpleNamespace

    return SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks/labels.py")))


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (66, 64, 64, 3), np.uint8)


def rows(prompts, clean=1, right=1):
    return [
        {"index": i, "prompt": prompt, "class_right": right, "clean": clean}
        for i, prompt in enumerate(prompts)
    ]


@pytest.mark.slow
def test_the_pictures_are_read_from_the_sheets_bit_by_bit(labels, pixels, tmp_path):
    name = tmp_path / "new" / "base"
    labels.write_sheets(pixels, PROMPTS, name)
    assert {path.name for path in name.parent.iterdir()} == {"base-0.png", "base-1.png", "base.csv"}
    table = name.with_name("base.csv")
    assert np.array_equal(labels.read_pictures(table, 66), pixels)
    with pytest.raises(ValueError, match="image 0: class_right is '': fill in 0 or 1"):
        labels.read_labels(table)
    table.write_text(csv_of(rows(PROMPTS, right=0)))
    filled_in = labels.read_labels(table)
    assert [label.prompt for label in filled_in] == PROMPTS
    assert not any(label.class_right for label in filled_in)
    assert all(label.clean for label in filled_in)


def test_missing_prompts_class_nouns_and_sheets_are_refused(labels, pixels, tmp_path):
    with pytest.raises(ValueError, match="66 images and 1 prompts"):
        labels.write_sheets(pixels, ["a dog"], tmp_path / "base")
    with pytest.raises(ValueError, match="'a zebra' names no class"):
        labels.write_sheets(pixels[:1], ["a zebra"], tmp_path / "base")
    with pytest.raises(ValueError, match=r"base-0\.png, a sheet of .*is missing"):
        labels.read_pictures(tmp_path / "base.csv", 1)


def test_a_class_is_right_only_if_the_picture_is_clean_for_person_and_oracle_alike(labels):
    seen = [
        labels.Label("a dog", class_right=right, clean=clean)
        for right, clean in [
            (True, True),
            (True, False),
            (False, True),
            (True, True),
            (True, False),
        ]
    ]
    nouns, clean = ["dog", "dog", "dog", "cat", "cat"], [0.9, 0.1, 0.9, 0.9, 0.9]
    reading = Reading(
        [{"class": noun} for noun in nouns], torch.zeros(5, EMBEDDING), torch.tensor(clean)
    )
    assert labels.agreement(seen, reading) == {"clean": (0.8, [4]), "class": (0.6, [2, 3])}


def test_the_shipped_labels_are_of_200_pictures_of_three_checkpoints(labels):
    tables = sorted((ROOT / "benchmarks" / "labels").glob("*.csv"))
    counts = [len(labels.read_labels(table)) for table in tables]
    pictures = [
        len(labels.read_pictures(table, count)) for table, count in zip(tables, counts, strict=True)
    ]
    assert pictures == counts
    assert (len(counts), sum(counts)) == (3, 200)
