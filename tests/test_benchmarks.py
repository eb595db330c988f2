"""The benchmarks load; each is run by hand, and kills.py by tests/test_kills.py."""

import runpy

import pytest
from commands import ROOT, process


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_every_benchmark_loads(path, monkeypatch):
    monkeypatch.syspath_prepend(path.parent)
    assert callable(runpy.run_path(str(path))["main"])


def test_the_loops_overhead_is_told():
    ended = process("benchmarks/overhead.py", 2)
    assert ended.code == 0, ended.output
    assert ended.output.count("ms a step") == 5
    assert "median ratio" in ended.output


def test_coverage_of_intervals_is_told():
    ended = process("benchmarks/coverage.py", 20)
    assert ended.code == 0, ended.output
    assert ended.output.count(" subjects: ") == 60
