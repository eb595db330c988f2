"""Every `python src/...` of README.md and docs/ is run, made small, in a folder that has what it names.

Those that cannot run here are marked in the docs, by "# needs a GPU" or "# needs SLURM".
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from commands import last_of_each, typed
from made_up import made_up_sweep
from made_up_images import write_images
from test_docs import COMMANDS
from tiny_encoders import lpips_backbone, miniature_folder, tiny_clip_folder, tiny_vit_folder

from dreambooth.runs.run import Run

pytestmark = pytest.mark.slow

MARKED = {command for command in COMMANDS if "# needs " in command}
# Without comments; one that another page has too is run once.
WORDS = sorted({shlex.join(shlex.split(c, comments=True)[1:]) for c in {*COMMANDS} - MARKED})
NUM_STEPS = 2


@pytest.fixture(scope="module")
def world(tmp_path_factory, finished, tiny):
    """What the commands name: DIR and other runs, my_dog, their_images, weights; and encoders."""
    folder = tmp_path_factory.mktemp("world")
    for run in ("DIR", "runs/2026-01-31_12-00-00", "unfinished"):
        shutil.copytree(finished, folder / run)
    Run(folder / "unfinished", {}).set_status("preempted")
    write_images(folder / "my_dog", [("a dog", "a {}", i) for i in range(4)], 64)
    write_images(folder / "their_images" / "a {} in the snow", [("", "", i) for i in range(2)], 64)
    weights = shutil.copytree(tiny, folder / "cache/pretraining/weights")
    miniature_folder(weights)
    tiny_vit_folder(folder / "vit")
    tiny_clip_folder(folder / "clip")
    lpips_backbone(folder / "squeeze.pth", "squeeze")
    return folder


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    """Made-up sweeps, for the commands that read them."""
    folder = tmp_path_factory.mktemp("sweeps")
    for name in ("DIR", "DIR1", "DIR2", "PILOT", "DONE", "runs/latest"):
        made_up_sweep(folder / name, ("biscuit", "olive"))
    return folder


def small_train(words, world, stable_diffusion):
    if "--cfg" in words or ("run=DIR" in words and "stage=sr" not in words):
        return words
    number = len([*world.glob("runs/*")])
    own = [f"hydra.run.dir=runs/{number}", f"hydra.sweep.dir=runs/{number}"]
    if "stage=sr" in words:  # has the settings of the run that it builds on
        return [*words, own[0]]
    own += ["experiment=smoke", "trainer=cpu", "logger=csv", f"prior.cache={world / 'prior'}"]
    if "model=sd15" in words:
        own += [text for text in stable_diffusion if text not in words]
    else:
        weights = "cache/pretraining/weights"
        own += [f"model.backbone.pretrained={weights}", f"metrics.fidelity.weights={weights}"]
    return [
        *own,
        *words,
        *([f"method.max_steps={NUM_STEPS}"] if "method.max" in str(words) else []),
    ]


def small(script, words, world, stable_diffusion):
    """The words of a command with fewer cells, steps and images, and tiny models."""
    if script == "train":
        unfinished = "stage=sr" not in words
        words = [first_and_last(text) for text in words]
        words = small_train(words, world, stable_diffusion)
        return [re.sub(r"^run=.*", "run=unfinished", w) if unfinished else w for w in words]
    if script == "generate":
        return [*words, "images_per_prompt=1"]
    if script == "pretrain":
        parts = ("text", "base", "sr", "oracle", "clip", "dino")
        settings = {"num_steps": NUM_STEPS, "batch_size": 12}
        own = [f"parts.{part}.{key}={value}" for part in parts for key, value in settings.items()]
        return [*words, *own, "num_scenes=8"]
    if script != "evaluate":
        return words
    own = ["logger=csv"]
    if "experiment=metric_validity" in words:
        own += ["bench.num_subjects=2", "bench.num_images=2"]
        own += ["metrics.fidelity.weights=cache/pretraining/weights"]
    if "metrics=paper" in words:
        fidelity = "metrics.fidelity"
        own += [f"{fidelity}.dino.pretrained=vit", f"{fidelity}.clip.model=clip"]
        own += [f"+{fidelity}.dino.{size}=64" for size in ("crop_px", "resize_px")]
        own += [f"{fidelity}.distance.net=squeeze", f"{fidelity}.distance.backbone=squeeze.pth"]
    return [*words, *own]


def first_and_last(text):
    """Of several values of a swept setting two."""
    key, _, value = text.partition("=")
    first, *others = value.split(",")
    swept = others and not set(value) & set("[]{}'\"")
    return f"{key}={first},{others[-1]}" if swept else text


@pytest.mark.parametrize("words", WORDS)
def test_every_command_runs(words, world, sweeps, stable_diffusion):
    path, *given = shlex.split(words)
    script = Path(path).stem
    folder = sweeps if script in ("report", "plan") else world
    words = last_of_each(small(script, given, world, stable_diffusion))
    ended = typed(script, *words, folder=folder)
    assert ended.code == 0, ended.output


def test_the_commands_that_need_a_gpu_or_slurm_and_no_others_are_marked():
    for command in COMMANDS:
        assert ("# needs a GPU" in command) == ("trainer=gpu" in command)
        assert ("# needs SLURM" in command) == ("launcher=slurm" in command)
