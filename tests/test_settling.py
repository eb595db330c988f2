"""Runs that ended without a word."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from commands import ROOT, command, smoke

from dreambooth import settling
from dreambooth.files import claimed
from dreambooth.run import Run
from dreambooth.settling import settle


@pytest.fixture
def run(tmp_path):
    run = Run.create(tmp_path / "sweep" / "cell", {"overrides": []})
    run.set_status("running", progress=0.4)
    return run


def test_a_run_whose_process_is_gone_has_failed(run):
    settle(run.folder.parent)
    status = run.status()
    assert (status.state, status.reason) == ("failed", "its process was killed")
    assert status.progress == 0.4


def test_a_run_whose_process_lives_is_left(run):
    with claimed(run.folder):
        settle(run.folder.parent)
    assert run.status().state == "running"


def test_of_a_run_of_another_machine_nothing_is_known(run):
    file = run.folder / "status.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"host": "elsewhere"}))
    settle(run.folder.parent)
    assert run.status().state == "running"


@pytest.mark.parametrize(
    ("there", "state"), [({"7_1": "RUNNING"}, "queued"), (None, "queued"), ({}, "failed")]
)
def test_slurm_is_asked_after_the_runs_of_jobs(run, monkeypatch, there, state):
    monkeypatch.setattr(settling, "waiting_or_running", lambda: there)
    monkeypatch.setattr(settling, "end_of", lambda job: "SLURM's word for its end is TIMEOUT")
    run.set_status("queued", job="7_1")
    settle(run.folder)
    assert run.status().state == state
    if state == "failed":
        assert run.status().reason == "job 7_1 is gone: SLURM's word for its end is TIMEOUT"


def test_slurm_is_not_asked_where_no_run_is_its(run, monkeypatch):
    monkeypatch.setattr(settling, "waiting_or_running", lambda: 1 / 0)
    settle(run.folder.parent)


def test_the_runs_of_other_users_are_left(run, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    settle(run.folder.parent)
    assert run.status().state == "running"


def test_a_damaged_status_stops_nothing(run):
    (run.folder / "status.json").write_text("{")
    settle(run.folder.parent)


def test_the_report_of_a_sweep_that_was_killed_says_so(tmp_path, tiny):
    sweep = tmp_path / "sweep"
    own = (*smoke(tiny, tmp_path / "prior"), "logger=csv", "method.max_steps=100000")
    words = (*own, "seed=1,2", f"hydra.sweep.dir={sweep}")
    started = subprocess.Popen(
        [sys.executable, "src/train.py", "-m", *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    last = time.monotonic() + 120
    while not any(run.status().progress for run in map(Run.there, sweep.glob("*/"))):
        assert time.monotonic() < last
        time.sleep(0.2)
    started.send_signal(signal.SIGKILL)
    started.wait()
    ended = command("report", f"sweep={sweep}", f"name={tmp_path / 'report'}")
    assert ended.code == 0, ended.output
    assert "its process was killed" in (tmp_path / "report" / "report.md").read_text()
