"""Prompts by what they ask for, as in the paper's applications and limitations."""

import json
from statistics import fmean

import pytest
import yaml
from made_up import made_up_sweep

from dreambooth.metrics.applications import outcome_of
from dreambooth.reporting.findings import findings
from dreambooth.reporting.study import read_study
from dreambooth.reporting.study_tables import tables_of
from dreambooth.subjects.prompt_sets import (
    CONTEXT_OF_PHOTOS,
    FREQUENT_CONTEXT,
    MINIBENCH,
    application_of,
)

FIVE = ("biscuit", "olive", "clover", "pepper", "coral")


@pytest.mark.slow
def test_applications_and_limitations_are_of_the_cells_that_are_as_in_the_paper(tmp_path):
    sweep = made_up_sweep(tmp_path / "thirty", FIVE)
    tables = {table.key: table for table in tables_of(read_study([sweep]))}
    table = tables["applications"]
    assert [row.label for row in table.rows] == [
        "recontextualization",
        "art rendition",
        "expression",
        "novel view",
        "accessorization",
        "property modification",
        "several at once",
    ]
    assert {row.cell for row in table.rows} == {"lambda-1-correct-class-noun"}
    contexts = table.rows[0].entries["dino"].estimate
    assert contexts.num_images == 5 * 8 * 2
    limits = tables["limitations"]
    claimed_of = [row.label for row in limits.rows if row.entries["copied_excess"].finding]
    assert claimed_of == ["lambda 1, correct class noun"]
    assert limits.rows[0].entries["context_accuracy"].text.startswith("least: a ... ")
    row = next(row for row in limits.rows if row.label in claimed_of)
    copied, null, excess = (
        row.entries[name].estimate.mean for name in ("copied", "copied_null", "copied_excess")
    )
    assert excess == pytest.approx(copied - null)
    (told,) = [f for f in findings([limits]) if "resemble a training photo" in f.sentence]
    assert told.verdict == ""
    assert f"correct class noun {excess:.3f}" in told.sentence


def test_an_application_succeeds_where_it_is_shown_and_the_subject_is_kept():
    shown = {"context_right": 1, "style_right": 1.0, "class_right": 0, "identity": 0.5}
    assert outcome_of(shown) == {"asked": 1, "kept": 1, "both": 1}
    assert outcome_of(shown | {"style_right": 0}) == {"asked": 0, "kept": 1, "both": 0}
    assert outcome_of(shown | {"identity": 0.49}) == {"asked": 1, "kept": 0, "both": 0}
    assert outcome_of({"class_right": 1, "identity": 0.9}) == {"kept": 1}  # "a {}"
    assert outcome_of({"dino": 0.7, "context_right": None, "identity": None}) == {}


def test_the_table_of_applications_counts_what_was_shown_and_who_was_kept(tmp_path):
    sweep = made_up_sweep(tmp_path / "two", ("biscuit", "olive"), axes={"class": ("correct",)})
    study = read_study([sweep])
    (table,) = [table for table in tables_of(study) if table.key == "applications"]
    row = next(row for row in table.rows if row.label == "expression")
    for name in ("asked", "kept", "both"):
        of_subjects = []
        for trial in study.trials:
            rows = [r for r in trial.rows if trial.family_of(str(r["template"])) == "expression"]
            of_subjects.append(fmean(outcome_of(r)[name] for r in rows if r["set"] == "prompts"))
        assert row.entries[name].estimate.mean == pytest.approx(fmean(of_subjects))
        assert row.entries[name].estimate.unit == "subjects"


def test_a_runs_own_prompts_say_what_they_ask_for(tmp_path):
    """As those of experiment=limitations, whose groups follow from the subject's photos."""
    sweep = made_up_sweep(tmp_path / "two", ("biscuit", "olive"), axes={"class": ("correct",)})
    near = {"biscuit": "a {} in the snow", "olive": "a {} in the city"}
    for folder in sorted(path.parent for path in sweep.glob("*/names.json")):
        name = yaml.safe_load((folder / "config.yaml").read_text())["subject"]["name"]
        contexts = [t for t in MINIBENCH["live"] if application_of(t) == "recontextualization"]
        groups = {t: CONTEXT_OF_PHOTOS if t == near[name] else FREQUENT_CONTEXT for t in contexts}
        (folder / "prompts.json").write_text(json.dumps(groups))
    study = read_study([sweep])
    tables = {table.key: table for table in tables_of(study)}
    assert "limitations" not in tables
    rows = tables["limitations_by_context"].rows
    assert [row.label for row in rows] == ["context of the photos", "frequent context"]
    of_subjects = [
        fmean(r["identity"] for r in t.rows if r["set"] == "prompts" and r["template"] == near[s])
        for t in study.trials
        for s in [t.subject]
    ]
    assert rows[0].entries["identity"].estimate.mean == pytest.approx(fmean(of_subjects))
    assert rows[0].entries["identity"].estimate.num_images == 4
    assert rows[1].entries["identity"].estimate.num_images == 28
