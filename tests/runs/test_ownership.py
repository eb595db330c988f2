"""Which folder is a run's, and whether its inputs are those that it began with."""

import re
from pathlib import Path

import pytest

from dreambooth.runs.configs import CHANGE_NO_RESULT, with_batch_size
from dreambooth.runs.files import claimed
from dreambooth.runs.run import FinishedRunError, Run, delete_unless_begun

CONFIG = {"seed": 0, "overrides": []}


@pytest.fixture
def finished(tmp_path):
    run = Run.create(tmp_path / "run", CONFIG)
    run.weights.mkdir()
    run.set_status("finished")
    return run


def test_a_refused_run_leaves_the_users_files(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("notes.log", "train.log"):
        (folder / name).write_text("")
    Run.create(folder, CONFIG)
    delete_unless_begun(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.log"]


def test_inputs_that_changed_are_named(tmp_path):
    began = {"photos/a": "1", "photos/b": "2", "photos/c": "3"}
    run = Run.create(tmp_path, CONFIG, inputs=began)
    assert run.resume(inputs=began | {"photos/d": "4"}).folder == tmp_path  # it has no results
    run.resume(inputs=began)
    run.write_names({})
    assert run.resume(inputs=None) == run.resume(inputs=began) == run
    now = {"photos/a": "5", "photos/x": "2", "photos/e": "6", "photos/f": "7"}
    with pytest.raises(ValueError, match="began with other files") as caught:
        run.resume(inputs=now)
    assert "photos/a has changed; photos/b is now photos/x; photos/c is gone" in str(caught.value)
    assert "; and 2 more)" in str(caught.value)
    with pytest.raises(ValueError, match="began with other files"):
        Run.create(tmp_path, CONFIG, inputs=now)
    (tmp_path / "inputs.json").unlink()  # as in older folders
    assert run.resume(inputs=now) == run


@pytest.mark.parametrize("key", CHANGE_NO_RESULT)
def test_a_run_goes_on_with_other_settings_that_change_no_result(tmp_path, key):
    group, _, name = key.rpartition(".")

    def config(value, seed=0):
        settings = {name: value, "seed": seed}
        for part in reversed(group.split(".")):
            settings = {part: settings}
        return CONFIG | settings

    Run.create(tmp_path, config(4)).write_names({})
    assert Run.create(tmp_path, config(1)).config == config(1)
    with pytest.raises(ValueError, match=rf"{group}\.seed is 0 there and 1 here"):
        Run.create(tmp_path, config(1, seed=1))


def test_a_run_goes_on_with_another_number_of_images_drawn_at_once(tmp_path):
    def with_batches(size):
        return CONFIG | {"model": {"backbone": {"name": "x", "batch_size": size}}}

    folder = tmp_path / "run"
    Run.create(folder, with_batches(4)).write_names({})
    again = Run.create(folder, with_batches(1))
    assert again.config == with_batches(1)
    assert Run.load(folder).config == with_batches(4)
    assert with_batch_size(with_batches(4), None) == with_batches(4)
    with pytest.raises(ValueError, match=r"batch_size=0: give a whole number from 1 up"):
        with_batch_size(with_batches(4), 0)


def test_older_runs_without_the_marker_are_known_by_what_they_hold(finished):
    (finished.folder / ".dreambooth-run").unlink()
    with pytest.raises(FinishedRunError):
        Run.create(finished.folder, CONFIG)
    (finished.folder / "status.json").write_text("{")
    with pytest.raises(ValueError, match=r"status\.json is damaged"):
        Run.create(finished.folder, CONFIG)


@pytest.mark.parametrize("name", ["config.yaml", "status.json", "notes.txt", "images/mine.png"])
def test_a_folder_of_other_files_is_refused(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"state": "ok", "overrides": 1}')
    what = f"is not the folder of a run, and it holds other files ({name.partition('/')[0]})"
    with pytest.raises(ValueError, match=re.escape(what)):
        Run.create(tmp_path, CONFIG, force=True)
    with pytest.raises(ValueError, match=re.escape(what)), claimed(tmp_path):
        pass
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [Path(name).name]
