"""Runs that ended without a word."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from commands import ROOT, command, smoke

from dreambooth.distributed import slurm
from dreambooth.runs import orphans
from dreambooth.runs.files import claimed
from dreambooth.runs.orphans import mark_orphans_failed, refresh_status
from dreambooth.runs.run import Run


@pytest.fixture
def run(tmp_path):
    run = Run.create(tmp_path / "sweep" / "cell", {"overrides": []})
    run.set_status("running", progress=0.4)
    return run


def test_a_run_whose_process_is_gone_has_failed(run):
    mark_orphans_failed(run.folder.parent)
    status = run.status()
    assert (status.state, status.reason) == ("failed", "its process is gone")
    assert status.progress == 0.4


def test_a_run_whose_process_lives_is_left(run):
    with claimed(run.folder):
        mark_orphans_failed(run.folder.parent)
    assert run.status().state == "running"


def test_of_a_run_of_another_machine_nothing_is_known(run):
    file = run.folder / "status.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"host": "elsewhere"}))
    mark_orphans_failed(run.folder.parent)
    assert run.status().state == "running"


@pytest.mark.parametrize(
    ("there", "state"), [({"7_1": "RUNNING"}, "queued"), (None, "queued"), ({}, "failed")]
)
def test_slurm_is_asked_after_the_runs_of_jobs(run, monkeypatch, there, state):
    monkeypatch.setattr(orphans, "active_jobs", lambda: there)
    monkeypatch.setattr(orphans, "describe_end", lambda job: "SLURM reports its state as TIMEOUT")
    run.set_status("queued", job="7_1")
    mark_orphans_failed(run.folder)
    assert run.status().state == state
    if state == "failed":
        assert run.status().reason == "job 7_1 is gone: SLURM reports its state as TIMEOUT"


def test_slurm_is_not_asked_where_no_run_is_its(run, monkeypatch):
    monkeypatch.setattr(orphans, "active_jobs", lambda: 1 / 0)
    mark_orphans_failed(run.folder.parent)


def test_the_runs_of_other_users_are_left(run, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    mark_orphans_failed(run.folder.parent)
    assert run.status().state == "running"


def test_a_damaged_status_stops_nothing(run):
    others = [Run.create(run.folder.parent / name, {"overrides": []}) for name in ("a", "z")]
    (run.folder / "status.json").write_text("{")
    mark_orphans_failed(run.folder.parent)
    assert [other.status().state for other in others] == ["failed", "failed"]


def test_it_ended_when_it_last_said_something(run):
    file = run.folder / "status.json"
    os.utime(file, (1e9, 1e9))
    mark_orphans_failed(run.folder)
    assert run.status().ended == "2001-09-09T01:46:40+00:00"


def test_a_job_that_was_submitted_since_slurm_was_asked_is_left(run, monkeypatch):
    monkeypatch.setattr(slurm, "_output_of", lambda _: "JobId=7 JobState=PENDING Reason=Priority")
    run.set_status("queued", job="7_1")
    assert refresh_status(run, {}).state == "queued"
    monkeypatch.setattr(slurm, "_output_of", lambda _: "JobId=7 JobState=TIMEOUT Reason=None")
    assert refresh_status(run, {}).reason == "job 7_1 is gone: SLURM reports its state as TIMEOUT"


def start_a_sweep(folder, *overrides):
    """Cells that last; once the first of them trains."""
    started = subprocess.Popen(
        [sys.executable, "src/train.py", "-m", *overrides, f"hydra.sweep.dir={folder}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    last = time.monotonic() + 300
    while not any(Run(path, {}).status().progress for path in folder.glob("seed*/")):
        assert time.monotonic() < last
        time.sleep(0.2)
    return started


@pytest.mark.slow
@pytest.mark.parametrize(("jobs", "signum"), [(1, signal.SIGTERM), (2, signal.SIGINT)])
def test_a_sweep_that_is_told_to_end_saves_what_runs_and_starts_no_more(
    tmp_path, tiny, jobs, signum
):
    own = (*smoke(tiny, tmp_path / "prior"), "logger=csv", "method.max_steps=100000", "seed=1,2")
    started = start_a_sweep(tmp_path / "sweep", *own, f"launcher.jobs={jobs}")
    started.send_signal(signum)
    output, _ = started.communicate(timeout=180)
    last = time.monotonic() + 180
    runs = [Run(folder, {}) for folder in (tmp_path / "sweep").glob("seed*/")]
    while any(run.status().state == "running" for run in runs):
        assert time.monotonic() < last
        time.sleep(0.2)
    assert "preempted" in [run.status().state for run in runs]
    assert started.returncode == 128 + signum
    assert "Traceback" not in output
    assert output.strip().endswith("stopped as asked; to go on, give the same command again")
    assert "preempted" in output, "the table is there"
    begun = [run for run in runs if run.status().state == "preempted"]
    assert len(begun) == jobs
    assert all(list(run.checkpoints.glob("*.ckpt")) for run in begun)
    if jobs == 1:
        assert "stopped as asked, at step" in output


@pytest.mark.slow
def test_the_report_of_a_sweep_that_was_killed_says_so(tmp_path, tiny):
    sweep = tmp_path / "sweep"
    own = (*smoke(tiny, tmp_path / "prior"), "logger=csv", "method.max_steps=100000", "seed=1,2")
    started = start_a_sweep(sweep, *own)
    started.kill()
    started.communicate()
    ended = command("report", f"sweep={sweep}", f"name={tmp_path / 'report'}")
    assert ended.code == 0, ended.output
    assert "its process is gone" in (tmp_path / "report" / "report.md").read_text()
