"""The benchmarks load, and some are run; kills.py by tests/test_kills.py."""

import re
import runpy

import pytest
from commands import ROOT, process
from PIL import Image


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_every_benchmark_loads(path, monkeypatch):
    monkeypatch.syspath_prepend(path.parent)
    assert callable(runpy.run_path(str(path))["main"])


def test_the_shipped_encoders_see_drawn_scenes_as_they_must(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    found = runpy.run_path(str(ROOT / "benchmarks/encoders.py"))["measured"](500)
    assert found["CLIP class"] >= 0.95
    assert found["CLIP context"] >= 0.95
    assert found["DINO identity AUC"] >= 0.90
    assert found["DINO identity AUC"] > found["CLIP-I identity AUC"]  # the paper's claim


def test_the_loops_overhead_is_told():
    ended = process("benchmarks/overhead.py", 2)
    assert ended.code == 0, ended.output
    assert ended.output.count("ms a step") == 5
    assert "median ratio" in ended.output


def test_coverage_of_intervals_is_told():
    ended = process("benchmarks/coverage.py", 20)
    assert ended.code == 0, ended.output
    assert ended.output.count(" subjects: ") == 60


def test_the_miniatures_quality_is_reported_beside_its_floor(tmp_path):
    sheet = tmp_path / "samples.png"
    ended = process("benchmarks/miniature_quality.py", 12, "--samples", sheet)
    assert ended.code == 0, ended.output
    for name in ("Frechet distance", "... / variance", "... above floor", "precision", "recall"):
        rows = re.findall(rf"^{re.escape(name)} +(.*)$", ended.output, re.MULTILINE)
        assert len(rows) == 2, ended.output  # of both extractors
        assert all(len([float(value) for value in row.split()]) == 4 for row in rows), rows
    assert re.search(r"^class +\d+\.\d%  of 12$", ended.output, re.MULTILINE), ended.output
    assert ended.output.count("entropy of bare nouns: mean ") == 2
    assert "ms an image" in ended.output
    assert Image.open(sheet).width == 8 * 140 + 12


def test_quality_refuses_what_it_cannot_measure(tmp_path):
    ended = process("benchmarks/miniature_quality.py", 9)
    assert ended.code == 2
    assert "num_prompts is 9: give at least 10" in ended.output
    ended = process("benchmarks/miniature_quality.py", 10, "--extractor", tmp_path / "none")
    assert ended.code == 1
    assert "is no folder: give one that holds a DINO ViT" in ended.output
