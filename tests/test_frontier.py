"""experiment=frontier, applications and limitations: from the command to the report."""

import shutil

import numpy as np
import pytest
from commands import command, train

from dreambooth.reporting.study import read_study
from dreambooth.reporting.study_tables import tables_of
from dreambooth.runs.run import Run
from dreambooth.subjects.prompt_sets import APPLICATIONS, LIMITATIONS

pytestmark = pytest.mark.slow


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def by_prompt(pictures):
    return {(p.prompt, p.index): p.pixels.int() for p in pictures}


def test_a_runs_frontier_is_drawn_and_scored_from_the_pretrained_model_on(copy, encoders):
    scores = (copy / "scores.csv").read_bytes()
    own = ("frontier.strengths=[0,0.5,1]", "frontier.num_class_images=2")
    ended = command("evaluate", f"run={copy}", "experiment=frontier", *own, *encoders)
    assert ended.code == 0, ended.output
    run = Run.load_finished(copy)
    assert (copy / "scores.csv").read_bytes() == scores
    rows = run.read_frontier()
    per_strength = 25 + 2 + 18  # two of each of the other nine classes
    assert [row["strength"] for row in rows] == np.repeat([0, 0.5, 1], per_strength).tolist()
    unrelated = [row for row in rows if row["set"] == "unrelated"]
    assert not any("dog" in row["prompt"] for row in unrelated)
    changes = {g: [r["unrelated_change"] for r in unrelated if r["strength"] == g] for g in (0, 1)}
    assert np.max(changes[0]) < 1e-5 < np.mean(changes[1])
    assert all(row["identity"] is not None for row in rows if row["set"] != "unrelated")
    # The ends are the pretrained model and the run's own, on the same noise.
    at_0, at_1 = (by_prompt(run.images.read(f"frontier-{g}")) for g in (0, 1))
    for image_set, at in (("before", at_0), ("class", at_1), ("prompts", at_1)):
        for key, pixels in by_prompt(run.images.read(image_set)).items():
            assert (pixels - at[key]).abs().max() <= 1
    assert any((at_0[key] - at_1[key]).abs().max() > 1 for key in at_0)
    assert (copy / "images/frontier.png").is_file()
    (line,) = [line for line in ended.output.splitlines() if line.startswith("0.5  ")]
    of_half = [r["identity"] for r in rows if r["strength"] == 0.5 and r["set"] == "prompts"]
    assert line.split()[1] == f"{np.mean(of_half):.2f}"
    tables = {table.key: table for table in tables_of(read_study([copy]))}
    assert "unrelated_change" in " ".join(column.key for column in tables["frontier"].columns)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "frontier.strengths=[0.5,1]",
            "frontier.strengths=[0.5, 1.0]: give numbers that rise from",
        ),
        ("frontier.strengths=[0]", "frontier.strengths=[0.0]: give numbers that rise from 0"),
        (
            "frontier.strengths=[0,1,1]",
            "frontier.strengths=[0.0, 1.0, 1.0]: give numbers that rise",
        ),
        ("frontier.strengths=[0,x]", "frontier.strengths.1=x: give "),
        ("frontier.num_class_images=0", "frontier.num_class_images=0: give a whole number from 1"),
        ("metrics=none", "metrics=none scores nothing"),
        ("images=somewhere", "give one of run=DIR"),
    ],
)
def test_what_no_frontier_has_is_refused(copy, words, said):
    ended = command("evaluate", f"run={copy}", "experiment=frontier", words)
    assert ended.sentence.startswith(said)
    assert not (copy / "frontier.csv").exists()


def test_a_frontier_needs_a_run():
    said = command("evaluate", "experiment=frontier", "images=somewhere").sentence
    assert said == "experiment=frontier is of a finished run: give run=DIR"


def test_a_run_without_training_has_no_frontier(tiny, tmp_path):
    own = ("method=prompt_only", "sr=off", "metrics=none", "drawing.num_class_images=1")
    assert train(tiny, tmp_path / "run", *own).code == 0
    ended = command("evaluate", f"run={tmp_path / 'run'}", "experiment=frontier")
    assert ended.sentence == "this run trained nothing, so it has no other strengths"


@pytest.mark.parametrize(
    ("name", "groups", "table"),
    [
        ("applications", APPLICATIONS, "applications"),
        ("limitations", LIMITATIONS, "limitations_by_context"),
    ],
)
def test_an_experiment_on_other_prompts_ends_in_its_table(tiny, tmp_path, name, groups, table):
    own = (f"experiment=[smoke,{name}]", "drawing.images_per_prompt=1", "metrics=oracle")
    ended = train(tiny, tmp_path / "run", *own)
    assert ended.code == 0, ended.output
    run = Run.load_finished(tmp_path / "run")
    assert set(run.read_prompts().values()) == set(groups)
    assert {p.template for p in run.images.read("prompts")} == set(run.read_prompts())
    tables = {t.key: t for t in tables_of(read_study([run.folder]))}
    words = [group.replace("_", " ") for group in groups]
    assert [row.label for row in tables[table].rows] == words
    assert all(row.entries["identity"].estimate.unit == "prompts" for row in tables[table].rows)
