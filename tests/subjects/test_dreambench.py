"""DreamBench in its own layout, and the commands that name its subjects."""

import os
from pathlib import Path

import pytest
from commands import command, smoke
from made_up_photos import CLASSES, dreambench_folder
from test_docs import composed
from tiny_encoders import lpips_backbone, tiny_clip_folder, tiny_vit_folder

from dreambooth.reporting.study import read_study
from dreambooth.runs.cells import find_runs
from dreambooth.subjects.dreambench import DreamBench
from dreambooth.subjects.prompt_sets import DREAMBENCH
from dreambooth.subjects.prompts import DREAMBENCH_CLASSES
from dreambooth.subjects.subject import subject_from_folder


@pytest.fixture
def folder(tmp_path):
    return dreambench_folder(tmp_path / "dreambench")


def refused(*words, script="train"):
    return command(script, *words).sentence


def of(folder, name):
    return ("subject=dreambench", f"dreambench={folder}", f"subject.name={name}")


def test_classes_and_prompts_are_those_of_its_file(folder):
    bench = DreamBench.read(folder)
    assert bench.classes == CLASSES
    assert bench.prompts == {kind: list(prompts) for kind, prompts in DREAMBENCH.items()}
    assert bench.present == ["cat2", "dog6"]
    assert bench.prompts_of("dog6") == list(DREAMBENCH["live"])


def test_other_line_ends_quotes_and_spaces_are_read(folder):
    path = folder / "prompts_and_classes.txt"
    text = path.read_text().replace("'", '"').replace(",stuffed", ", stuffed")
    path.write_bytes(text.replace("\n", " \r\n\r\n").encode())
    bench = DreamBench.read(folder)
    assert bench.classes == CLASSES
    assert bench.prompts == {kind: list(prompts) for kind, prompts in DREAMBENCH.items()}


@pytest.mark.skipif("DREAMBENCH_DIR" not in os.environ, reason="DREAMBENCH_DIR is not set")
def test_the_file_of_the_dataset_says_what_the_project_says():
    bench = DreamBench.read(os.environ["DREAMBENCH_DIR"])
    assert len(bench.classes) == 30
    assert {*bench.classes.values()} == {*DREAMBENCH_CLASSES}
    assert bench.prompts == {kind: list(prompts) for kind, prompts in DREAMBENCH.items()}
    assert {"dog", "dog6", "duck_toy"} <= set(bench.present)


def test_the_config_of_a_run_has_all_that_the_file_says(folder):
    config = composed("train", of(folder, "cat2"))
    subject = config["subject"]
    assert (subject["class_noun"], subject["name"]) == ("cat", "cat2")
    assert subject["photos"] == str(folder / "cat2")
    settings = {key: value for key, value in subject.items() if key != "_target_"}
    made = subject_from_folder(**settings)
    assert (made.kind, made.prompts) == ("live", DREAMBENCH["live"])
    assert made.photos(8).shape == (3, 3, 8, 8)
    (folder / "backpack").mkdir()
    for path in (folder / "cat2").iterdir():
        path.rename(folder / "backpack" / path.name)
    assert composed("evaluate", of(folder, "backpack"))["subject"]["prompts"] == list(
        DREAMBENCH["object"]
    )


def test_what_is_not_there_is_one_sentence_with_the_nearest_name(folder):
    assert refused("subject=dreambench").startswith("dreambench has no default: give")
    said = refused("subject=dreambench", f"dreambench={folder}")
    assert said.startswith("subject.name has no default: give")
    said = refused(*of(f"{folder}h", "dog6"))
    assert f"there is no folder {folder}h, did you mean {folder}?" in said
    assert "src/fetch.py" in said
    said = refused(*of(folder, "dgo6"))
    assert said == f"DreamBench has no subject dgo6: did you mean dog6? {folder} has cat2, dog6"
    said = refused(*of(folder, "backpack"))
    assert said.startswith(f"{folder} lacks the photos of backpack, and has those of cat2, dog6")
    assert refused(*of(folder / "dog6", "dog6")).endswith(f"give dreambench={folder}")
    folder.rename(folder.with_name("dataset"))
    parent = folder.parent
    assert refused(*of(parent, "dog6")).endswith(f"give dreambench={parent / 'dataset'}")
    assert "lacks the photos of backpack" in refused(
        *of(parent / "dataset", "backpack"), f"images={parent}", "metrics=paper", script="evaluate"
    )


def test_a_file_without_its_lists_is_refused(folder):
    path = folder / "prompts_and_classes.txt"
    text = path.read_text()
    path.write_text(text.replace("Live Subject Prompts", ""))
    assert "has no list of prompts of live subjects and of objects" in refused(*of(folder, "dog6"))
    path.write_text(text[text.index("Prompts") :])
    assert "has no list of classes" in refused(*of(folder, "dog6"))
    path.write_bytes(b"\xff\xfe")
    assert f"cannot read {path}" in refused(*of(folder, "dog6"))


@pytest.mark.slow
def test_a_sweep_of_all_subjects_ends_with_a_report_on_them(
    tiny, stable_diffusion, folder, tmp_path
):
    bench = ("subject=dreambench", f"dreambench={folder}", "subject.name=all")
    small = (*smoke(tiny, tmp_path / "prior"), *stable_diffusion, "logger=csv")
    sweep = tmp_path / "sweep"
    words = (*small, *bench, "class=none,correct", f"hydra.sweep.dir={sweep}")
    ended = command("train", "-m", *words)
    assert ended.code == 0, ended.output
    runs = find_runs(sweep)
    assert [run.status().state for run in runs] == ["finished"] * 4
    assert {run.config["subject"]["class_noun"] for run in runs} == {"cat", "dog"}
    prompts = {p.template for p in runs[0].images.read("prompts")}
    assert prompts == set(DREAMBENCH["live"])
    ended = command("report", f"sweep={sweep}", f"name={tmp_path / 'report'}")
    assert ended.code == 0, ended.output
    page = (tmp_path / "report" / "index.html").read_text()
    assert all(name in page for name in ("cat2", "dog6"))


@pytest.mark.slow
@pytest.mark.skipif("DREAMBENCH_DIR" not in os.environ, reason="DREAMBENCH_DIR is not set")
def test_real_photos_of_all_subjects_end_in_a_scored_report(
    stable_diffusion, tmp_path, monkeypatch
):
    """The command as it is typed, on a DreamBench that holds the photos of two subjects."""
    monkeypatch.setattr("dreambooth.reporting.report.REPORTS", tmp_path)
    whole, part = Path(os.environ["DREAMBENCH_DIR"]), tmp_path / "part"
    sweep = tmp_path / "runs" / "sweep"
    part.mkdir()
    for name in ("prompts_and_classes.txt", "dog6", "duck_toy"):
        (part / name).symlink_to(whole / name)
    encoders = (
        "metrics=paper",
        f"metrics.fidelity.dino.pretrained={tiny_vit_folder(tmp_path / 'dino', 224)}",
        f"metrics.fidelity.clip.model={tiny_clip_folder(tmp_path / 'clip', 224)}",
        f"metrics.fidelity.distance.backbone={lpips_backbone(tmp_path / 'alexnet.pth')}",
    )
    small = ("experiment=smoke", "logger=csv", f"prior.cache={tmp_path / 'prior'}", *encoders)
    bench = ("subject=dreambench", f"dreambench={part}", "subject.name=all")
    words = (*stable_diffusion, *bench, "class=none,wrong,correct", *small)
    ended = command("train", "-m", *words, "report=auto", f"hydra.sweep.dir={sweep}")
    assert ended.code == 0, ended.output
    assert f"{part} holds 2 of 30 subjects of DreamBench: these are the sweep's" in ended.output
    study = read_study([sweep])
    assert (study.subjects, study.axes) == (("dog6", "duck_toy"), ("class",))
    assert all(t.metrics["dino"].count == 25 for t in study.trials), "an image of each prompt"
    page = (tmp_path / "sweep" / "index.html").read_text()
    assert all(name in page for name in ("dog6", "duck_toy", "wrong class noun"))
    text = (tmp_path / "sweep" / "report.md").read_text()
    assert "3 cells, 2 subjects, 1 training seed: 6 runs (6 finished)" in text


def test_all_is_every_subject_of_a_sweep(folder, tmp_path):
    sweep = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    assert "add -m" in refused(*of(folder, "all"))
    ended = command("train", "-m", *of(folder, "all"), "class=none,correct", sweep, "seed=x")
    assert f"{folder} holds 2 of 4 subjects of DreamBench" in ended.output
    assert "subject.name=cat2 class=none cannot run: seed=x" in ended.output
    for name in ("cat2", "dog6"):
        (folder / name).rename(tmp_path / name)
    ended = command("train", "-m", *of(folder, "all"), sweep)
    assert ended.sentence == f"{folder} holds the photos of no subject of DreamBench"
    ended = command("train", "-m", *of(folder, "all,dog6"), sweep)
    assert "subject.name=all is a run for each subject of DreamBench" in ended.sentence
