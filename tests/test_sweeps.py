"""The scripts in sweeps/, made small: each cell of one subject and seed trains for two steps."""

import os
import subprocess

import pytest
from commands import ROOT, smoke, typed

from dreambooth.runs.cells import find_runs

pytestmark = pytest.mark.slow

CELLS = {
    "adapters": 6,
    "class_and_lambda": 6,
    "class_noun_curves": 3,
    "methods": 3,
    "photos": 5,
    "priors": 4,
}


def commands_of(name, tmp_path, *words, **environment):
    """The words of each `python` command of a script."""
    stub, told = tmp_path / "python", tmp_path / "told"
    stub.write_text(f'#!/bin/sh\n(printf "%s\\n" "$@"; echo end) >>{told}\n')
    stub.chmod(0o755)
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = ROOT / "sweeps" / f"{name}.sh"
    subprocess.run([script, *words], env=os.environ | environment, check=True)
    return [text.splitlines() for text in told.read_text().split("end\n")[:-1]]


def small(tiny, tmp_path):
    return (*smoke(tiny, tmp_path / "prior"), "logger=csv", "metrics=oracle", "seed=0")


def test_every_script_is_run():
    scripts = {path.stem for path in (ROOT / "sweeps").glob("*.sh")}
    assert scripts == CELLS.keys() | {"super_resolution", "optuna"}  # the last: test_optuna.py


@pytest.mark.parametrize("name", CELLS)
def test_a_script_trains_its_cells_and_what_is_given_replaces_its_settings(name, tiny, tmp_path):
    one = ("subject.class_noun=dog", "report=none", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    (words,) = commands_of(name, tmp_path, *small(tiny, tmp_path), *one)
    assert words[0] == "src/train.py"
    ended = typed("train", *words[1:])
    assert ended.code == 0, ended.output
    runs = find_runs(tmp_path / "sweep")
    assert [run.status().state for run in runs] == ["finished"] * CELLS[name]


def test_super_resolution_trains_the_base_stage_once_and_reports_on_all(tiny, tmp_path):
    own = small(tiny, tmp_path)
    every = commands_of("super_resolution", tmp_path, *own, SUBJECTS="rabbit")
    assert len(every) == 2 * 8 + 1  # two seeds
    first_seed = [*every[:3], every[7]]  # frozen, off, the highest level and the lowest
    for words in [*first_seed, [*every[-1][:1], "sweep=runs/super_resolution/rabbit-0"]]:
        moved = [word.replace("runs/super_resolution", str(tmp_path / "sr")) for word in words]
        if words[0] == "src/report.py":
            moved.append(f"name={tmp_path / 'report'}")
        ended = typed(words[0][4:-3], *moved[1:])
        assert ended.code == 0, ended.output
    assert every[-1][1] == "sweep=[runs/super_resolution/rabbit-0,runs/super_resolution/rabbit-1]"
    assert (tmp_path / "report" / "index.html").is_file()
