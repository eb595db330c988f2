"""Folders that are not a run's are refused, and files that no run has written are kept."""

import shutil

import pytest
from commands import ROOT, command, smoke, train

from dreambooth.runs.run import Run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("more", [(), ("force=true",)])
def test_a_folder_that_is_no_runs_is_refused_and_left_as_it_is(tiny, tmp_path, more):
    folder = tmp_path / "mine"
    for name in ("config.yaml", "images/mine.png", "weights/old.ckpt", "checkpoints/.a.1.partial"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine: 1")
    before = {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
    said = train(tiny, folder, *more).sentence
    assert said == (
        f"{folder} is not the folder of a run, and it holds other files (checkpoints, config.yaml, "
        "images ...): give a new or an empty folder"
    )
    resumed = command("train", f"run={folder}")
    assert resumed.sentence == said
    assert {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")} == before


def test_the_repository_is_no_run_folder(tiny, tmp_path):
    before = set(ROOT.iterdir())
    ended = command("train", *smoke(tiny, tmp_path / "prior"), "logger=csv", "hydra.run.dir=.")
    assert ended.sentence.startswith(". is not the folder of a run")
    assert set(ROOT.iterdir()) == before


def test_a_new_run_keeps_the_files_that_the_old_one_had_not_written(tiny, finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "run")
    for name in (".dreambooth-run", "weights/.written.json"):
        (copy / name).unlink()  # as in older folders
    (copy / "train.log").write_text("")
    mine = ("images/mine.png", "images/prompts/mine.png", "weights/old.ckpt", "checkpoints/a.ckpt")
    for name in mine:
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("mine")
    prior = f"prior.cache={finished.parent / 'prior'}"
    ended = train(tiny, copy, prior, "method.max_steps=3", "force=true")
    assert ended.code == 0, ended.output
    assert [(copy / name).read_text() for name in mine] == ["mine"] * 4
    assert Run.load_finished(copy).config["method"]["max_steps"] == 3
    assert not (copy / "replaced").exists()
