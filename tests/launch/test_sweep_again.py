"""The same sweep command again does only what is missing or failed."""

import re
import shutil

import pytest
from commands import command, same_files, smoke

from dreambooth.reporting.missing_runs import planned
from dreambooth.runs.cells import find_runs, read_cells
from dreambooth.runs.files import claimed
from dreambooth.runs.run import Run

pytestmark = pytest.mark.slow

CELLS = ["class-none+seed-0", "class-none+seed-1", "class-wrong+seed-0", "class-wrong+seed-1"]
AXES = ("class=choice(none,wrong)", "seed=0,1")


def sweep(tiny, root, *more, axes=AXES):
    """Four small runs in root/NAME."""
    own = ("prior=off", "metrics=none", "logger=csv", "hydra.sweep.dir=" + str(root / "cells"))
    return command("train", "-m", *axes, *smoke(tiny, root / "prior"), *own, *more)


@pytest.fixture(scope="module")
def swept(tiny, tmp_path_factory):
    root = tmp_path_factory.mktemp("swept")
    ended = sweep(tiny, root)
    assert ended.code == 0, ended.output
    return root / "cells"


@pytest.fixture
def copy(swept, tmp_path):
    """A sweep of its own, whose cells name the first one's prior cache."""
    shutil.copytree(swept, tmp_path / "cells")
    return tmp_path


def again(tiny, copy, swept, *more, **how):
    return sweep(tiny, copy, f"prior.cache={swept.parent / 'prior'}", *more, **how)


def times(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}


def states(root):
    return {run.folder.name: run.status().state for run in find_runs(root / "cells")}


def test_cells_are_in_folders_named_by_their_overrides_in_the_sweeps_order(swept):
    assert [run.folder.name for run in find_runs(swept)] == CELLS


def test_a_sweep_keeps_the_overrides_of_its_cells_also_where_it_computes_them(swept):
    runs = find_runs(swept)
    assert [run.config["overrides"][:2] for run in runs][1] == ["class=none", "seed=1"]
    assert read_cells(swept) == {run.folder.name: run.config["overrides"] for run in runs}
    assert planned(swept) == read_cells(swept)


def test_what_is_finished_is_left_and_what_is_missing_or_failed_is_done(tiny, swept, copy):
    cells = copy / "cells"
    shutil.rmtree(cells / CELLS[1])
    Run.load(cells / CELLS[2]).set_status("failed", "killed")
    finished = times(cells / CELLS[0]) | times(cells / CELLS[3])
    ended = again(tiny, copy, swept)
    assert ended.code == 0, ended.output
    assert f"2 of 4 cells finished already, in {cells}\n" in ended.output
    assert set(states(copy).values()) == {"finished"}
    assert {p: p.stat().st_mtime_ns for p in finished} == finished
    assert same_files(swept, cells, "*.safetensors")
    assert same_files(swept, cells, "*.png")


def test_a_sweep_that_is_extended_does_what_is_new(tiny, swept, copy):
    before = times(copy / "cells")
    ended = again(tiny, copy, swept, axes=("seed=0,2", "class=none,wrong"))
    assert ended.code == 0, ended.output
    assert "2 of 4 cells finished already" in ended.output
    assert len(states(copy)) == 6
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_force_does_all_again_and_keeps_the_earlier_until_then(tiny, swept, copy, monkeypatch):
    cell = copy / "cells" / CELLS[0]
    before = times(copy / "cells")
    with monkeypatch.context() as patch:
        patch.setattr("dreambooth.experiment.Experiment.train", _failing)
        ended = again(tiny, copy, swept, "force=true")
    assert ended.code == 1
    assert times(cell / "replaced")
    ended = again(tiny, copy, swept, "force=true")
    assert ended.code == 0, ended.output
    assert "finished already" not in ended.output
    assert not (cell / "replaced").exists()
    now = times(copy / "cells")
    assert now.keys() == before.keys()
    assert all(now[path] > before[path] for path in before)


def _failing(_):
    raise ValueError("no luck")


def test_a_cell_of_another_config_is_said_and_the_others_are_done(tiny, swept, copy):
    shutil.rmtree(copy / "cells" / CELLS[3])
    other = Run.load(copy / "cells" / CELLS[0])
    text = (other.folder / "config.yaml").read_text()
    (other.folder / "config.yaml").write_text(text.replace("max_steps: 2", "max_steps: 3"))
    ended = again(tiny, copy, swept)
    assert ended.code == 1
    assert set(states(copy).values()) == {"finished"}
    told = ended.output.partition("1 of 4 runs failed:\n")[2]
    assert told.startswith(f"  {CELLS[0]}: ")
    assert "holds a run of another experiment (method.max_steps is 3 there and 2 here" in told
    assert f"\n    {other.folder / 'train.log'}" in told


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_cell_that_another_process_is_at_is_left_to_it(tiny, swept, copy, jobs):
    cell = copy / "cells" / CELLS[0]
    Run.load(cell).set_status("running")
    with claimed(cell):
        ended = again(tiny, copy, swept, f"launcher.jobs={jobs}")
    assert ended.code == 1
    told = ended.output if jobs == 1 else (cell / "output.log").read_text()
    assert f"another process is using the run in {cell}" in told
    assert states(copy)[CELLS[0]] == "running"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_damaged_cell_stops_no_other_and_is_named(tiny, swept, copy, jobs):
    shutil.rmtree(copy / "cells" / CELLS[1])
    (copy / "cells" / CELLS[0] / "status.json").write_text("{")
    ended = again(tiny, copy, swept, f"launcher.jobs={jobs}")
    assert ended.code == 1
    assert states(copy)[CELLS[1]] == "finished"
    assert "1 of 4 runs failed" in ended.output
    assert f"  {CELLS[0]}: " in ended.output
    assert "Traceback" not in ended.output


def test_a_file_where_a_cells_folder_should_be_stops_no_other(tiny, swept, copy):
    for name in CELLS[:2]:
        shutil.rmtree(copy / "cells" / name)
    (copy / "cells" / CELLS[0]).write_text("mine")
    ended = again(tiny, copy, swept, "launcher.jobs=2")
    assert ended.code == 1
    assert states(copy)[CELLS[1]] == "finished"
    assert f"  {CELLS[0]}: " in ended.output.partition("1 of 4 runs failed:")[2]


def test_of_a_narrower_sweep_only_its_own_cells_count(tiny, swept, copy):
    shutil.rmtree(copy / "cells" / CELLS[3])
    ended = again(tiny, copy, swept, axes=("class=none,wrong", "seed=0"))
    assert ended.code == 0, ended.output
    assert "2 of 2 cells: 2 finished" in ended.output
    assert "to come" not in ended.output.rpartition("2 of 2 cells")[2]


def test_a_sweeps_folder_is_named_by_what_is_swept(tmp_path, monkeypatch):
    from commands import ROOT
    from hydra import compose, initialize_config_dir

    from dreambooth.launch.sweep import Folders

    def folder_of(*words):
        config = compose("train", return_hydra_config=True)
        config.hydra.overrides.task = list(words)
        Folders().on_multirun_start(config)
        return config.hydra.sweep.dir

    monkeypatch.chdir(tmp_path)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        shared = ("subject=olive", "force=true")
        folder = folder_of(*shared, "prior.lambda=0,1", "class=none,wrong")
        assert folder == folder_of("prior.lambda=1,2", *shared, "class=correct,none")
        assert folder == folder_of("class=none,wrong", "prior.lambda=0,1", *shared)
        assert folder_of("prior.lambda=0,1", "class=none,wrong") == "runs/lambda+class"
        assert len({folder, folder_of("prior.lambda=0,1", "class=none,wrong", "seed=1")}) == 2
    assert re.fullmatch("runs/lambda[+]class_[0-9a-f]{8}", folder)
    names = [run.folder.name for run in find_runs(tmp_path / folder)]
    assert names[:3] == ["lambda-0+class-none", "lambda-0+class-wrong", "lambda-1+class-none"]
    assert len(names) == 7
