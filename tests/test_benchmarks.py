"""The benchmarks load, and some are run; kills.py by tests/test_kills.py."""

import json
import re
import runpy

import numpy as np
import pytest
import torch
from commands import ROOT, here
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import save_file

from dreambooth.miniature import load_backbone

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_every_benchmark_loads(path, monkeypatch):
    monkeypatch.syspath_prepend(path.parent)
    assert callable(runpy.run_path(str(path))["main"])


def test_the_shipped_encoders_recognize_drawn_scenes(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    found = runpy.run_path(str(ROOT / "benchmarks/encoders.py"))["measure"](500)
    assert found["CLIP class"] >= 0.95
    assert found["CLIP context"] >= 0.95
    assert found["DINO identity AUC"] >= 0.78
    assert found["DINO identity AUC"] > found["CLIP-I identity AUC"]  # the paper's claim


SCRIPT = """
import argparse, json, pathlib, torch

def parse_args(words):
    return dict(word.lstrip("-").split("=") if "=" in word else (word[2:], None) for word in words)

def main(arguments):
    pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(arguments))
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([weight])
    while True:
        sum(torch.ones(300, 300).mm(torch.ones(300, 300)).mean() for _ in range(20))
        weight.grad = torch.ones(1)
        optimizer.step()
"""


@pytest.mark.parametrize("model", ["miniature", "sdxl"])
def test_the_script_cannot_train_other_models(tmp_path, model):
    ended = here("benchmarks/step.py", "--script", tmp_path / "script.py", f"model={model}")
    assert ended.code == 2
    assert "--script trains Stable Diffusion only: add --random PX or model=sd15" in ended.output


@pytest.mark.slow
@pytest.mark.parametrize("model", ["stable_diffusion_xl", "deepfloyd", "flux"])
def test_a_step_of_another_model_takes_turns_with_the_bare_loop(request, model):
    settings = (*request.getfixturevalue(model), "subject=olive", "trainer=cpu")
    ended = here("benchmarks/step.py", "--turns", 2, "--steps", 3, *settings)
    assert ended.code == 0, ended.output
    assert len(re.findall(r"^ours [\d.]+ ms, bare [\d.]+ ms$", ended.output, re.M)) == 2


def test_a_step_takes_turns_with_the_bare_loop_and_the_script(tmp_path, stable_diffusion):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    settings = (*stable_diffusion, "subject=olive", "trainer=cpu", "method.batch_size=2")
    turns = ("--script", script, "--turns", 3, "--steps", 4)
    ended = here("benchmarks/step.py", *turns, *settings)
    assert ended.code == 0, ended.output
    lines = re.findall(
        r"^ours ([\d.]+) ms, bare ([\d.]+) ms, script ([\d.]+) ms$", ended.output, re.M
    )
    ours, bare, of_script = np.array(lines, float).T
    assert len(ours) == 3
    for name, ratios in {"ours / bare": ours / bare, "script / ours": of_script / ours}.items():
        told = re.search(rf"^{name}: median ratio (.*), from (.*) to ([\d.]+) ", ended.output, re.M)
        expected = [np.median(ratios), min(ratios), max(ratios)]
        assert [float(x) for x in told.groups()] == pytest.approx(expected, rel=0.02)
    assert 0.5 < np.median(ours / bare) < 5, "a run does what the bare loop does, and more"
    given = json.loads(script.with_suffix(".json").read_text())
    assert given["pretrained_model_name_or_path"] == stable_diffusion[1].partition("=")[2]
    assert (given["train_batch_size"], given["resolution"], given["mixed_precision"]) == (
        *("2", "64"),
        "no",
    )
    assert "with_prior_preservation" in given


def test_the_coverage_of_intervals_is_printed():
    ended = here("benchmarks/coverage.py", 20)
    assert ended.code == 0, ended.output
    lines = [line for line in ended.output.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + 9 + 5 + 3 + 1 + 4
    entries = re.findall(r"\| ([\d.]+) / ([\d.]+|-) ", ended.output)
    assert len(entries) == (9 + 5) * 6
    assert 92 <= np.mean([float(covered) for covered, _ in entries]) <= 99
    assert 1 <= np.mean([float(rejected) for _, rejected in entries if rejected != "-"]) <= 8


def test_the_miniatures_quality_is_reported_beside_its_floor(tmp_path):
    sheet = tmp_path / "samples.png"
    ended = here("benchmarks/miniature_quality.py", 12, "--samples", sheet)
    assert ended.code == 0, ended.output
    for name in ("Frechet distance", "... / variance", "... above floor", "precision", "recall"):
        rows = re.findall(rf"^{re.escape(name)} +(.*)$", ended.output, re.MULTILINE)
        assert len(rows) == 2, ended.output  # of both extractors
        assert all(len([float(value) for value in row.split()]) == 4 for row in rows), rows
    assert re.search(r"^class +\d+\.\d%  of 12$", ended.output, re.MULTILINE), ended.output
    assert ended.output.count("entropy of bare nouns: mean ") == 2
    assert "ms an image" in ended.output
    assert Image.open(sheet).width == 8 * 140 + 12


def test_the_quality_benchmark_refuses_invalid_arguments(tmp_path):
    ended = here("benchmarks/miniature_quality.py", 9)
    assert ended.code == 2
    assert "num_prompts is 9: give at least 10" in ended.output
    with pytest.raises(ValueError, match="is not a folder: give one that holds a DINO ViT"):
        here("benchmarks/miniature_quality.py", 10, "--extractor", tmp_path / "none")


SAME_BITS = runpy.run_path(str(ROOT / "benchmarks/same_bits.py"))
MEMORY = runpy.run_path(str(ROOT / "benchmarks/memory.py"))  # computes what is asked twice once


def recorded(folder, weight=0.5, pixel=7, score=0.25, protocol="mean cosine", time="1"):
    """The record of a run that left these; `time` is also in the metadata of its files."""
    folder.mkdir()
    tensors = {"a": np.float32([weight, 2]), "b": np.zeros((2, 3), np.float32)}
    save_file(tensors, folder / "model.safetensors", {"time": time})
    info = PngInfo()
    info.add_text("time", time)
    Image.new("RGB", (4, 4), (pixel, 0, 0)).save(folder / "dog.png", pnginfo=info)
    (folder / "scores.csv").write_text(f'"index","dino"\n0,{score}\n')
    (folder / "history.csv").write_text(f'"step","time/step_ms"\n0,{time}\n')
    metrics = {"dino": {"value": 0.9, "ci95": None, "protocol": protocol}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "provenance.json").write_text(json.dumps({"seconds": time}))
    return SAME_BITS["bits_of"](folder)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({}, None),
        ({"time": "2"}, None),
        ({"weight": 0.5000001}, "model.safetensors"),
        ({"pixel": 8}, "dog.png"),
        ({"score": 0.26}, "scores.csv: dino"),
        ({"protocol": "median cosine"}, "metrics.json: dino.protocol"),
    ],
)
def test_each_changed_weight_picture_and_score_is_one_difference(tmp_path, changed, what):
    before = {"cell": recorded(tmp_path / "before"), "sr": {"dog.png": "0"}}
    after = {"cell": recorded(tmp_path / "after", **changed), "sr": {"dog.png": "0"}}
    found = SAME_BITS["differences"](before, after)
    assert [(d.run, d.what) for d in found] == ([("cell", what)] if what else [])
    assert all(d.before != d.after for d in found)
    assert SAME_BITS["differences"](before, after, [f"cell: {what}"]) == []


def test_a_missing_run_and_a_missing_picture_are_one_difference_each():
    before = {"cell": {"a.png": "0", "b.png": "1"}, "sr": {"a.png": "0", "b.png": "1"}}
    after = {"cell": {"b.png": "1", "c.png": "2"}, "new": {}}
    assert [str(d) for d in SAME_BITS["differences"](before, after)] == [
        "cell: a.png: 0 -> missing",
        "cell: c.png: missing -> 2",
        "sr: the run: recorded -> missing",
        "new: the run: missing -> recorded",
    ]


def test_comparing_records_prints_a_line_for_each_difference_and_fails(tmp_path):
    record = {"cell": {"a.png": "0" * 64}}
    (tmp_path / "a.json").write_text(json.dumps(record))
    record["cell"]["a.png"] = "1" * 64
    (tmp_path / "b.json").write_text(json.dumps(record))
    words = ("benchmarks/same_bits.py", "compare", tmp_path / "a.json")
    assert here(*words, tmp_path / "a.json").code == 0
    ended = here(*words, tmp_path / "b.json")
    assert ended.code == 1
    assert ended.output.splitlines() == [
        "cell: a.png: 000000000000 -> 111111111111",
        "differences: 1 of 1 hashes and values",
    ]


@pytest.fixture
def record(tmp_path, monkeypatch):
    """Records one run of a checkout whose training is this script, and is told to stop."""

    def record(training):
        script = tmp_path / "checkout" / "src" / "renamed.py"
        script.parent.mkdir(parents=True)
        script.write_text(training)
        known = SAME_BITS["record"].__globals__
        monkeypatch.setitem(known, "RUNS", {"prior": "{train} {folder}"})
        monkeypatch.setitem(known, "STOPPED", {"prior": ("*.ckpt", "{train} {folder}")})
        scripts = SAME_BITS["scripts"](["train=src/renamed.py"])
        bits = SAME_BITS["record"](tmp_path / "checkout", tmp_path / "out", tmp_path, scripts)
        return json.loads(bits.read_bytes())

    return record


TRAINING = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
if (folder / "a.ckpt").exists():
    (folder / "names.json").write_text('{"resumed": true}')
else:
    (folder / "a.ckpt").touch()
    time.sleep(TIME)
"""


def test_a_recorded_run_is_stopped_and_resumed_by_the_renamed_script(record):
    assert record(TRAINING.replace("TIME", "60")) == {"prior": {"names.json: resumed": "True"}}


def test_a_run_that_ends_before_it_is_stopped_is_an_error(record):
    with pytest.raises(SystemExit, match="a run ended before it was stopped"):
        record("print('nothing')")


def test_a_lora_is_below_2_percent_of_the_model_in_checkpoint_and_weights(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    found = runpy.run_path(str(ROOT / "benchmarks/adapters.py"))
    sizes = {}
    for name in ("lora", "none"):
        steps, folder = found["Steps"](name), tmp_path / name
        backbone = load_backbone(None)
        method = found["method_of"](name)
        if name == "lora":
            for stage in backbone.stages.values():
                method.prepare(stage)
        folder.mkdir()
        method.save(backbone, folder)
        weights = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        state = {"state_dict": steps.module.state_dict(), "optimizer": steps.optimizer.state_dict()}
        torch.save(state, tmp_path / f"{name}.ckpt")
        sizes[name] = (weights, (tmp_path / f"{name}.ckpt").stat().st_size)
    for adapter, whole in zip(*sizes.values(), strict=True):
        assert 0 < adapter < 0.02 * whole
    true_size = found["trained_at_true_size"]
    assert true_size("none") == 859_520_964  # that of the published U-Net
    assert 0 < true_size("lora") < 0.02 * true_size("none")


def test_a_model_of_true_size_has_the_memory_that_its_parameters_ask_for():
    unet, vae = 859_520_964, 83_653_863  # parameters: tests/backbones/test_true_sizes.py
    training, drawing = MEMORY["memory_with"]("model=sd15", "trainer=gpu_16gb")
    assert training.weights == training.gradients == 4 * unet
    assert training.optimizer == pytest.approx(2 * (1 + 4 / 256) * unet, rel=0.01)
    assert training.weights + training.gradients + training.optimizer < training.peak < 16e9
    assert drawing.weights == pytest.approx(2 * unet + 4 * vae, rel=0.01)
    assert drawing.weights < drawing.peak < drawing.weights + 2e9


@pytest.mark.slow
def test_readme_has_the_memory_of_the_default_trainer():
    training, _ = MEMORY["memory_with"]("model=sd15")
    readme = (ROOT / "README.md").read_text()
    assert f"takes {training.peak / 1e9:.1f} GB of GPU memory in float32" in readme


@pytest.mark.slow
@pytest.mark.parametrize("words", ["sd15", "sd15 adapter=lora", "flux2_klein adapter=lora"])
def test_the_guide_has_the_memory_of_a_model_with_each_preset(words):
    row = MEMORY["row"]
    assert row(*words.split()) in (ROOT / "docs/getting-started.md").read_text()


def test_free_outputs_learn_what_the_description_does_not_say(tiny, tmp_path):
    small = ("method.max_steps=30", "prior.num_images=2", f"prior.cache={tmp_path / 'prior'}")
    small = (*small, f"model.backbone.pretrained={tiny}", "subject=comet")
    ended = here("benchmarks/textual_inversion.py", *small)
    assert ended.code == 0, ended.output
    rows = re.findall(r"^comet (.*?) +([\d.]+) .* [\d.]+$", ended.output, re.M)
    names, losses = zip(*rows, strict=True)
    assert names == ("description", "one vector", "all vectors", "free outputs", "DreamBooth")
    assert len(set(losses)) == 5
    assert float(losses[3]) < float(losses[0])
    line = re.search(
        r"snow ([\d.]+), a car ([\d.]+), trained outputs ([\d.]+)$", ended.output, re.M
    )
    caption, noun, outputs = map(float, line.groups())
    assert caption != noun
    assert outputs < noun


def test_free_outputs_change_the_one_prompt_and_start_as_another(tiny):
    benchmark = runpy.run_path(str(ROOT / "benchmarks/textual_inversion.py"))
    stage = load_backbone(str(tiny)).stages["base"]
    before = stage.encode_prompts(["a dog", "a red dog"])["text"]
    method = benchmark["FreeOutputs"]("<subject>", "red dog")
    method.prepare(stage)
    (outputs,) = method.trained(stage).parameters
    assert [p for p in stage.denoiser.parameters() if p.requires_grad] == []
    prompts = ["a dog", "a <subject>"]
    assert torch.equal(stage.encode_prompts(prompts)["text"], before)
    stage.encode_prompts(prompts, with_gradient=True)["text"].sum().backward()
    assert torch.equal(outputs.grad, torch.ones_like(outputs))
    outputs.data += 1
    before[1] += 1
    assert torch.equal(stage.encode_prompts(prompts)["text"], before)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["method=dreambooth"], "method=dreambooth: this compares methods on the miniature"),
        (["model=sd15"], "model=sd15: this compares methods on the miniature, leave it out"),
        (["subject=comet,olvie"], "In 'train': Could not find 'subject/olvie'"),
        (["subject=miniature", "subject.seed=-1"], "subject.seed=-1 is not the number of an"),
    ],
)
def test_what_text_can_say_refuses_wrong_settings_at_once(words, sentence):
    ended = here("benchmarks/textual_inversion.py", *words)
    assert ended.code == 1
    assert ended.output.startswith(sentence)
