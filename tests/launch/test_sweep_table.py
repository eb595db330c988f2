import csv
import io

import pytest
from rich.console import Console

from dreambooth.launch.sweep_table import parse_overrides, print_table, sweep_rows, write_csv
from dreambooth.runs.cells import write_cells
from dreambooth.runs.records import Metric
from dreambooth.runs.run import Run

IDENTITY = Metric(0.71234, 100, "cosine of the oracle's features", (0.65, 0.77))


def cell(folder, *overrides, state="finished", reason="", **metrics):
    run = Run.create(folder, {"overrides": list(overrides)})
    run.write_metrics(metrics)
    run.set_status(state, reason, progress=None if state == "finished" else 0.4)
    return run


@pytest.fixture
def sweep(tmp_path):
    cell(tmp_path / "0", "prior.lambda=0", "class=none", "seed=3", identity=IDENTITY)
    cell(tmp_path / "1", "prior.lambda=0", "class=wrong", "seed=3", state="running")
    cell(tmp_path / "2", "prior.lambda=1", "class=none", "seed=3", state="failed", reason="[/] NaN")
    cell(
        tmp_path / "3",
        "prior.lambda=1",
        "class=wrong",
        "seed=3",
        identity=Metric(1.0, 99, "by eye"),
    )
    (tmp_path / "3" / "metrics.json").unlink()
    write_cells(tmp_path, {str(n): [f"seed={n}"] for n in range(5)})  # 4 has not begun
    return tmp_path


def printed(rows, width=100):
    console = Console(width=width, record=True, file=io.StringIO())
    print_table(rows, console)
    return console.export_text()


def test_a_row_has_what_differs_then_the_state_then_the_metrics(sweep):
    rows = sweep_rows(sweep)
    assert list(rows[0]) == ["prior.lambda", "class", "run", "state", "reason", "identity"]
    assert rows[0]["identity"] == IDENTITY
    assert [row["prior.lambda"] for row in rows] == ["0", "0", "1", "1", ""]
    assert [row["class"] for row in rows] == ["none", "wrong", "none", "wrong", ""]


def test_a_metric_with_the_name_of_an_override_does_not_take_its_place(tmp_path):
    for number, noun in enumerate(["none", "wrong"]):
        cell(tmp_path / str(number), f"class={noun}", **{"class": IDENTITY})
    rows = sweep_rows(tmp_path)
    assert [(row["class"], row["class_score"]) for row in rows] == [
        ("none", IDENTITY),
        ("wrong", IDENTITY),
    ]
    assert "class score" in printed(rows)


def test_unfinished_and_damaged_runs_are_rows_with_their_reason(sweep):
    rows = sweep_rows(sweep)
    assert [row["state"] for row in rows] == [
        "finished",
        "running, 40 %",
        "failed",
        "damaged",
        "missing",
    ]
    assert rows[2]["reason"] == "[/] NaN"
    assert "metrics.json is missing" in rows[3]["reason"]


def test_an_override_that_one_run_lacks_is_a_column(tmp_path):
    cell(tmp_path / "0", "class=none")
    cell(tmp_path / "1", "class=none", "+trainer.max_steps=2")
    assert [row["trainer.max_steps"] for row in sweep_rows(tmp_path)] == ["", "2"]
    assert all("class" not in row for row in sweep_rows(tmp_path))


def test_overrides_of_every_form_are_parsed():
    overrides = ["a.b=1", "+c='x=y'", "++d=", "~e", "class@other=none"]
    assert parse_overrides(overrides) == {
        "a.b": "1",
        "c": "'x=y'",
        "d": "",
        "e": "deleted",
        "class@other": "none",
    }


def test_a_folder_without_runs_is_named(tmp_path):
    with pytest.raises(ValueError, match="no runs in"):
        sweep_rows(tmp_path)


def test_the_table_shows_interval_reason_and_protocol(sweep):
    text = printed(sweep_rows(sweep))
    assert "0.712" in text
    assert "(0.650, 0.770)" in text
    assert "run 2 failed: [/] NaN" in text
    assert "running, 40 %" in text
    assert "identity: cosine of the oracle's features (n = 100)" in text


def test_the_table_fits_a_narrow_terminal(sweep):
    rows = sweep_rows(sweep)
    for name in ("class_correct", "context_kept", "class_prompt_identity"):
        rows[0][name] = IDENTITY
    text = printed(rows, width=80)
    assert max(map(len, text.splitlines())) <= 80
    for whole in ("lambda", "finished", "correct", "identity"):
        assert whole in text.partition("run 2 failed")[0]
    assert text.count("(0.650,") == text.count("0.770)") == 4  # nothing is cut off


def test_metrics_that_do_not_fit_beside_each_other_follow_in_tables_of_their_own(tmp_path):
    names = [f"metric{i}" for i in range(12)]
    for number, noun in enumerate(["none", "wrong"]):
        cell(tmp_path / str(number), f"class={noun}", **dict.fromkeys(names, IDENTITY))
    text = printed(sweep_rows(tmp_path), width=80)
    assert max(map(len, text.partition("Under each value")[0].splitlines())) <= 80
    headings = [line.split() for line in text.splitlines() if line.startswith("class")]
    assert len(headings) == 3
    assert all(heading[:2] == ["class", "state"] for heading in headings)
    assert [name for heading in headings for name in heading[2:]] == names
    assert text.count("(0.650, 0.770)") == 2 * len(names)  # none is cut or folded
    assert len(printed(sweep_rows(tmp_path), width=300).partition("class")[2].split("class")) == 1


def test_a_number_that_a_run_could_not_have_is_a_dash(tmp_path):
    cell(tmp_path / "0", "seed=0", pres=Metric(float("nan"), 0, "no images"))
    cell(tmp_path / "1", "seed=1", pres=Metric(0.25, 4, "no images"))
    text = printed(sweep_rows(tmp_path))
    assert "nan" not in text
    assert text.splitlines()[2].split()[-1] == "-"


def test_headings_are_shortened_where_that_leaves_no_doubt(tmp_path):
    cell(tmp_path / "0", "model.name=a", "subject.name=a", "prior.lambda=0")
    cell(tmp_path / "1", "model.name=b", "subject.name=b", "prior.lambda=1")
    heading = printed(sweep_rows(tmp_path)).splitlines()[0].split()
    assert heading == ["model.name", "subject.name", "lambda", "state"]


def test_runs_that_their_settings_do_not_tell_apart_are_named(tmp_path):
    for name in ("a", "b"):
        cell(tmp_path / name, "seed=0")
    lines = printed(sweep_rows(tmp_path)).splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["a", "b"]


def test_runs_measured_differently_are_not_passed_off_as_one(tmp_path):
    cell(tmp_path / "0", "seed=0", identity=IDENTITY)
    cell(tmp_path / "1", "seed=1", identity=Metric(0.5, 20, "by eye"))
    assert "oracle's features; or by eye (n = 20..100" in printed(sweep_rows(tmp_path))


def test_the_csv_has_a_column_for_each_part_of_a_metric(sweep, tmp_path):
    write_csv(sweep_rows(sweep), tmp_path / "sweep.csv")
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert rows[0]["class"] == "none"
    assert float(rows[0]["identity"]) == IDENTITY.value
    assert (float(rows[0]["identity_low"]), float(rows[0]["identity_high"])) == IDENTITY.ci95
    assert rows[0]["identity_count"] == "100"
    assert rows[0]["identity_protocol"] == IDENTITY.protocol
    assert rows[2]["reason"] == "[/] NaN"
    assert rows[2]["identity"] == ""
