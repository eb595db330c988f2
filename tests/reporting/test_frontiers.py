"""Frontiers of made-up runs, whose areas and scores at equal fidelity are known."""

import numpy as np
import pytest
import yaml
from made_up import made_up_sweep

from dreambooth.reporting.figures import write_figures
from dreambooth.reporting.frontiers import Frontiers, RunFrontier, frontier_table
from dreambooth.reporting.report import write_report
from dreambooth.reporting.scores import Part
from dreambooth.reporting.study import read_study
from dreambooth.runs.files import csv_of

STRENGTHS = (0.0, 0.5, 1.0, 1.25)
TWO = {"prior.lambda": ("0", "1")}


def rows_of(identity, drift, context, seed=0, spread=0.0):
    """The rows of frontier.csv whose scores are these functions of the strength, plus noise that is
    the same at every strength and 0 on average."""
    rng = np.random.default_rng(seed)
    rows = []
    for g in STRENGTHS:
        rng = np.random.default_rng(seed)
        for image_set, count in (("prompts", 8), ("class", 4), ("unrelated", 3)):
            noise = spread * rng.standard_normal(count)
            for i, off in enumerate(noise - noise.mean()):
                row = {"strength": g, "set": image_set, "template": f"{image_set} {{}} {i}"}
                row |= {"template": "a {}", "index": i} if image_set == "class" else {"index": 0}
                if image_set == "prompts":
                    row |= {"identity": identity(g) + off, "context_right": context(g)}
                elif image_set == "class":
                    row["identity"] = drift(g) + off
                else:
                    row["unrelated_change"] = 0.2 * g + off
                rows.append(row)
    return rows


def linear(slope):
    return lambda g: slope * g


def frontiers_in(sweep, runs):
    """Give each run of a sweep, by lambda, subject and seed, its frontier.csv."""
    for path in sorted(sweep.glob("*/config.yaml")):
        config = yaml.safe_load(path.read_text())
        rows = runs(config["prior"]["lambda"], config["subject"]["name"], config["seed"])
        if rows:
            (path.parent / "frontier.csv").write_text(csv_of(rows))
    return read_study([sweep])


def one(tmp_path, **rows):
    sweep = made_up_sweep(tmp_path / "one", axes={"prior.lambda": ("1",)})
    study = frontiers_in(sweep, lambda *_: rows_of(**rows))
    return study, RunFrontier.of(study.trials[0])


def test_means_at_equal_fidelity_are_linear_between_the_strengths(tmp_path):
    _, frontier = one(tmp_path, identity=linear(0.8), drift=lambda g: g**2, context=linear(1))
    at = frontier.at_fidelity("identity", 0.6)  # at g = 0.75, between 0.5 and 1
    assert at["strength"] == pytest.approx(0.75, abs=0.011)
    assert at["drift"] == pytest.approx((0.25 + 1) / 2, abs=0.02)
    assert at["unrelated_change"] == pytest.approx(0.15, abs=0.003)
    assert frontier.at_fidelity("identity", 1.01) == {}


@pytest.mark.parametrize(
    ("identity", "drift", "area"),
    [
        (lambda g: 1.0, lambda g: 0.0, 1.0),  # perfect
        (lambda g: min(g, 1.0), lambda g: min(g, 1.0), 0.5),  # as much drift as identity
        (lambda g: 0.5 * min(g, 1.0), lambda g: 0.0, 0.5),  # identity ends at 0.5
        (lambda g: min(g, 1.0), lambda g: 1.0, 0.0),
    ],
)
def test_the_area_is_the_best_score_averaged_over_fidelities(tmp_path, identity, drift, area):
    _, frontier = one(tmp_path, identity=identity, drift=drift, context=linear(0))
    assert frontier.area("identity", "drift") == pytest.approx(area, abs=0.01)


def test_a_strength_beyond_the_best_cannot_lower_the_area(tmp_path):
    """Where too much training destroys identity, the frontier is that of the lower strengths."""
    destroyed = lambda g: g if g <= 1 else 0.2  # noqa: E731
    _, frontier = one(tmp_path, identity=destroyed, drift=linear(0.8), context=linear(0))
    assert frontier.area("identity", "drift") == pytest.approx(1 - 0.4, abs=0.01)


@pytest.mark.slow
def test_a_single_training_has_intervals_over_its_prompts_and_no_comparison(tmp_path):
    sweep = made_up_sweep(tmp_path / "two", axes=TWO)
    study = frontiers_in(
        sweep,
        lambda weight, *_: rows_of(
            linear(0.7), linear(0.9 if weight == 0 else 0.1), linear(0.5), spread=0.05
        ),
    )
    table = frontier_table(Part(study))
    assert table.comparisons == []
    (without, with_prior) = (row.entries for row in table.rows)
    for entries, drift in ((without, 0.9), (with_prior, 0.1)):
        estimate = entries["at drift"].estimate
        assert estimate.unit == "prompts"
        assert estimate.low < estimate.mean < estimate.high
        assert estimate.mean == pytest.approx(drift * entries["at strength"].estimate.mean)
    assert frontier_table(Part(study)).rows[0].entries == without  # the same draws each time


def test_cells_are_compared_at_the_fidelity_that_every_run_reaches(tmp_path):
    reach = {("biscuit", 0): 0.8, ("biscuit", 1): 0.6, ("olive", 0): 0.7, ("olive", 1): 0.64}
    sweep = made_up_sweep(tmp_path / "many", ("biscuit", "olive"), seeds=(0, 1), axes=TWO)

    def rows(weight, subject, seed):
        slope = reach[subject, seed] / 1.25
        return rows_of(linear(slope), linear(0.8 - 0.5 * weight), linear(0.5), seed)

    study = frontiers_in(sweep, rows)
    frontiers = Frontiers.of(study)
    assert (frontiers.fidelity, frontiers.level) == ("identity", 0.6)
    table = frontier_table(Part(study))
    strengths = {run: 0.6 / (slope / 1.25) for run, slope in reach.items()}
    of_subjects = [np.mean([strengths[s, i] for i in (0, 1)]) for s in ("biscuit", "olive")]
    expected = np.mean(of_subjects)
    for row, drift in zip(table.rows, (0.8, 0.3), strict=True):
        assert row.entries["at strength"].estimate.mean == pytest.approx(expected, abs=0.02)
        assert row.entries["at drift"].estimate.mean == pytest.approx(drift * expected, abs=0.02)
        assert row.entries["at drift"].estimate.unit == "subjects"
    (compared,) = [c for c in table.comparisons if c.metric == "at drift"]
    assert compared.difference.mean == pytest.approx(0.5 * expected, abs=0.02)
    assert "lambda 0 - lambda 1: drift at identity 0.60 +0" in compared.sentence
    assert compared.verdict == ""


@pytest.mark.slow
def test_the_report_has_the_table_and_the_figure_of_frontiers(tmp_path):
    sweep = made_up_sweep(tmp_path / "two", axes=TWO)
    study = frontiers_in(sweep, lambda *_: rows_of(linear(0.7), linear(0.5), linear(0.5)))
    page = write_report(study, tmp_path / "report")
    assert "Frontiers: methods at equal fidelity" in page.read_text()
    assert (tmp_path / "report/tables/frontier.csv").is_file()
    assert (tmp_path / "report/figures/frontier.png").stat().st_size
    assert "area of 1 - drift" in (tmp_path / "report/report.md").read_text()


@pytest.mark.slow
def test_a_study_without_frontiers_has_neither(tmp_path):
    study = read_study([made_up_sweep(tmp_path / "two", axes=TWO)])
    assert frontier_table(Part(study)) is None
    assert "frontier" not in [figure.key for figure in write_figures(study, tmp_path / "figures")]
