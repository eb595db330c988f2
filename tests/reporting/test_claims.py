"""What a report may say: one verdict for each claim, none from too few trainings, and the floor."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from made_up import DRAWN, made_up_sweep
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from dreambooth.miniature.scoring import fidelity_scorer
from dreambooth.reporting.claims import claims_in
from dreambooth.reporting.findings import by_verdict, findings
from dreambooth.reporting.floor import FLOORS, measure
from dreambooth.reporting.needed import units_needed, with_needed_runs
from dreambooth.reporting.paper import PAPER_TABLES
from dreambooth.reporting.statistics import Difference
from dreambooth.reporting.study import read_study
from dreambooth.reporting.study_tables import tables_of

TEN = tuple(DRAWN)
CLAIMS = {
    claim.words for t in PAPER_TABLES if t.key in ("prior", "class_noun") for claim in t.claims
}


@pytest.fixture(scope="session")
def shipped_floor():
    return json.loads((FLOORS / "miniature.json").read_bytes())


def report_of(sweep):
    study = read_study([sweep])
    tables = with_needed_runs(study, tables_of(study))
    return tables, findings(tables)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The six runs of the README: one subject, one seed."""
    return made_up_sweep(tmp_path_factory.mktemp("claims") / "demo")


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory):
    return made_up_sweep(tmp_path_factory.mktemp("claims") / "three", seeds=(0, 1, 2))


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    """Ten subjects, two seeds."""
    return made_up_sweep(
        tmp_path_factory.mktemp("claims") / "ten", TEN, (0, 1), images_per_prompt=1, picture_px=8
    )


def test_six_runs_give_no_verdict_and_say_what_would(demo):
    tables, found = report_of(demo)
    assert {f.verdict for f in found} == {"cannot be judged", ""}
    judged = [str(f) for f in found if f.verdict]
    assert len(judged) == len(CLAIMS)
    for sentence in judged:
        assert "One training run: intervals are the spread over its prompts" in sentence
        assert "At least 8 more runs of the two settings are needed" in sentence
        assert "p = " not in sentence
        assert "p < " not in sentence
    for table in tables[:2]:
        (note,) = (note for note in table.notes if "cannot be judged" in note)
        assert note.startswith("One training run of a setting: the direction cannot be judged;")
        assert (
            "at least 24 more runs are needed (about this subject only): python src/train.py"
            in note
        )
        assert "prior.lambda=0,1 class=none,wrong,correct seed=1,2,3,4" in note
        assert any("differ by their seeds is unknown" in note for note in table.notes)
        units = {e.estimate.unit for row in table.rows for e in row.entries.values() if e.estimate}
        assert units <= {"prompts", "images"}


def test_what_limits_all_findings_of_a_group_is_said_once(demo):
    _, found = report_of(demo)
    groups = {verdict: (shared, group) for verdict, shared, group in by_verdict(found)}
    assert set(groups) == {"cannot be judged", ""}
    for shared, group in groups.values():
        assert "One training run: intervals are the spread over its prompts or images." in shared
        assert not any(limit in shared for finding in group for limit in finding.limits)
    assert sum(len(group) for _, group in groups.values()) == len(found)
    (alone,) = by_verdict(found[:1])
    assert alone == ("cannot be judged", [], found[:1])


def test_several_seeds_of_one_subject_are_its_trainings_and_about_it_only(three_seeds):
    tables, found = report_of(three_seeds)
    assert {f.verdict for f in found} == {"cannot be judged", ""}
    for one in found:
        assert "Over 3 trainings of one subject, and about it only." in one.limits
    prior = tables[0]
    assert any("are about biscuit only, not about other subjects" in note for note in prior.notes)
    assert {e.estimate.unit for e in prior.rows[0].entries.values() if e.estimate} == {"trainings"}
    assert any(note.startswith("3 training runs of a setting") for note in prior.notes)


def test_five_seeds_of_one_subject_have_a_verdict_about_it(tmp_path):
    axes = {"prior.lambda": ("0", "1")}
    tables, found = report_of(made_up_sweep(tmp_path / "s", seeds=range(5), axes=axes))
    drift = next(f for f in found if "language drift" in f.sentence)
    assert drift.verdict == "agrees"
    assert drift.limits == ["Over 5 trainings of one subject, and about it only."]
    assert not [note for note in tables[0].notes if "cannot be judged" in note]


@pytest.mark.slow
def test_ten_subjects_of_two_seeds_give_each_claim_exactly_one_verdict(ten):
    tables, found = report_of(ten)
    verdicts = [c for table in tables for c in table.comparisons if c.verdict]
    assert sorted(c.claim for c in verdicts) == sorted(CLAIMS)
    assert claims_in(tables) == len(CLAIMS)
    assert {c.difference.num_trainings for c in verdicts} == {20}
    assert {c.metric for c in verdicts} == {"pres", "div", "dino", "clip_t"}
    for claim in CLAIMS:
        assert sum(claim in f.sentence for f in found) == 1
    assert all(f.limits == ["Over 10 subjects (20 trainings)."] for f in found)
    others = [c for table in tables for c in table.comparisons if not c.verdict]
    assert all(math.isnan(c.difference.p_holm) for c in others)
    assert any(note.startswith("A/A tests") and " of 48 have" in note for note in tables[0].notes)


def runs_means(sweep, lam, noun, image_set, column):
    """(subject, seed) -> the mean of a column of scores.csv, read without the report."""
    means = {}
    for path in sorted(sweep.glob("*/scores.csv")):
        overrides = (path.parent / "config.yaml").read_text()
        if f"prior.lambda={lam}\n" in overrides and f"class={noun}\n" in overrides:
            with path.open(newline="") as file:
                rows = [r for r in csv.DictReader(file) if r["set"] == image_set and r[column]]
            subject = next(name for name in TEN if f"subject={name}\n" in overrides)
            means[subject, rows[0]["seed"]] = np.mean([float(r[column]) for r in rows])
    return means


@pytest.mark.slow
def test_the_verdicts_are_what_scipy_and_statsmodels_make_of_the_scores(ten):
    """To 1e-9: means, intervals, p and Holm's correction over all claims of the report."""
    tables, _ = report_of(ten)
    with_prior, without = (1, "correct"), (0, "correct")
    cases = {
        ("prior", "pres"): (with_prior, without, "class", "pres"),
        ("prior", "div"): (with_prior, without, "prompts", "div"),
        ("prior", "dino"): (with_prior, without, "prompts", "dino"),
        ("prior", "clip_t"): (with_prior, without, "prompts", "clip_t"),
        ("wrong", "dino"): (with_prior, (1, "wrong"), "prompts", "dino"),
        ("none", "dino"): (with_prior, (1, "none"), "prompts", "dino"),
        ("wrong-none", "dino"): ((1, "wrong"), (1, "none"), "prompts", "dino"),
    }
    expected = []
    for a, b, image_set, column in cases.values():
        one, other = (runs_means(ten, *cell, image_set, column) for cell in (a, b))
        each = [np.mean([one[s, k] - other[s, k] for k in "01"]) for s in TEN]
        interval = DescrStatsW(np.array(each)).tconfint_mean()
        expected.append((np.mean(each), *interval, stats.ttest_1samp(each, 0).pvalue))
    holm = multipletests([p for *_, p in expected], method="holm")[1]
    found = [c.difference for table in tables for c in table.comparisons if c.verdict]
    told = sorted((d.mean, d.low, d.high, d.p, d.p_holm) for d in found)
    wanted = sorted((*four, p) for four, p in zip(expected, holm, strict=True))
    assert np.array(told) == pytest.approx(np.array(wanted), abs=1e-9)


def test_a_claim_in_several_tables_has_one_verdict(tmp_path):
    axes = {"prior.lambda": ("0", "0.5", "1"), "method.max_steps": ("200", "500")}
    tables, found = report_of(made_up_sweep(tmp_path / "s", TEN[:5], axes=axes, picture_px=8))
    drift = [f for f in found if "language drift" in f.sentence]
    assert len(drift) == 1
    assert "lambda 1" in drift[0].sentence
    verdicts = [c.claim for table in tables for c in table.comparisons if c.verdict]
    assert len(verdicts) == len(set(verdicts))


def test_a_claim_whose_own_metric_was_not_measured_is_not_judged_by_another(demo):
    tables = [
        replace(t, comparisons=[c for c in t.comparisons if c.metric in ("drift", "identity")])
        for t in tables_of(read_study([demo]))
    ]
    found = findings([replace(t, rows=[]) for t in tables])
    assert {f.verdict for f in found} == {"cannot be judged"}
    assert all(
        "the metric by which the paper judges it was not measured" in f.sentence for f in found
    )


def test_a_floor_that_was_measured_before_stands_beside_studies_of_one_seed(
    demo, three_seeds, no_floor
):
    content = {"command": "python src/train.py -m seed=0,1,2", **measure(read_study([three_seeds]))}
    no_floor.mkdir()
    (no_floor / "miniature.json").write_text(json.dumps(content))
    tables, found = report_of(demo)
    row = tables[0].rows[-1]
    assert row.label == "SD between seeds, as measured for miniature before"
    sd = content["metrics"]["pres"]["sd"]
    assert row.entries["pres"].text == f"{sd:.3f} (18 trainings)"
    assert any(content["command"] in note for note in tables[0].notes)
    told = next(str(f) for f in found if "language drift" in f.sentence)
    assert "more runs would settle it" in told
    own = report_of(three_seeds)[0][0].rows[-1]
    assert own.label == "SD between seeds of a setting"
    assert own.entries["pres"].text == row.entries["pres"].text
    with pytest.raises(ValueError, match="cannot tell how far seeds differ"):
        measure(read_study([demo]))


def test_the_floor_that_ships_is_of_the_study_and_of_the_encoders_that_ship(shipped_floor):
    assert len(shipped_floor["settings"]) == 6
    assert {floor["num_trainings"] for floor in shipped_floor["metrics"].values()} == {120}
    assert all(floor["sd"] > 0 for floor in shipped_floor["metrics"].values())
    scorer = fidelity_scorer()
    for metric, encoder in {
        "dino": scorer.dino,
        "pres": scorer.dino,
        "clip_i": scorer.clip,
    }.items():
        assert encoder.protocol in shipped_floor["metrics"][metric]["protocol"]


def test_more_runs_are_needed_for_less_and_none_are_known_without_a_spread():
    def seen(mean, unit="prompts", effect_size=1.0, trainings=1):
        return Difference(
            mean, 0, 0, math.nan, math.nan, effect_size, 1, 50, unit, num_trainings=trainings
        )

    assert units_needed(seen(0.5), None, 7) is None
    large, small, tiny = (units_needed(seen(x), 0.1, 7) for x in (0.5, 0.15, 0.001))
    assert 5 <= large < small < 61 == tiny
    assert units_needed(seen(0.3, "trainings", 1.5, 3), None, 7) > 5
    assert units_needed(seen(0.0, "trainings", 0.0, 3), None, 7) == 61  # no number is enough
