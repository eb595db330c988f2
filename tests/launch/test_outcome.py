import errno
import sys

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from dreambooth.launch import outcome
from dreambooth.launch.outcome import record_outcome, report_errors
from dreambooth.methods.two_terms import DivergedError
from dreambooth.runs.run import Run


@pytest.fixture(params=[RunMode.RUN, RunMode.MULTIRUN])
def mode(request, monkeypatch):
    instance = OmegaConf.create({"mode": request.param, "runtime": {"output_dir": "sweep/a"}})
    monkeypatch.setattr(HydraConfig, "get", lambda: instance)
    monkeypatch.setattr(outcome, "_failures", {})
    return request.param


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "0", {"overrides": ["seed=0"]})


def test_a_run_that_ends_is_finished(run):
    with record_outcome(run):
        assert run.status().state == "running"
    assert run.status().state == "finished"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("too small"), "too small"),
        (RuntimeError(), "RuntimeError"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(3), "3"),
    ],
)
def test_a_run_that_fails_says_why_and_passes_the_error_on(run, error, reason):
    with pytest.raises(type(error)), record_outcome(run):
        raise error
    status = run.status()
    assert (status.state, status.reason) == ("failed", reason)


def _interrupted_lightning():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


def test_ctrl_c_while_lightning_trains_is_an_interruption(run):
    with pytest.raises(SystemExit), record_outcome(run):
        _interrupted_lightning()
    assert run.status().reason == "interrupted"


@pytest.mark.parametrize(
    "error", [ValueError("too small"), DivergedError("nan"), OSError(errno.ENOSPC, "disk full")]
)
def test_a_users_error_is_one_line_and_ends_a_single_run_but_no_sweep(mode, caplog, error):
    if mode == RunMode.RUN:
        with pytest.raises(SystemExit) as ended, report_errors():
            raise error
        assert ended.value.code == 1
    else:
        with report_errors():
            raise error
        assert outcome._failures == {"a": str(error)}
    (record,) = [r for r in caplog.records if r.name == "dreambooth.launch.outcome"]
    assert record.getMessage() == str(error)
    assert record.exc_info is None


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError(errno.ENOENT, "not there")])
def test_our_own_error_keeps_its_traceback_and_does_not_stop_a_sweep(mode, caplog, error):
    if mode == RunMode.RUN:
        with pytest.raises(type(error)), report_errors():
            raise error
    else:
        with report_errors():
            raise error
        assert outcome._failures == {"a": str(error)}
        assert caplog.records[-1].exc_info


def test_a_finished_run_is_no_failure(mode, run, caplog):
    caplog.set_level("INFO")
    run.set_status("finished")
    with report_errors():
        Run.create(run.folder, run.config)
    assert "this run is finished" in caplog.text
    assert outcome._failures == {}


def test_a_full_disk_is_told_even_where_it_takes_no_status(run, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(Run, "set_status", full)
    with pytest.raises(ValueError, match="too small"), record_outcome(run):
        raise ValueError("too small")
