"""Studies with known effects, as the paper's tables and in plain sentences."""

import math

import pytest
from made_up import made_up_sweep
from scipy import stats

from dreambooth.reporting.findings import findings, p_in_words
from dreambooth.reporting.paper import PAPER_TABLES, claimed, paper_difference
from dreambooth.reporting.study import read_study
from dreambooth.reporting.study_tables import tables_of

PUBLISHED = (
    "Custom Diffusion, SD 1.5",
    "BLIP-Diffusion, fine-tuned",
    "BLIP-Diffusion, zero-shot",
    "ELITE, 1 photo",
    "IP-Adapter",
    "Kosmos-G",
)
FIVE = ("biscuit", "olive", "clover", "pepper", "coral")


def tables_by_key(*sweeps):
    return {table.key: table for table in tables_of(read_study(list(sweeps)))}


@pytest.fixture(scope="module")
def thirty(tmp_path_factory):
    """The class noun x lambda sweep on five subjects, with the paper's effects."""
    sweep = made_up_sweep(tmp_path_factory.mktemp("study") / "thirty", FIVE)
    study = read_study([sweep])
    return study, {table.key: table for table in tables_of(study)}


def row_of(table, label):
    (row,) = [row for row in table.rows if row.label == label]
    return row


def compared(table, metric, a, b):
    labels = {row.cell: row.label for row in table.rows}
    found = [c for c in table.comparisons if (c.metric, labels[c.a], labels[c.b]) == (metric, a, b)]
    return found[0] if found else None


def test_a_claim_and_the_values_of_the_paper_never_contradict_each_other():
    checked = 0
    for table in PAPER_TABLES:
        for a in table.values:
            for b in table.values:
                for metric in table.metrics:
                    claim, sign = claimed(table, metric, a, b)
                    difference = paper_difference(table, metric, a, b)
                    if claim and difference is not None:
                        assert difference * sign > 0, (table.key, metric, a, b)
                        checked += 1
    assert checked >= 40


def test_each_axis_has_its_table(thirty, tmp_path):
    assert list(thirty[1]) == ["prior", "class_noun", "applications", "limitations"]
    axes = {
        "num_photos": {"subject.num_photos": ("1", "3", "5")},
        "super_resolution": {"sr": ("off", "frozen", "noise_1e-3", "noise_1e-5")},
        "identifiers": {"identifier": ("rare", "common", "random")},
        "prior": {"prior.lambda": ("0", "0.5", "1")},
    }
    for key, axis in axes.items():
        assert key in tables_by_key(made_up_sweep(tmp_path / key, axes=axis))


def test_an_axis_that_the_paper_does_not_have_has_a_table_without_claims(tmp_path):
    rates = {"method.module.learning_rate": ("1e-4", "1e-3")}
    tables = tables_by_key(made_up_sweep(tmp_path / "s", axes=rates))
    table = next(iter(tables.values()))
    assert table.source == ""
    assert [row.label for row in table.rows] == ["learning_rate 1e-4", "learning_rate 1e-3"]
    assert table.comparisons
    assert {c.claim for c in table.comparisons} == {""}


def test_estimates_are_over_the_subjects_and_equal_the_runs_own_means(thirty):
    study, tables = thirty
    (cell,) = [c for c in study.cells if c.label == "lambda 1, correct class noun"]
    row = row_of(tables["prior"], cell.label)
    for metric, count in (("dino", 250), ("pres", 160), ("diversity", 160), ("div", 250)):
        values = [trial.metrics[metric].value for trial in cell.trials]
        found = row.entries[metric].estimate
        assert found.mean == pytest.approx(sum(values) / 5)
        assert (found.num_subjects, found.num_images, found.unit) == (5, count, "subjects")
        low, high = stats.t.interval(0.95, 4, found.mean, stats.sem(values))
        assert found.high - found.low == pytest.approx(high - low, rel=0.15)


def test_the_papers_values_stand_beside_cells_that_are_as_in_the_paper(thirty):
    prior, noun = thirty[1]["prior"], thirty[1]["class_noun"]
    assert prior.source == "Table 3 of the paper"
    assert row_of(prior, "lambda 1, correct class noun").entries["pres"].paper == 0.493
    assert row_of(prior, "lambda 0, correct class noun").entries["div"].paper == 0.371
    assert row_of(prior, "lambda 0, no class noun").entries["pres"].paper is None
    assert row_of(noun, "lambda 1, wrong class noun").entries["dino"].paper == 0.454
    assert row_of(noun, "lambda 0, wrong class noun").entries["dino"].paper is None
    assert row_of(prior, "lambda 1, correct class noun").entries["drift"].paper is None  # ours


def test_cells_are_compared_in_one_setting_at_a_time_and_judged(thirty):
    found = compared(
        thirty[1]["prior"],
        "pres",
        "lambda 1, correct class noun",
        "lambda 0, correct class noun",
    )
    assert found.difference.mean == pytest.approx(-0.2, abs=0.02)
    assert (found.difference.num_trainings, found.difference.num_images) == (5, 160)
    assert found.paper == -0.171
    assert found.verdict == "agrees"
    assert found.claim == "the prior term keeps the class from language drift"
    assert found.sentence.startswith("lambda 1 - lambda 0, correct class noun: PRES -0.2")
    labels = {row.cell: row.label for row in thirty[1]["prior"].rows}
    assert thirty[1]["prior"].comparisons
    for one in thirty[1]["prior"].comparisons:
        assert labels[one.a].partition(", ")[2] == labels[one.b].partition(", ")[2]


def test_scores_of_another_classs_prompt_are_not_compared(thirty, tmp_path):
    prior = thirty[1]["prior"]
    assert row_of(prior, "lambda 1, wrong class noun").entries["drift"].text == "another class"
    assert row_of(prior, "lambda 1, wrong class noun").entries["dino"].text == ""
    assert any("the class prompt has the wrong noun too" in note for note in prior.notes)
    generic = {"class": ("wrong", "correct"), "method.max_steps": ("400", "500")}
    for table in tables_by_key(made_up_sweep(tmp_path / "s", axes=generic)).values():
        labels = {row.cell: row.label for row in table.rows}
        for one in table.comparisons:
            nouns = {("wrong" in labels[cell]) for cell in (one.a, one.b)}
            assert one.metric not in ("drift", "pres", "diversity") or len(nouns) == 1


def test_findings_say_what_agrees_what_does_not_and_what_is_not_settled(tmp_path):
    def against(column, chosen):  # the other way round for the prior, nothing for the noun
        without = chosen["prior.lambda"] == "0"
        return {"pres": -0.2, "drift": -0.1, "dino": 0.1}.get(column, 0.0) * without

    sweep = made_up_sweep(tmp_path / "s", FIVE, effect=against)
    found = findings(tables_of(read_study([sweep])))
    by_words = {f.sentence.partition(":")[0]: f for f in found}
    drift = by_words[
        "Against the paper, which says that the prior term keeps the class from language drift"
    ]
    assert drift.verdict == "opposite"
    assert "PRES +0." in drift.sentence
    assert "; the paper -0.171)" in drift.sentence
    assert ". Beside it, without a verdict: drift +0." in drift.sentence
    assert drift.limits == ["Over 5 subjects."]
    assert drift.table == "prior"
    cost = by_words["As in the paper, the prior term costs some fidelity to the subject"]
    assert cost.verdict == "agrees"
    assert "DINO -0." in cost.sentence
    noun = by_words[
        "It is not settled whether the correct class noun gives more subject fidelity than none"
    ]
    assert noun.verdict == "not settled"
    assert not any("lambda 0, " in f.sentence for f in found if f.table == "class_noun")


def test_p_is_told_with_three_decimals_where_there_is_one():
    assert [p_in_words(p) for p in (0.0001, 0.0123, math.nan)] == ["p < 0.001", "p = 0.012", "no p"]


def test_a_claim_is_not_looked_for_where_the_other_settings_are_not_the_papers(tmp_path):
    axes = {"prior.lambda": ("0", "1"), "class": ("none",)}
    table = tables_by_key(made_up_sweep(tmp_path / "s", axes=axes))["prior"]
    assert table.comparisons
    assert {c.claim for c in table.comparisons} == {""}
    assert all(e.paper is None for row in table.rows for e in row.entries.values())


@pytest.mark.parametrize(
    ("override", "values", "papers"),
    [
        ("identifier", ("rare", "random"), {"rare identifier"}),
        ("identifier", ("random",), set()),
        (
            "sr",
            ("off", "frozen", "noise_1e-3", "noise_1e-5"),
            {"SR as pretrained", "SR noise 1e-5"},
        ),
        ("sr", ("off",), {""}),  # the model may have no SR stage
        ("subject.num_photos", ("1", "5"), {"5 photos"}),
        ("subject.num_photos", ("1",), set()),
        ("method.module.learning_rate", ("1e-4", "1e-2"), set()),  # which of them is not known
    ],
)
def test_the_papers_values_are_of_its_other_settings_too(tmp_path, override, values, papers):
    axes = {"class": ("none", "correct"), override: values}
    table = tables_by_key(made_up_sweep(tmp_path / "s", axes=axes))["class_noun"]
    beside = {row.label for row in table.rows if row.entries["dino"].paper is not None}
    assert {label.partition("class noun")[2].removeprefix(", ") for label in beside} == papers
    assert bool(beside) == any(one.claim for one in table.comparisons)
    assert bool(beside) != any(
        note.startswith("The paper's values and claims") for note in table.notes
    )


def test_applications_are_of_every_cell_that_is_as_in_the_paper(tmp_path):
    levels = ("frozen", *(f"noise_{level}" for level in ("0.3", "0.1", "1e-2", "1e-3", "1e-5")))
    axes = {"sr": levels, "identifier": ("rare", "random")}
    tables = tables_by_key(made_up_sweep(tmp_path / "s", axes=axes))
    shown = {row.label.partition(": ")[2] for row in tables["applications"].rows}
    assert shown == {"SR as pretrained, rare identifier", "SR noise 1e-5, rare identifier"}
    limits = tables["limitations"].rows
    assert len(limits) == 12
    assert {row.label for row in limits if row.entries["copied_excess"].finding} == shown


def test_applications_are_of_all_cells_where_none_is_known_to_be_as_in_the_paper(tmp_path):
    axes = {"method.module.learning_rate": [f"{n}e-4" for n in range(1, 9)]}
    tables = tables_by_key(made_up_sweep(tmp_path / "s", axes=axes))
    assert len({row.cell for row in tables["applications"].rows}) == 8
    assert not [e for r in tables["limitations"].rows for e in r.entries.values() if e.finding]


def test_numbers_without_scores_of_each_picture_keep_their_own_interval_or_say_that_they_lack_it(
    tmp_path,
):
    sweep = made_up_sweep(tmp_path / "s", axes={"prior.lambda": ("0", "1")})
    for path in sweep.glob("*/scores.csv"):  # as before DIV and diversity were in it
        path.write_text(path.read_text().replace('"div"', '"x"').replace('"diversity"', '"y"'))
    study = read_study([sweep])
    table = tables_of(study)[0]
    own = study.cells[0].trials[0].metrics["div"]
    entry = table.rows[0].entries["div"]
    assert (entry.estimate.mean, (entry.estimate.low, entry.estimate.high)) == (
        own.value,
        own.ci95,
    )
    diversity = table.rows[0].entries["diversity"]
    assert math.isnan(diversity.estimate.low)
    assert diversity.text == "no interval"
    assert any(note.startswith("No interval:") for note in table.notes)
    assert not [c for c in table.comparisons if c.metric in ("div", "diversity")]


def test_unfinished_cells_keep_their_row_and_the_notes_tell_what_a_cell_lacks(tmp_path):
    sweep = made_up_sweep(
        tmp_path / "s", ("biscuit", "comet"), failed={0: "x", 1: "x"}, running=[2], damaged=[5]
    )
    table = tables_by_key(sweep)["class_noun"]
    assert table.rows[0].label == "lambda 0, no class noun"
    assert table.rows[0].entries["dino"].text == "2 failed"
    assert table.rows[0].entries["dino"].estimate is None
    assert "lambda 0, wrong class noun: without 1 running of its 2 runs." in table.notes
    assert "lambda 0, correct class noun: without 1 damaged of its 2 runs." in table.notes


def test_runs_measured_by_different_encoders_are_in_tables_of_their_own(tmp_path):
    axes = {"prior.lambda": ("0", "1")}
    a = made_up_sweep(tmp_path / "a", ("biscuit", "olive"), axes=axes)
    b = made_up_sweep(tmp_path / "b", ("coral",), axes=axes, encoder="large (sha256 9)")
    study = read_study([a, b])
    tables = {table.key: table for table in tables_of(study)}
    one, other = tables["prior"], tables["prior-2"]
    assert one.title == "Prior preservation (protocol 1 of 2)"
    assert {row.entries["dino"].estimate.num_subjects for row in one.rows} == {2}
    assert {row.entries["dino"].estimate.num_subjects for row in other.rows} == {1}
    assert "large (sha256 9)" in next(c.protocol for c in other.columns if c.key == "dino")
    assert any("differ in the protocol of DINO" in note for note in one.notes)


@pytest.mark.parametrize(
    ("differing", "title"),
    [
        ({"versions": {"torch": "2.12.0"}}, "torch 2.12.0"),
        ({"code": "feed01"}, "code feed01"),
    ],
)
def test_runs_of_different_code_or_versions_are_in_tables_of_their_own(tmp_path, differing, title):
    a = made_up_sweep(tmp_path / "a", axes={"prior.lambda": ("0", "1")})
    b = made_up_sweep(tmp_path / "b", axes={"prior.lambda": ("0", "1")}, seeds=(1,), **differing)
    tables = tables_by_key(a, b)
    assert f"({title})" in tables["prior-2"].title
    assert tables["prior"].rows[0].entries["dino"].estimate.num_images == 50


def test_runs_of_different_lengths_are_not_compared_but_in_the_table_of_the_lengths(tmp_path):
    axes = {"prior.lambda": ("0", "1"), "method.max_steps": ("200", "500")}
    tables = tables_by_key(made_up_sweep(tmp_path / "s", axes=axes))
    assert tables["prior"].title == "Prior preservation (max_steps 200)"
    assert [row.label for row in tables["prior-2"].rows] == [
        "lambda 0, max_steps 500",
        "lambda 1, max_steps 500",
    ]
    steps = tables["method-max-steps"]
    assert len(steps.rows) == 4
    of_parts = [f.sentence for f in findings(list(tables.values())) if f.table != steps.key]
    assert of_parts
    for sentence in of_parts:
        assert ("(max_steps 200)" in sentence) != ("(max_steps 500)" in sentence)


def test_the_number_of_photos_in_a_protocol_is_no_other_protocol(tmp_path):
    sweep = made_up_sweep(tmp_path / "s", FIVE, axes={"subject.num_photos": ("1", "3", "5")})
    tables = tables_by_key(sweep)
    table = tables["num_photos"]
    assert "num_photos-2" not in tables
    found = compared(table, "dino", "5 photos", "1 photo")
    assert found.paper == pytest.approx((0.597 + 0.864 - 0.494 - 0.798) / 2, abs=1e-4)
    assert found.verdict == "agrees"


def test_noise_levels_are_compared_in_detail(tmp_path):
    levels = {"sr": ("off", "frozen", "noise_1e-3", "noise_1e-5")}
    table = tables_by_key(made_up_sweep(tmp_path / "s", FIVE, axes=levels))["super_resolution"]
    found = compared(table, "sr_kept", "SR noise 1e-5", "SR noise 1e-3")
    assert found.claim.startswith("SR fine-tuned at a lower noise level")
    assert found.verdict == "agrees"
    error = compared(table, "sr_layout_error", "SR noise 1e-5", "SR as pretrained")
    assert error.verdict == ""
    assert error.claim == "fine-tuned SR gives more subject fidelity than pretrained SR"
    assert error.difference.high < 0


@pytest.mark.slow
def test_of_many_noise_levels_the_lowest_is_compared_with_each_other(tmp_path):
    levels = {"sr": ("off", "frozen", *(f"noise_{level}" for level in ("1e-1", "1e-3", "1e-5")))}
    sweep = made_up_sweep(tmp_path / "s", FIVE, axes={"sr": levels["sr"]})
    table = tables_by_key(sweep)["super_resolution"]
    pairs = {c.sentence.partition(":")[0] for c in table.comparisons}
    assert pairs == {
        f"SR noise 1e-5 - {other}"
        for other in ("SR noise 1e-3", "SR noise 0.1", "SR as pretrained", "no SR")
    }


def test_other_methods_are_compared_with_dreambooth_as_in_the_paper(tmp_path):
    def weaker(column, chosen):
        return -0.2 if column in ("dino", "clip_i") and "method.tuning._target_" in chosen else 0.0

    ours = made_up_sweep(tmp_path / "a", FIVE, axes={"prior.lambda": ("0", "1")}, effect=weaker)
    target = "dreambooth.inversion.TextualInversion"
    axes = {"method.tuning._target_": (target,), "prior.lambda": ("0",)}
    theirs = made_up_sweep(tmp_path / "b", FIVE, axes=axes, effect=weaker)
    table = tables_by_key(ours, theirs)["methods"]
    assert [row.label for row in table.rows] == [
        "DreamBooth, lambda 0",
        "DreamBooth, lambda 1",
        "Textual Inversion",
        "real images (the paper)",
        "DreamBooth, Imagen (the paper)",
        *(f"{system} (arXiv 2411.17786, table 2)" for system in PUBLISHED),
    ]
    papers = [row.entries["dino"].paper for row in table.rows]
    assert papers[:5] == [None, 0.668, 0.569, 0.774, 0.696]
    assert any("81 %, 12 % and 7 %" in note for note in table.notes)
    found = compared(table, "dino", "DreamBooth, lambda 1", "Textual Inversion")
    assert found.paper == pytest.approx(0.099)
    assert found.verdict == "agrees"
    assert found.sentence.startswith("DreamBooth, lambda 1 - Textual Inversion: DINO +0.")
    assert compared(table, "dino", "DreamBooth, lambda 0", "Textual Inversion") is None


def test_other_prior_terms_are_compared_with_the_papers_and_are_no_claim_of_it(tmp_path):
    sweeps = [made_up_sweep(tmp_path / "a", FIVE, axes={"prior.lambda": ("0", "1")})]
    kinds = {"prior.kind": ("output", "blank")}
    sweeps.append(made_up_sweep(tmp_path / "b", FIVE, axes=kinds))
    table = tables_by_key(*sweeps)["prior"]
    labels = ["lambda 0", "lambda 1", "lambda 1 (blank)", "lambda 1 (output)"]
    assert [row.label for row in table.rows[:4]] == labels
    papers = [row.entries["pres"].paper for row in table.rows[:4]]
    assert papers == [0.664, 0.493, None, None]
    pairs = {c.sentence.partition(":")[0]: c.claim for c in table.comparisons if c.metric == "pres"}
    assert len(pairs) == 6
    assert [pair for pair, claim in pairs.items() if claim] == ["lambda 1 - lambda 0"]
