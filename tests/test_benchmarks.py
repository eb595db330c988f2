"""The benchmarks load, and some are run; kills.py by tests/test_kills.py."""

import runpy

import pytest
from commands import ROOT, process

pytestmark = pytest.mark.slow


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
