"""Runs of model=if, as a user types them, on a tiny folder of random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command, same_files, stopped_before_step
from safetensors.torch import load_file

from dreambooth.assemble import reload
from dreambooth.backbones.drawing import noise_key
from dreambooth.runs.run import Run

pytestmark = pytest.mark.slow

FEW_STEPS = ("model.sampling.prior.sr.num_steps=2", "model.sampling.images.sr.num_steps=2")
SMALL = (
    "experiment=smoke",
    "trainer=cpu",
    "logger=csv",
    "metrics=none",
    "method.max_steps=4",
    *FEW_STEPS,
)
LARGE_STEPS = ("method.module.learning_rate=1e-2", "sr.learning_rate=1e-2")


def executed(recipe: str) -> torch.Tensor:
    drawn: dict = {}
    exec(recipe, drawn)
    return torch.from_numpy(np.array(drawn["image"])).permute(2, 0, 1)


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_stopped_run_goes_on_and_is_drawn_by_plain_diffusers(deepfloyd, tmp_path, adapter):
    def run(name):
        own = (f"adapter={adapter}", "sr=noise_1e-3", f"prior.cache={tmp_path}/prior")
        folder = f"hydra.run.dir={tmp_path}/{name}"
        return command("train", *deepfloyd, *SMALL, *LARGE_STEPS, *own, folder)

    ended = run("whole")
    assert ended.code == 0, ended.output
    assert "sr.noise_level=0.001 is timestep 13 of this model, of variance 0.00102" in ended.output
    with stopped_before_step(2):
        assert run("stopped").code != 0
    assert run("stopped").code == 0
    files = sorted((tmp_path / "whole/weights").rglob("*.safetensors"))
    assert [file.relative_to(tmp_path / "whole/weights").parts[0] for file in files] == [
        "base",
        "sr",
    ]
    for file in files:  # not to the bit: one run drew prior images, one read them
        resumed = load_file(tmp_path / "stopped" / file.relative_to(tmp_path / "whole"))
        for key, value in load_file(file).items():
            torch.testing.assert_close(resumed[key], value, rtol=0, atol=1e-5)

    finished = Run.load_finished(tmp_path / "whole")
    model = reload(finished)
    picture = finished.images.read("prompts")[0]
    key = noise_key(picture.template, picture.index)
    recipe = model.backbone.recipe(finished.weights, picture.prompt, key, model.sampling)
    theirs = executed(recipe)
    assert (theirs.int() - picture.pixels.int()).abs().max() <= 1  # it was drawn in a batch
    model.backbone.batch_size = 1
    alone = model.backbone.generate([picture.prompt], [key], model.sampling)[0]
    assert torch.equal(alone, theirs)
    before = finished.images.read("before")[0]
    (after,) = [p for p in finished.images.read("class") if p.index == before.index]
    assert (before.pixels.int() - after.pixels.int()).abs().max() > 10, "training changed it"


def test_a_sweep_over_the_noise_level_of_the_sr_stage(deepfloyd, tmp_path):
    ended = command(
        "train",
        "-m",
        *deepfloyd,
        *SMALL,
        *LARGE_STEPS,
        "launcher.jobs=1",
        f"prior.cache={tmp_path}/prior",
        f"hydra.sweep.dir={tmp_path}/sweep",
        "sr=frozen,noise_1e-3,noise_1e-5",
    )
    assert ended.code == 0, ended.output
    runs = [run for run in (tmp_path / "sweep").iterdir() if (run / "weights").is_dir()]
    by_level = {Run.load_finished(run).config["sr"]["noise_level"]: run for run in runs}
    assert set(by_level) == {None, 1e-3, 1e-5}
    pretrained = Path(deepfloyd[1].partition("=")[2])
    assert same_files(by_level[None] / "weights/sr/unet", pretrained / "sr/unet", "*.safetensors")
    tuned = [
        load_file(next((by_level[s] / "weights/sr/unet").glob("*.safetensors")))
        for s in (1e-3, 1e-5)
    ]
    assert any(not torch.equal(value, tuned[1][key]) for key, value in tuned[0].items())
    for run in by_level.values():
        pictures = Run.load_finished(run).images
        assert len(pictures.read("prompts")) == 25
        assert len(pictures.read("restored")) == len(pictures.read("originals")) > 0


def test_generate_prints_a_recipe_with_the_seeds_of_both_stages(deepfloyd, tmp_path):
    own = ("prior=off", f"hydra.run.dir={tmp_path}/run")
    assert command("train", *deepfloyd, *SMALL, *own).code == 0
    prompts = 'prompts=["a {} on the beach","a red {}"]'
    ended = command("generate", f"run={tmp_path}/run", prompts, "images_per_prompt=1")
    assert ended.code == 0, ended.output
    recipe = ended.output.partition("float32):\n\n")[2].partition("\n\nThe others")[0]
    first = Run.load_finished(tmp_path / "run").images.read("generated")
    names = json.loads((tmp_path / "run/names.json").read_text())
    prompt = f"a {names['identifier']} {names['class_noun']} on the beach"
    (picture,) = [p for p in first if p.prompt == prompt]
    assert (executed(recipe).int() - picture.pixels.int()).abs().max() <= 1
    seeds = ended.output.partition("these seeds:")[2].strip().rpartition(": ")[2].split(", ")
    assert len({int(seed) for seed in seeds}) == 2


def test_what_the_model_cannot_do_is_one_sentence(deepfloyd, tmp_path):
    own = (*SMALL, f"hydra.run.dir={tmp_path}/run", f"prior.cache={tmp_path}/prior")
    ended = command("train", *deepfloyd, *own, "model.backbone.pretrained_sr=null")
    assert ended.sentence == "this model has no SR stage: give sr=off"
    ended = command("train", *deepfloyd, *own, "method.tuning.train=cross_attention")
    assert ended.code == 1
    assert (
        "method.tuning.train=cross_attention: this model has no layers of cross-attention alone "
        "(attn2), give method.tuning.train=all"
    ) in ended.output
    assert "Traceback" not in ended.output
    ended = command("train", "model=if", *own)
    assert ended.sentence.startswith("there is no model 'DeepFloyd/IF-I-XL-v1.0': no folder ")
    stage_i = f"{deepfloyd[1]}/base"
    ended = command("train", "model=if", stage_i, *own)
    assert ended.sentence.startswith("there is no model 'DeepFloyd/IF-II-L-v1.0': no folder ")
    assert "give model.backbone.pretrained_sr=/path/to/folder" in ended.sentence
