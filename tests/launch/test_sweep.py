import errno
import sys

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from dreambooth.launch import sweep
from dreambooth.launch.sweep import SweepTable, recorded, tell_errors
from dreambooth.methods.dreambooth import DivergedError
from dreambooth.runs.run import Metric, Run


@pytest.fixture(params=[RunMode.RUN, RunMode.MULTIRUN])
def mode(request, monkeypatch):
    instance = OmegaConf.create({"mode": request.param, "runtime": {"output_dir": "sweep/a"}})
    monkeypatch.setattr(HydraConfig, "get", lambda: instance)
    monkeypatch.setattr(sweep, "_failures", {})
    return request.param


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "0", {"overrides": ["seed=0"]})


def test_a_run_that_ends_is_finished(run):
    with recorded(run):
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
    with pytest.raises(type(error)), recorded(run):
        raise error
    status = run.status()
    assert (status.state, status.reason) == ("failed", reason)


def _interrupted_lightning():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


def test_ctrl_c_while_lightning_trains_is_an_interruption(run):
    with pytest.raises(SystemExit), recorded(run):
        _interrupted_lightning()
    assert run.status().reason == "interrupted"


@pytest.mark.parametrize(
    "error", [ValueError("too small"), DivergedError("nan"), OSError(errno.ENOSPC, "disk full")]
)
def test_a_users_error_is_one_line_and_ends_a_single_run_but_no_sweep(mode, caplog, error):
    if mode == RunMode.RUN:
        with pytest.raises(SystemExit) as ended, tell_errors():
            raise error
        assert ended.value.code == 1
    else:
        with tell_errors():
            raise error
        assert sweep._failures == {"a": str(error)}
    (record,) = [r for r in caplog.records if r.name == "dreambooth.launch.sweep"]
    assert record.getMessage() == str(error)
    assert record.exc_info is None


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError(errno.ENOENT, "not there")])
def test_our_own_error_keeps_its_traceback_and_does_not_stop_a_sweep(mode, caplog, error):
    if mode == RunMode.RUN:
        with pytest.raises(type(error)), tell_errors():
            raise error
    else:
        with tell_errors():
            raise error
        assert sweep._failures == {"a": str(error)}
        assert caplog.records[-1].exc_info


def test_a_finished_run_is_no_failure(mode, run, caplog):
    caplog.set_level("INFO")
    run.set_status("finished")
    with tell_errors():
        Run.create(run.folder, run.config)
    assert "this run is finished" in caplog.text
    assert sweep._failures == {}


def test_a_full_disk_is_told_even_where_it_takes_no_status(run, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(Run, "set_status", full)
    with pytest.raises(ValueError, match="too small"), recorded(run):
        raise ValueError("too small")


def table_of(folder):
    SweepTable().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}}))


def test_a_sweep_that_went_well_prints_its_table_and_ends_well(run, capsys):
    run.write_metrics({"identity": Metric(0.5, 10, "cosine")})
    run.set_status("finished")
    SweepTable().on_multirun_start(OmegaConf.create())
    table_of(run.folder.parent)
    assert "0.500" in capsys.readouterr().out
    assert (run.folder.parent / "sweep.csv").read_text().startswith('"run","state"')


def test_a_sweep_with_a_failed_run_prints_its_table_and_ends_badly(run, capsys):
    run.set_status("failed", "the loss is NaN")
    SweepTable().on_multirun_start(OmegaConf.create())
    with pytest.raises(SystemExit, match="1 of 1 runs failed"):
        table_of(run.folder.parent)
    assert "run 0 failed: the loss is NaN" in capsys.readouterr().out


def test_a_table_that_cannot_be_written_hides_no_failure(run):
    run.set_status("failed", "the loss is NaN")
    SweepTable().on_multirun_start(OmegaConf.create())
    (run.folder.parent / "sweep.csv").mkdir()
    with pytest.raises(SystemExit) as ended:
        table_of(run.folder.parent)
    told = str(ended.value)
    assert told.startswith("the table or the report could not be made: ")
    assert "1 of 1 runs failed:\n  0: the loss is NaN" in told


def test_progress_that_cannot_be_told_stops_no_sweep(run, capsys):
    (run.folder / "status.json").write_text("{")
    sweep.tell_where(run.folder.parent / "nowhere")
    sweep.tell_where(run.folder.parent)
    assert "1 damaged" in capsys.readouterr().out


def test_a_failure_that_no_folder_tells_of_ends_a_sweep_badly_too(run, monkeypatch):
    run.write_metrics({})
    run.set_status("finished")
    monkeypatch.setattr(sweep, "_failures", {"0": "another experiment"})
    (run.folder / "train.log").touch()
    told = f"1 of 1 runs failed:\n  0: another experiment\n    {run.folder / 'train.log'}"
    with pytest.raises(SystemExit, match=told):
        table_of(run.folder.parent)
    SweepTable().on_multirun_start(OmegaConf.create())
    table_of(run.folder.parent)
