import pytest
from omegaconf import OmegaConf

from dreambooth.launch import outcome, sweep
from dreambooth.launch.sweep import SweepTable
from dreambooth.runs.records import Metric
from dreambooth.runs.run import Run


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "0", {"overrides": ["seed=0"]})


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
    sweep.print_sweep_progress(run.folder.parent / "nowhere")
    sweep.print_sweep_progress(run.folder.parent)
    assert "1 damaged" in capsys.readouterr().out


def test_a_failure_that_no_folder_tells_of_ends_a_sweep_badly_too(run, monkeypatch):
    run.write_metrics({})
    run.set_status("finished")
    monkeypatch.setattr(outcome, "_failures", {"0": "another experiment"})
    (run.folder / "train.log").touch()
    told = f"1 of 1 runs failed:\n  0: another experiment\n    {run.folder / 'train.log'}"
    with pytest.raises(SystemExit, match=told):
        table_of(run.folder.parent)
    SweepTable().on_multirun_start(OmegaConf.create())
    table_of(run.folder.parent)
