"""What a sweep says of itself after each cell."""

import io
import json

import pytest
from made_up import made_up_sweep
from rich.console import Console

from dreambooth.launch.sweep_progress import format_duration, print_progress


def told(folder, width=100):
    file = io.StringIO()  # no terminal, as when the output goes to a file
    print_progress(folder, console=Console(file=file, width=width))
    return file.getvalue()


def test_cells_are_counted_by_state_with_the_time_left(tmp_path):
    sweep = made_up_sweep(
        tmp_path / "s", failed={1: "NaN"}, running=[3], missing=[4, 5], picture_px=8
    )
    lines = told(sweep).splitlines()
    assert lines[1] == "3 of 6 cells: 2 finished, 1 failed, 1 running, 2 to come; about 5 min left"
    assert "\x1b" not in told(sweep)


def test_scores_come_with_the_last_cells(tmp_path):
    sweep = made_up_sweep(tmp_path / "s", failed={1: "NaN"}, damaged=[2], missing=[5])
    text = told(sweep)
    heading = next(line for line in text.splitlines() if "identity" in line)
    assert heading.split()[:4] == ["cell", "state", "time", "identity"]
    value = json.loads((sweep / "0/metrics.json").read_text())["identity"]["value"]
    row = next(line for line in text.splitlines() if "lambda=0 class=none" in line)
    assert row.split()[2:6] == ["finished", "2", "min", f"{value:.3f}"]
    assert next(line for line in text.splitlines() if "class=wrong" in line).split()[2] == "failed"


def test_time_in_the_queue_and_between_two_starts_is_not_counted(tmp_path):
    sweep = made_up_sweep(tmp_path / "s", axes={"prior.lambda": ("0", "1", "2")}, missing=[2])
    for name in ("0", "1"):
        path = sweep / name / "status.json"
        path.write_text(path.read_text().replace("T12:00:00", "T02:00:00"))  # queued at 2
    text = told(sweep)
    assert "1 to come; about 2 min left" in text
    assert "2 min" in next(line for line in text.splitlines() if "lambda=0" in line)
    (sweep / "0" / "provenance.json").unlink()  # of an earlier version
    assert "10 h 2 min" in told(sweep)


def test_it_fits_a_narrow_terminal_and_shows_the_last_cells_only(tmp_path):
    sweep = made_up_sweep(tmp_path / "s", ("biscuit", "comet"), (0, 1), num_class_images=2)
    text = told(sweep, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("lambda=") == 6
    assert "24 of 24 cells: 24 finished" in text
    assert "left" not in text


def test_a_sweep_whose_values_are_not_listed_has_runs_by_number(tmp_path):
    sweep = made_up_sweep(tmp_path / "s", axes={"prior.lambda": ("0", "1")})
    (sweep / "multirun.yaml").write_text("hydra: {overrides: {task: ['seed=glob(*)']}}")
    text = told(sweep)
    assert "2 of 2 cells: 2 finished" in text
    assert "\n 0 " in text


@pytest.mark.parametrize(
    ("seconds", "words"), [(8.4, "8 s"), (61, "1 min"), (3599, "1 h 0 min"), (7800, "2 h 10 min")]
)
def test_times_are_told_in_words(seconds, words):
    assert format_duration(seconds) == words
