"""What a run leaves for its report: history.csv, provenance.json and images/before."""

import platform
import sys
import time
from pathlib import Path

import pytest
from commands import process, same_files, train

from dreambooth.runs.provenance import provenance, timed
from dreambooth.runs.run import Run
from dreambooth.training.loggers import History


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "0", {"overrides": []})


@pytest.mark.slow
def test_a_run_keeps_what_made_it(finished):
    kept = Run.load_finished(finished).read_provenance()
    assert kept["command"].startswith("python src/train.py experiment=smoke")
    assert set(kept["seconds"]) == {"train", "prior_images", "draw", "score"}
    assert all(seconds > 0 for seconds in kept["seconds"].values())
    assert kept["peak_memory_bytes"] > 1e8
    assert {"python", "torch", "diffusers"} <= set(kept["versions"])
    assert kept["hardware"]["cores"] >= 1
    assert set(kept["git"]) in ({"commit", "dirty"}, set())


def test_provenance_does_not_name_the_machine():
    assert platform.node() not in f"{provenance() | {'command': ''}}"


def test_seconds_add_up_and_are_kept_when_a_part_fails(run):
    run.write_provenance({"code": "abc"})
    with timed(run, "train"):
        time.sleep(0.01)
    before = run.read_provenance()["seconds"]["train"]
    with pytest.raises(KeyError), timed(run, "train"):
        raise KeyError
    kept = run.read_provenance()
    assert kept["code"] == "abc"
    assert kept["seconds"]["train"] >= before >= 0.01


def test_seconds_of_a_part_are_not_counted_again_in_the_part_around_it(run):
    started = time.monotonic()
    with timed(run, "train"):
        time.sleep(0.05)
        with timed(run, "prior_images"):
            time.sleep(0.1)
    seconds = run.read_provenance()["seconds"]
    assert seconds["prior_images"] >= 0.1
    assert 0.05 <= sum(seconds.values()) <= time.monotonic() - started + 0.001


# In a process of its own: other tests leave threads and memory behind.
PEAKS = """
import sys
from pathlib import Path

from dreambooth.runs.provenance import begin_provenance, timed
from dreambooth.runs.run import Run

run = Run.create(Path(sys.argv[1]), {"overrides": []})
begin_provenance(run)  # loads what it needs
held = bytearray(b"x" * 2**20) * 200
with timed(run, "before"):
    pass
before = run.read_provenance()["peak_memory_bytes"]
del held
begin_provenance(run)
with timed(run, "train"):
    pass
print(before - run.read_provenance()["peak_memory_bytes"])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is the process's elsewhere")
def test_the_peak_memory_is_of_the_run_and_not_of_the_process(tmp_path):
    ended = process("-c", PEAKS, tmp_path / "run")
    assert ended.code == 0, ended.output
    assert int(ended.output.split()[-1]) > 150 * 2**20


@pytest.mark.parametrize("told", ["VmRSS:  5 kB\n", None])
def test_where_the_peak_is_not_told_it_is_the_processs(run, monkeypatch, told):
    read = Path.read_text

    def without(path, *arguments, **options):
        if path == Path("/proc/self/status"):
            if told is None:
                raise OSError
            return told
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", without)
    with timed(run, "train"):
        pass
    assert run.read_provenance()["peak_memory_bytes"] > 1e8


@pytest.mark.slow
def test_the_history_of_a_run_that_fails_is_written(tiny, tmp_path):
    ended = train(tiny, tmp_path / "run", "method.module.learning_rate=1e30", "prior=off")
    assert ended.code == 1
    (row,) = Run(tmp_path / "run", {}).read_history()  # it diverges at the second step
    assert row["step"] == 0
    assert row["loss/subject"] > 0
    assert "train" in Run(tmp_path / "run", {}).read_provenance()["seconds"]


def test_columns_of_a_stage_have_its_prefix_and_rows_of_one_step_are_one(run):
    history = History(run)
    history.log_metrics({"loss/subject": 0.5, "epoch": 0}, step=9)
    history.log_metrics({"curves/dino": 0.25, "curves/div": float("nan")}, step=9)
    history.log_metrics({"sr/loss/subject": 0.125, "time/step_ms": 3.0}, step=9)
    history.finalize("failed")
    assert run.read_history() == [
        {"step": 9, "loss/subject": 0.5, "curves/dino": 0.25},
        {"step": 9, "sr/loss/subject": 0.125, "sr/time/step_ms": 3.0},
    ]


@pytest.mark.slow
def test_both_stages_are_in_the_history(tiny, tmp_path):
    ended = train(tiny, tmp_path / "run", "sr=noise_1e-3", "metrics=none")
    assert ended.code == 0, ended.output
    history = Run.load_finished(tmp_path / "run").read_history()
    assert [("loss/subject" in row, "sr/loss/subject" in row) for row in history] == [
        (True, False),
        (True, False),
        (False, True),
        (False, True),
    ]


@pytest.mark.slow
def test_before_training_the_class_is_drawn_from_the_noise_of_after(finished, tiny, tmp_path):
    run = Run.load_finished(finished)
    before, after = run.images.read("before"), run.images.read("class")
    assert [(p.prompt, p.template, p.index) for p in before] == [
        (p.prompt, p.template, p.index) for p in after[:8]
    ]
    assert (before[0].pixels != after[0].pixels).any()
    # Of the frozen model: whatever is trained, and for how long, they are the same.
    assert train(tiny, tmp_path / "run", "method.module.learning_rate=1e-2").code == 0
    assert same_files(finished / "images/before", tmp_path / "run/images/before", "*.png")
    assert not same_files(finished / "images/class", tmp_path / "run/images/class", "*.png")


def test_older_folders_have_neither(run):
    assert run.read_history() == []
    assert run.read_provenance() == {}
