"""Whole runs: the literal sweep of the README, repetition, and how runs end."""

import csv
import json
import math
import shutil

import pytest
import torch
from commands import command, process, same_files, smoke, train
from offline_wandb import read_offline
from PIL import Image

from dreambooth.backbones.cascade import CascadeStage
from dreambooth.experiment import Experiment
from dreambooth.launch.sweep_table import SUPER_RESOLUTION_METRICS
from dreambooth.runs.cells import find_runs
from dreambooth.runs.run import Run

pytestmark = pytest.mark.slow

CELLS = [(weight, noun) for weight in (0, 1) for noun in ("none", "wrong", "correct")]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, tiny):
    """The command of the README, made small, in a process of its own."""
    folder = tmp_path_factory.mktemp("sweep")
    ended = process(
        "src/train.py",
        "-m",
        "prior.lambda=0,1",
        "class=none,wrong,correct",
        *smoke(tiny, folder / "prior"),
        f"hydra.sweep.dir={folder / 'cells'}",
    )
    assert ended.code == 0, ended.output
    return folder, ended.output


def test_the_sweep_leaves_six_finished_runs(sweep):
    folder, output = sweep
    runs = find_runs(folder / "cells")
    assert [run.status().state for run in runs] == ["finished"] * 6
    assert [(r.config["prior"]["lambda"], r.config["class"]["choice"]) for r in runs] == CELLS
    for run in runs:
        assert (run.weights / "base" / "diffusion_pytorch_model.safetensors").is_file()
        assert len(run.images.read("prompts")) == 25
        assert len(run.read_scores()) == 25 + 2 + 16
        own = {"identity", "clean", "class_accuracy", "context_accuracy", "drift", "diversity"}
        own |= {"dino", "clip_i", "clip_t", "pres", "div", "copy", "copied", "copied_null"}
        assert set(run.read_metrics()) == own | set(SUPER_RESOLUTION_METRICS) - {"sr_lpips"}
    assert "Traceback" not in output


def test_the_class_choice_decides_the_subjects_words_only(sweep):
    words = [run.read_names() for run in find_runs(sweep[0] / "cells")]
    assert [w["class_noun"] for w in words[:3]] == [None, words[1]["class_noun"], "dog"]
    assert words[1]["class_noun"] not in (None, "dog")
    assert [w["prior_noun"] for w in words] == ["dog", words[1]["class_noun"], "dog"] * 2
    assert len({w["identifier"] for w in words}) == 1


def test_prior_images_are_made_once_for_each_class_prompt_and_none_without_lambda(sweep):
    folder, output = sweep
    prompts = [
        json.loads(path.read_text())["key"]["prompt"]
        for path in (folder / "prior").glob("*/manifest.json")
    ]
    nouns = {run.read_names()["prior_noun"] for run in find_runs(folder / "cells")}
    assert sorted(prompts) == sorted(f"a {noun}" for noun in nouns)
    told = [line for line in output.splitlines() if "prior images:" in line]
    assert [line.rpartition("(")[2] for line in told] == [
        "2 made now)",
        "2 made now)",
        "0 made now)",
    ]


def test_each_cell_is_a_wandb_run_in_the_sweeps_group(sweep):
    folder, _ = sweep
    for run, (weight, noun) in zip(find_runs(folder / "cells"), CELLS, strict=True):
        kept = read_offline(run.folder)
        assert kept.group == "cells"
        assert f"prior.lambda={weight}" in kept.name
        assert kept.config["prior"]["lambda"] == weight
        assert kept.config["class"]["choice"] == noun
        assert kept.config["method"]["max_steps"] == 2
        assert len(kept.history["loss/subject"]) == 2
        assert len(kept.history["loss/prior"]) == (2 if weight else 0)
        assert len(kept.history["time/step_ms"]) == 2
        for name, metric in run.read_metrics().items():
            if not math.isnan(metric.value):  # DIV, of one image a prompt
                assert kept.history[f"score/{name}"] == [pytest.approx(metric.value)]
        ((grid,),) = kept.history["images/filenames"]  # 5 x 5 images, 1 px between them
        ((captions,),) = kept.history["images/captions"]
        assert len(captions.split("; ")) == 25
        (path,) = run.folder.glob(f"wandb/offline-run-*/files/{grid}")
        with Image.open(path) as image:
            assert image.size == (5 * 65 + 1, 5 * 65 + 1)
        assert kept.exit_code == 0


def test_the_sweeps_table_is_printed_once_and_written(sweep):
    folder, output = sweep
    with (folder / "cells" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["prior.lambda"]), row["class"]) for row in rows] == CELLS
    assert {row["state"] for row in rows} == {"finished"}
    for row, run in zip(rows, find_runs(folder / "cells"), strict=True):
        for name, metric in run.read_metrics().items():
            assert float(row[name]) == pytest.approx(metric.value, nan_ok=True)
            assert row[f"{name}_protocol"] == metric.protocol
    headings = [line for line in output.splitlines() if "lambda" in line and "identity" in line]
    assert len(headings) == 1
    assert output.count("sweep.csv") == 1


def test_every_cell_is_drawn_from_the_same_noise(tiny, tmp_path, monkeypatch):
    """Of the base stage's first step in each batch of images, whatever the cell is called."""
    seen = []
    predict = CascadeStage.predict

    def watched(self, z_t, t, condition):
        if self.name == "base" and int(t[0]) == 999 and not torch.is_grad_enabled():
            seen.append(z_t.clone())
        return predict(self, z_t, t, condition)

    monkeypatch.setattr(CascadeStage, "predict", watched)
    noise = []
    for cell in (("class=none",), ("class=wrong",), ("class=correct", "seed=1")):
        seen.clear()
        ended = train(tiny, tmp_path / cell[0][6:], *cell, "prior=off", "metrics=none")
        assert ended.code == 0, ended.output
        noise.append(torch.cat(seen))
    assert len(noise[0].flatten(1).unique(dim=0)) == 25 + 2  # another for each image
    assert torch.equal(noise[1], noise[0])
    assert torch.equal(noise[2], noise[0])


def test_the_same_command_twice_gives_the_same_bits(tiny, finished, tmp_path):
    ended = train(tiny, tmp_path / "run")
    assert ended.code == 0, ended.output
    assert same_files(finished, tmp_path / "run", "*.safetensors")
    assert same_files(finished / "images", tmp_path / "run" / "images", "*.png")
    assert same_files(finished, tmp_path / "run", "scores.csv")


def test_another_seed_gives_other_weights_and_pictures(tiny, finished, tmp_path):
    assert train(tiny, tmp_path / "run", "seed=1").code == 0
    assert not same_files(finished / "weights/base", tmp_path / "run/weights/base", "*.safetensors")
    assert not same_files(finished / "images/prompts", tmp_path / "run/images/prompts", "*.png")
    assert same_files(finished / "images/photos", tmp_path / "run/images/photos", "*.png")


def test_only_the_base_denoiser_is_trained(tiny, finished):
    for part in ("sr", "text_encoder"):
        assert same_files(tiny / part, finished / "weights" / part, "*.safetensors")
    assert not same_files(tiny / "base", finished / "weights" / "base", "*.safetensors")


def test_losses_of_both_terms_are_logged_separately(finished):
    rows = Run.load_finished(finished).read_history()
    assert len(rows) == 2
    assert all(row["loss/prior"] > 0 for row in rows)
    assert rows[0]["loss/prior"] != rows[0]["loss/subject"]


def test_without_lambda_there_is_no_prior_at_all(tiny, tmp_path):
    ended = train(tiny, tmp_path / "run", "prior=off", "metrics=none")
    assert ended.code == 0, ended.output
    assert not (tmp_path / "prior").exists()
    assert "loss/prior" not in (tmp_path / "run/history.csv").read_text()


def test_a_finished_run_is_reported_and_left_alone(tiny, finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "run")
    shutil.copytree(finished.parent / "prior", tmp_path / "prior")
    overrides = f"prior.cache={finished.parent / 'prior'}"  # which the config names
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*.png")}
    ended = train(tiny, copy, overrides)
    assert ended.code == 0, ended.output
    assert "this run is finished" in ended.output
    assert {p: p.stat().st_mtime_ns for p in copy.rglob("*.png")} == before


def test_a_failed_cell_does_not_stop_the_sweep(tiny, tmp_path, monkeypatch):
    train = Experiment.train

    def failing_with_a_prior(self):
        if self.prior.weight:
            raise ValueError("no luck")
        train(self)

    monkeypatch.setattr(Experiment, "train", failing_with_a_prior)
    ended = command(
        "train",
        "-m",
        "method.module.learning_rate=1e30,1e-4",
        "prior.lambda=1,0",
        *smoke(tiny, tmp_path / "prior"),
        "logger=csv",
        "metrics=none",
        f"hydra.sweep.dir={tmp_path / 'cells'}",
    )
    assert ended.code == 1
    runs = find_runs(tmp_path / "cells")
    assert [run.status().state for run in runs] == ["failed", "failed", "failed", "finished"]
    reasons = [run.status().reason for run in runs[:3]]
    assert reasons[0] == reasons[2]
    assert reasons[0] == "no luck"
    assert reasons[1].startswith("the loss became nan at step 1")
    told = ended.output.partition("3 of 4 runs failed:\n")[2]
    for run, reason in zip(runs[:3], reasons, strict=True):
        log = run.folder / "train.log"
        assert f"  {run.folder.name}: {reason}\n    {log}\n" in told
        assert reason in log.read_text()
    assert "lambda-0+learning_rate-1e-4" not in told
    assert "Traceback" not in ended.output
    with (tmp_path / "cells/sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["reason"] for row in rows] == [*reasons, ""]


def test_a_diverged_run_names_the_step_and_the_learning_rate(tiny, tmp_path):
    ended = train(tiny, tmp_path / "run", "method.module.learning_rate=1e30", "prior=off")
    assert ended.code == 1
    assert "Traceback" not in ended.output
    status = Run(tmp_path / "run", {}).status()
    assert status.state == "failed"
    assert status.reason in ended.output
    assert "at step 1: lower method.module.learning_rate (it is 1e+30)" in status.reason


def test_an_interrupted_run_is_marked_interrupted(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("dreambooth.experiment.Experiment.draw", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path / "run")
    assert Run(tmp_path / "run", {}).status().reason == "interrupted"


def _interrupted(_):
    raise KeyboardInterrupt


def test_the_config_is_shown_without_loading_torch():
    code = (
        "import runpy, sys; sys.argv = ['src/train.py', '--cfg', 'job']\n"
        "runpy.run_path('src/train.py', run_name='__main__')\n"
        "assert 'torch' not in sys.modules"
    )
    ended = process("-c", code)
    assert ended.code == 0, ended.output
    assert "lambda: 1" in ended.output
