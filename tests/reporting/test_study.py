"""Run folders to cells, and what is missing from them."""

import json
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml
from commands import ROOT, command, smoke
from made_up import made_up_sweep

from dreambooth.reporting.settings import settings_of, words
from dreambooth.reporting.study import read_study
from dreambooth.runs.cells import write_cells
from dreambooth.runs.records import Metric
from dreambooth.runs.run import Run

SIX = [
    "lambda 0, no class noun",
    "lambda 0, wrong class noun",
    "lambda 0, correct class noun",
    "lambda 1, no class noun",
    "lambda 1, wrong class noun",
    "lambda 1, correct class noun",
]


def states(study):
    return {(c.label, t.subject, t.seed): t.status.state for c in study.cells for t in c.trials}


def rewrite(folder, **parts):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for key, value in parts.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def test_the_readmes_sweep_is_six_cells_on_two_axes(tmp_path):
    study = read_study([made_up_sweep(tmp_path / "sweep")])
    assert study.name == "sweep"
    assert study.axes == ("lambda", "class")
    assert [cell.label for cell in study.cells] == SIX
    assert study.cells[1].settings == {"lambda": "0", "class": "wrong"}
    assert study.cells[0].key == "lambda-0-no-class-noun"
    assert study.fixed == {
        "method": "dreambooth",
        "model": "miniature",
        "adapter": "none",
        "sr": "frozen",
        "num_photos": "5",
        "identifier": "rare",
    }
    assert set(states(study).values()) == {"finished"}
    (trial,) = study.cells[0].trials
    assert (trial.subject, trial.seed) == ("biscuit", "0")
    assert len(trial.rows) == 50 + 32 + 16
    assert trial.metrics["dino"].count == 50
    assert trial.history[1]["loss/subject"] > 0
    assert trial.provenance["hardware"]["cores"] == 2
    assert trial.command == "python src/train.py prior.lambda=0 class=none"
    assert study.notes == ()


def test_subject_and_seed_are_no_axes(tmp_path):
    sweep = made_up_sweep(
        tmp_path / "s", ("biscuit", "comet"), (0, 1), {"class": ("none", "wrong")}
    )
    study = read_study([sweep])
    assert study.axes == ("class",)
    assert study.subjects == ("biscuit", "comet")
    places = [(t.subject, t.seed) for t in study.cells[0].trials]
    assert places == [("biscuit", "0"), ("biscuit", "1"), ("comet", "0"), ("comet", "1")]


@pytest.mark.parametrize(
    ("axis", "override", "values", "labels"),
    [
        (
            "sr",
            "sr",
            ("noise_1e-5", "off", "noise_1e-3", "frozen"),
            ["no SR", "SR as pretrained", "SR noise 1e-3", "SR noise 1e-5"],
        ),
        ("num_photos", "subject.num_photos", ("3", "1"), ["1 photo", "3 photos"]),
        ("adapter", "adapter", ("oft", "lora", "none"), ["no adapter", "LoRA", "OFT"]),
        (
            "identifier",
            "identifier",
            ("common", "rare", "random"),
            ["rare identifier", "common identifier", "random identifier"],
        ),
        (
            "method.module.learning_rate",
            "method.module.learning_rate",
            ("1e-3", "1e-4"),
            ["learning_rate 1e-4", "learning_rate 1e-3"],
        ),
    ],
)
def test_each_axis_is_told_in_words_and_in_order(tmp_path, axis, override, values, labels):
    study = read_study([made_up_sweep(tmp_path / "s", axes={override: values})])
    assert study.axes == (axis,)
    assert [cell.label for cell in study.cells] == labels


def test_numbers_are_told_as_people_write_them():
    values = (0, 0.0, 1e-5, 6e-4, 0.0125, 2.5e10, 500, True, None)
    told = ["0", "0", "1e-5", "6e-4", "0.0125", "2.5e10", "500", "true", None]
    assert [words(value) for value in values] == told


def test_settings_that_a_run_does_not_use_are_none_of_its_settings(tmp_path):
    sweep = made_up_sweep(tmp_path / "s", axes={"prior.lambda": ("0", "1")})
    configs = [yaml.safe_load((sweep / f"{i}/config.yaml").read_text()) for i in (0, 1)]
    without, with_prior = map(settings_of, configs)
    assert "prior.num_images" not in without
    assert with_prior["prior.num_images"] == "64"
    assert "sr.max_steps" not in with_prior  # the SR stage is not trained
    assert not [key for key in with_prior if key.startswith(("logger", "callbacks", "metrics"))]


def test_runs_with_the_same_settings_are_one_cell_however_they_were_typed(tmp_path):
    sweep = made_up_sweep(tmp_path / "s", axes={"prior.lambda": ("0", "1")}, seeds=(0, 1))
    rewrite(sweep / "1", prior={"lambda": 0.0}, overrides=["prior=off", "seed=1"])
    rewrite(sweep / "2", **{"class": {"noun": "dog"}, "overrides": ["class.noun=dog"]})
    study = read_study([sweep])
    assert [(cell.label, len(cell.trials)) for cell in study.cells] == [
        ("lambda 0", 2),
        ("lambda 1", 2),
    ]


def test_failed_running_damaged_and_missing_runs_are_there_with_their_reason_and_command(tmp_path):
    sweep = made_up_sweep(
        tmp_path / "s w", failed={0: "the loss is NaN"}, running=[1], damaged=[2], missing=[3]
    )
    (sweep / "4" / "config.yaml").write_text("{")
    study = read_study([sweep])
    trials = [cell.trials[0] for cell in study.cells]
    assert [cell.label for cell in study.cells] == SIX
    assert [t.status.state for t in trials] == [
        *("failed", "running", "damaged", "missing", "damaged", "finished"),
    ]
    assert trials[0].status.reason == "the loss is NaN"
    assert "metrics.json is damaged" in trials[2].status.reason
    assert "config.yaml is damaged" in trials[4].status.reason
    assert [t.rows for t in trials[:5]] == [[]] * 5
    overrides = ["prior.lambda=0", "class=none"]
    assert shlex.split(trials[0].command) == [
        *("python", "src/train.py", *overrides, f'hydra.run.dir="{sweep / "0"}"'),
    ]
    assert shlex.split(trials[3].command)[-1] == f'hydra.run.dir="{sweep / "3"}"'
    assert trials[2].command.startswith(f"rm -r '{sweep / '2' / 'status.json'}' && python")
    assert trials[4].command.startswith(f"rm -r '{sweep / '4'}' && python")
    assert "class=wrong" in trials[4].command


def test_runs_that_never_started_are_known_from_the_sweeps_plan(tmp_path):
    sweep = made_up_sweep(tmp_path / "s", ("biscuit", "comet"), missing=range(1, 12))
    study = read_study([sweep])
    assert [cell.label for cell in study.cells] == SIX
    assert study.subjects == ("biscuit", "comet")
    assert list(states(study).values()).count("missing") == 11
    trial = study.cells[5].trials[1]
    assert (trial.subject, trial.settings) == ("comet", {"lambda": "1", "class": "correct"})
    assert trial.command == (
        "python src/train.py prior.lambda=1 class=correct subject=comet "
        f"hydra.run.dir={sweep / '11'}"
    )


def test_a_plan_may_name_its_cells(tmp_path):
    sweep = made_up_sweep(tmp_path / "s", missing=[2, 3, 4, 5])
    names = [f"cell-{i}" for i in range(6)]
    for number in (0, 1):
        (sweep / str(number)).rename(sweep / names[number])
    (sweep / "sweep.json").write_text(json.dumps({"cells": [*names, "of-an-earlier-sweep"]}))
    study = read_study([sweep])
    assert [cell.label for cell in study.cells] == SIX
    assert study.cells[5].trials[0].run.folder == sweep / "cell-5"


def test_a_whole_cell_of_computed_values_may_be_missing(tmp_path):
    axes = {"class": ("none", "correct")}
    sweep = made_up_sweep(tmp_path / "s", seeds=(0, 1), axes=axes, missing=[2, 3])
    task = ["class=choice(none,correct)", "seed=0,1"]
    plan = {"hydra": {"overrides": {"task": task}}}
    (sweep / "multirun.yaml").write_text(yaml.safe_dump(plan))
    jobs = [[f"class={noun}", f"seed={seed}"] for noun in axes["class"] for seed in (0, 1)]
    write_cells(sweep, {str(number): job for number, job in enumerate(jobs)})
    study = read_study([sweep])
    assert study.notes == ()
    assert [cell.label for cell in study.cells] == ["no class noun", "correct class noun"]
    assert [(t.seed, t.status.state) for t in study.cells[1].trials] == [
        ("0", "missing"),
        ("1", "missing"),
    ]
    assert study.cells[1].trials[1].command == (
        f"python src/train.py class=correct seed=1 hydra.run.dir={sweep / '3'}"
    )


def test_without_a_plan_the_gaps_are_those_of_the_full_product(tmp_path):
    sweep = made_up_sweep(tmp_path / "s", ("biscuit", "comet"), missing=[3, 10])
    (sweep / "multirun.yaml").unlink()
    missing = [t for t in read_study([sweep]).trials if t.status.state == "missing"]
    assert [(t.subject, t.settings["lambda"], t.settings["class"]) for t in missing] == [
        ("comet", "0", "wrong"),
        ("biscuit", "1", "correct"),
    ]
    words = shlex.split(missing[0].command)
    assert words[2:5] == ["prior.lambda=0", "class=wrong", "subject=comet"]


@pytest.mark.parametrize(
    "task", [["class=choice(none,correct)", "seed=range(2)"], ["seed=glob(*)"]]
)
def test_a_sweep_of_an_earlier_version_that_computes_its_values_has_its_gaps_too(tmp_path, task):
    axes = {"class": ("none", "correct")}
    sweep = made_up_sweep(tmp_path / "s", seeds=(0, 1), axes=axes, missing=[3])
    names = [f"class-{noun}+seed-{seed}" for noun in axes["class"] for seed in (0, 1)]
    for number in range(3):
        (sweep / str(number)).rename(sweep / names[number])
    (sweep / "multirun.yaml").write_text(yaml.safe_dump({"hydra": {"overrides": {"task": task}}}))
    (sweep / "sweep.json").write_text(json.dumps({"cells": names}))
    study = read_study([sweep])
    (gap,) = (t for t in study.trials if t.status.state == "missing")
    assert (gap.run.folder, gap.settings, gap.seed) == (sweep / names[3], {"class": "correct"}, "1")
    assert study.notes == ()


@pytest.mark.slow
def test_the_command_of_a_gap_fills_it_whatever_the_folders_name(tmp_path, tiny):
    sweep = made_up_sweep(tmp_path / "my sweep (2), new", missing=[4])
    (gap,) = [t for t in read_study([sweep]).trials if t.status.state == "missing"]
    words = shlex.split(gap.command)
    ended = command("train", *words[2:], *smoke(tiny, tmp_path / "prior"), "logger=csv")
    assert ended.code == 0, ended.output
    again = read_study([sweep])
    assert (sweep / "4" / "metrics.json").exists()
    place = [t for t in again.trials if t.run.folder == sweep / "4"]
    assert [t.status.state for t in place] == ["finished"]


@pytest.mark.slow
def test_the_command_of_a_damaged_run_makes_it_again(tmp_path, tiny):
    sweep = made_up_sweep(tmp_path / "s", axes={"prior.lambda": ("0", "1")}, damaged=[1])
    own = smoke(tiny, tmp_path / "prior")
    shutil.rmtree(sweep / "1")
    ended = command("train", *own, "prior.lambda=1", "logger=csv", f"hydra.run.dir={sweep / '1'}")
    assert ended.code == 0, ended.output
    (sweep / "1" / "metrics.json").write_text("{")
    (damaged,) = [t for t in read_study([sweep]).trials if t.status.state == "damaged"]
    before = damaged.command.replace("python", f"PYTHONPATH=src {shlex.quote(sys.executable)}")
    subprocess.run(before, shell=True, check=True, capture_output=True, cwd=ROOT)
    now = {t.run.folder.name: t.status.state for t in read_study([sweep]).trials}
    assert now == {"0": "finished", "1": "finished"}


def test_sweeps_are_joined_and_of_a_cell_found_twice_the_later_finished_one_counts(tmp_path):
    a = made_up_sweep(tmp_path / "a", axes={"class": ("none", "wrong")})
    b = made_up_sweep(tmp_path / "b", axes={"class": ("wrong", "correct")})
    status = json.loads((b / "0" / "status.json").read_text())
    (b / "0" / "status.json").write_text(
        json.dumps(status | {"ended": "2026-02-01T00:00:00+00:00"})
    )
    study = read_study([a, b])
    assert study.name == "a+b"
    assert [cell.trials[0].run.folder for cell in study.cells] == [a / "0", b / "0", b / "1"]
    (note,) = study.notes
    assert "have the same settings, subject and seed" in note
    assert f"{b / '0'} is used (finished)" in note
    shutil.copytree(a / "0", b / "7")
    (b / "7" / "status.json").write_text(json.dumps(status | {"state": "failed", "reason": "x"}))
    assert read_study([a, b]).cells[0].trials[0].run.folder == a / "0"


def test_a_gap_that_another_sweep_fills_is_none(tmp_path):
    a = made_up_sweep(tmp_path / "a", missing=[0, 1, 2])
    b = made_up_sweep(tmp_path / "b", axes={"prior.lambda": ("0",), "class": ("none", "correct")})
    study = read_study([a, b])
    missing = [cell.label for cell in study.cells if not cell.finished]
    assert missing == ["lambda 0, wrong class noun"]
    assert all(len(cell.trials) == 1 for cell in study.cells)
    assert study.notes == ()


def test_sweeps_of_different_axes_are_joined_without_gaps_between_them(tmp_path):
    a = made_up_sweep(tmp_path / "a", axes={"class": ("none", "correct")})
    b = made_up_sweep(tmp_path / "b", axes={"sr": ("off", "noise_1e-5")})
    study = read_study([a, b])
    assert study.axes == ("class", "sr")
    assert [cell.label for cell in study.cells] == [
        "no class noun, SR as pretrained",
        "correct class noun, no SR",
        "correct class noun, SR as pretrained",
        "correct class noun, SR noise 1e-5",
    ]
    assert "missing" not in states(study).values()


def test_another_systems_images_are_a_method_of_their_own(tmp_path):
    sweep = made_up_sweep(tmp_path / "s", axes={"prior.lambda": ("0", "1")})
    subject = yaml.safe_load((sweep / "0/config.yaml").read_text())["subject"]
    about = {"subject": subject, "method": "external", "images": "their images", "metrics": {}}
    run = Run.create(
        sweep / "theirs", about | {"overrides": ["method=external", "subject=biscuit"]}
    )
    run.write_metrics({"dino": Metric(0.5, 10, "cosine")})
    run.write_scores([])
    run.set_status("finished")
    study = read_study([sweep])
    assert study.axes == ("method", "lambda")
    labels = [cell.label for cell in study.cells]
    assert labels == ["DreamBooth, lambda 0", "DreamBooth, lambda 1", "another system"]
    trial = study.cells[-1].trials[0]
    assert trial.subject == "biscuit"
    assert trial.command == (
        f"python src/evaluate.py 'images=\"their images\"' subject=biscuit into={sweep} name=theirs"
    )
    assert "missing" not in states(study).values()
    shutil.copytree(sweep / "theirs", sweep / "others")
    labels = [cell.label for cell in read_study([sweep]).cells]
    assert labels[2:] == ["external others", "external theirs"]


def test_steps_that_follow_from_the_method_are_said_and_are_no_axis(tmp_path):
    sweep = made_up_sweep(tmp_path / "s", axes={"prior.lambda": ("0", "1")})
    target = {"tuning": {"_target_": "dreambooth.inversion.TextualInversion"}, "max_steps": 3000}
    for name in ("0", "1"):
        shutil.copytree(sweep / name, sweep / f"1{name}")
        rewrite(sweep / f"1{name}", method=target)
    study = read_study([sweep])
    assert study.axes == ("method", "lambda")
    labels = [cell.label for cell in study.cells]
    assert labels == ["DreamBooth, lambda 0", "DreamBooth, lambda 1", "Textual Inversion"]
    assert any("method.max_steps depends on method" in note for note in study.notes)


def test_several_commits_versions_and_uncommitted_changes_are_said(tmp_path):
    a = made_up_sweep(tmp_path / "a", axes={"class": ("none", "wrong")})
    b = made_up_sweep(tmp_path / "b", axes={"class": ("correct",)}, versions={"torch": "2.12.0"})
    kept = json.loads((b / "0" / "provenance.json").read_text())
    kept["git"] = {"commit": "feed" * 10, "dirty": True}
    (b / "0" / "provenance.json").write_text(json.dumps(kept))
    notes = " ".join(read_study([a, b]).notes)
    assert "several commits: 091bd09c0f, feedfeedfe" in notes
    assert "1 of 3 runs were made by code with uncommitted changes" in notes
    assert "several versions of torch: 2.11.0, 2.12.0" in notes


def test_older_folders_and_damaged_side_files_do_not_stop_a_study(tmp_path):
    sweep = made_up_sweep(tmp_path / "s", old=True)
    (sweep / "0" / "history.csv").write_text('"step","loss"\n1')
    (sweep / "1" / "provenance.json").write_text("{")
    study = read_study([sweep])
    assert set(states(study).values()) == {"finished"}
    assert any("history.csv is damaged" in note for note in study.notes)
    assert any("provenance.json is damaged" in note for note in study.notes)


def test_a_single_run_is_a_study_of_one_cell(tmp_path):
    sweep = made_up_sweep(tmp_path / "s")
    study = read_study([sweep / "2"])
    assert [cell.label for cell in study.cells] == ["all runs"]
    assert study.axes == ()
    assert study.fixed["lambda"] == "0"


def test_a_folder_without_runs_and_one_that_is_not_there_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"there are no runs in .*: give the folder of a sweep"):
        read_study([tmp_path])
    with pytest.raises(ValueError, match="there is no sweep folder"):
        read_study([tmp_path / "typo"])


def test_a_study_is_read_without_torch(tmp_path):
    sweep = made_up_sweep(tmp_path / "s", axes={"class": ("none",)})
    code = (
        "import sys; from pathlib import Path\n"
        "from dreambooth.reporting.study_tables import tables_of\n"
        "from dreambooth.reporting.study import read_study\n"
        f"tables_of(read_study([Path({str(sweep)!r})]))\n"
        "assert not {'torch', 'lightning', 'matplotlib'} & set(sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
