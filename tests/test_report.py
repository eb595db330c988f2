"""`python src/report.py` as a user runs it."""

import csv
import os
import shutil

import pytest
from commands import command, process, smoke
from made_up import made_up_sweep

pytestmark = pytest.mark.slow

# Runs a script, and says what it took.
USED = """
import re, runpy, sys, time
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
# Not ru_maxrss, which begins with what the process was forked from.
print(time.process_time(), re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.fixture
def reports(tmp_path, monkeypatch):
    """runs/ and reports/ of a test of its own."""
    monkeypatch.setattr("dreambooth.reporting.report.RUNS", tmp_path / "runs")
    monkeypatch.setattr("dreambooth.reporting.report.REPORTS", tmp_path / "reports")
    return tmp_path / "reports"


def test_one_command_writes_page_markdown_tables_and_figures(tmp_path, reports):
    sweep = made_up_sweep(tmp_path / "runs" / "sweep_1")
    ended = command("report", f"sweep={sweep}")
    assert ended.code == 0, ended.output
    folder = reports / "sweep_1"
    assert ended.output.strip().endswith(str(folder / "index.html"))
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    for name in (
        *("index.html", "report.md", "tables/prior.tex", "tables/prior.csv"),
        *("tables/class_noun.tex", "tables/applications.csv", "tables/limitations.csv"),
    ):
        assert name in written
    figures = [name for name in written if name.startswith("figures/")]
    assert {name.rpartition(".")[2] for name in figures} == {"svg", "png"}
    page = (folder / "index.html").read_text()
    assert "the prior term keeps the class from language drift" in page
    markdown = (folder / "report.md").read_text()
    for name in figures:
        assert name.endswith(".svg") or f"({name})" in markdown
    with (folder / "tables/prior.csv").open(newline="") as file:
        *cells, floor = csv.DictReader(file)
    assert len(cells) == 6
    assert floor["label"] == "SD between seeds, as measured for miniature before"


def test_a_new_report_replaces_all_files_of_an_earlier_one(tmp_path, reports):
    large = made_up_sweep(tmp_path / "runs" / "large")
    small = made_up_sweep(tmp_path / "runs" / "small", axes={"seed": ("0", "1")})
    for name, sweep in (("same", large), ("same", small), ("fresh", small)):
        ended = command("report", f"sweep={sweep}", f"name={name}")
        assert ended.code == 0, ended.output
        own = reports / name / "figures" / "my own.png"
        own.touch()
    same, fresh = (
        {path.relative_to(reports / name) for path in (reports / name).rglob("*")}
        for name in ("same", "fresh")
    )
    assert same == fresh
    assert own.exists()
    command("report", f"sweep={large}", "name=same")
    assert {path.relative_to(reports / "same") for path in (reports / "same").rglob("*")} > fresh


def test_without_a_sweep_the_latest_is_reported_on(tmp_path, reports):
    for age, name in enumerate(("newer", "older")):
        sweep = made_up_sweep(tmp_path / "runs" / name, axes={"class": ("none", "wrong")})
        os.utime(sweep / "multirun.yaml", (1e9 - age, 1e9 - age))
    shutil.copytree(sweep / "0", tmp_path / "runs" / "single")  # no sweep
    ended = command("report")
    assert ended.code == 0, ended.output
    assert [path.name for path in reports.iterdir()] == ["newer"]


def test_several_sweeps_are_joined_under_a_name(tmp_path, reports):
    a = made_up_sweep(tmp_path / "a", axes={"prior.lambda": ("0",)})
    b = made_up_sweep(tmp_path / "b", axes={"prior.lambda": ("1",)})
    ended = command("report", f"sweep=[{a},{b}]", "name=both")
    assert ended.code == 0, ended.output
    assert "lambda 1 - lambda 0" in (reports / "both" / "report.md").read_text()


def test_failed_running_and_damaged_runs_are_reported(tmp_path, reports):
    reason = "the loss became nan at step 12"
    sweep = made_up_sweep(tmp_path / "s", failed={0: reason}, running=[1], damaged=[2])
    ended = command("report", f"sweep={sweep}")
    assert ended.code == 0, ended.output
    for name in ("report.md", "index.html"):
        text = (reports / "s" / name).read_text().replace("\u00a0", " ")
        for said in (reason, "running", "metrics.json is damaged", "hydra.run.dir="):
            assert said in text, (name, said)


def test_older_run_folders_are_reported_on_too(tmp_path, reports):
    sweep = made_up_sweep(tmp_path / "s", old=True)
    ended = command("report", f"sweep={sweep}")
    assert ended.code == 0, ended.output
    assert (reports / "s" / "index.html").is_file()


def test_a_sweep_without_scores_still_has_a_report(tmp_path, reports):
    sweep = made_up_sweep(tmp_path / "s", axes={"class": ("none", "wrong")})
    for run in ("0", "1"):
        (sweep / run / "metrics.json").write_text("{}")
    ended = command("report", f"sweep={sweep}")
    assert ended.code == 0, ended.output
    for page in ("index.html", "report.md"):
        text = (reports / "s" / page).read_text()
        assert "2 of 2 finished runs have no scores" in text
        assert f"python src/evaluate.py run={sweep}/0 metrics=paper" in text.replace("\\", "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "there is no sweep in {}/runs/: run one"),
        (["sweep={}/typo"], "there is no sweep folder {}/typo"),
        (["sweep={}"], "there are no runs in {}: give the folder of a sweep"),
        (["sweep={}/a", "name=.."], "name=.. names no folder"),
    ],
)
def test_a_missing_sweep_and_an_invalid_name_are_refused_in_one_sentence(
    tmp_path, reports, arguments, sentence
):
    if "sweep={}/a" in arguments:
        made_up_sweep(tmp_path / "a", axes={"class": ("none",)})
    ended = command("report", *(argument.format(tmp_path) for argument in arguments))
    assert ended.sentence.startswith(sentence.format(tmp_path))
    assert not reports.exists()


def test_a_folder_that_is_no_reports_is_refused_and_left_as_it_is(tmp_path, reports):
    sweep = made_up_sweep(tmp_path / "s", axes={"class": ("none",)})
    mine = tmp_path / "site"
    mine.mkdir()
    (mine / "index.html").write_text("mine")
    ended = command("report", f"sweep={sweep}", f"name={mine}")
    assert ended.sentence == (
        f"{mine} is not the folder of a report, and it holds other files (index.html): "
        "give name=, a new or an empty folder"
    )
    assert [path.read_text() for path in mine.iterdir()] == ["mine"]


def test_help_is_shown_without_loading_torch_or_matplotlib():
    code = (
        "import runpy, sys; sys.argv = ['src/report.py', '--cfg', 'job']\n"
        "runpy.run_path('src/report.py', run_name='__main__')\n"
        "assert not {'torch', 'matplotlib', 'scipy'} & set(sys.modules)"
    )
    ended = process("-c", code)
    assert ended.code == 0, ended.output
    assert "sweep: null" in ended.output


def test_a_sweep_prints_its_progress_and_writes_its_report_if_asked(tmp_path, tiny, reports):
    ended = command(
        "train",
        "-m",
        "prior.lambda=0,1",
        *smoke(tiny, tmp_path / "prior"),
        *("logger=csv", "report=auto", f"hydra.sweep.dir={tmp_path / 'cells'}"),
    )
    assert ended.code == 0, ended.output
    lines = ended.output.splitlines()
    heads = [line for line in lines if " of 2 cells: " in line]
    assert heads[0].startswith("1 of 2 cells: 1 finished, 1 to come; about ")
    assert heads[1] == "2 of 2 cells: 2 finished"
    assert lines[-1] == str(reports / "cells" / "index.html")
    page = (reports / "cells" / "index.html").read_text()
    assert "lambda 0" in page


def test_a_sweep_with_failed_cells_has_its_report_too(tmp_path, tiny, reports, monkeypatch):
    from dreambooth.experiment import Experiment

    train = Experiment.train

    def failing_without_a_prior(self):
        if self.prior.weight == 0:
            raise ValueError("no luck")
        train(self)

    monkeypatch.setattr(Experiment, "train", failing_without_a_prior)
    ended = command(
        "train",
        "-m",
        "prior.lambda=0,1",
        *smoke(tiny, tmp_path / "prior"),
        *("logger=csv", "report=auto", f"hydra.sweep.dir={tmp_path / 'cells'}"),
    )
    assert ended.code == 1
    assert "\n1 of 2 runs failed:\n" in ended.output
    assert "no luck" in (reports / "cells" / "report.md").read_text()


def test_180_runs_are_reported_on_in_two_minutes_and_three_gigabytes(tmp_path):
    subjects = [f"subject{i}" for i in range(30)]
    sweep = made_up_sweep(
        tmp_path / "s", subjects, images_per_prompt=2, num_class_images=50, picture_px=32
    )
    ended = process("-c", USED, "src/report.py", f"sweep={sweep}", f"name={tmp_path / 'report'}")
    assert ended.code == 0, ended.output
    seconds, kilobytes = map(float, ended.output.splitlines()[-1].split())
    assert seconds < 120  # of the processor, since other work may be on the machine
    assert kilobytes * 1024 < 3e9
    assert "180 runs (180 finished)" in (tmp_path / "report/report.md").read_text()
