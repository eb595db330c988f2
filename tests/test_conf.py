"""Every file in conf/ is composed, instantiated and fast-run: an option that no test runs does not
exist."""

import json
import os
import shutil
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import ROOT, command, train
from hydra import compose, initialize_config_dir
from made_up import made_up_sweep
from PIL import Image

from dreambooth.miniature.subjects import drawn_subject
from dreambooth.runs.run import Run

pytestmark = pytest.mark.slow

CONF = ROOT / "conf"
# Those in a folder `parts` are no choices: what several choices of a group share.
FILES = sorted(
    path.relative_to(CONF).with_suffix("")
    for path in CONF.rglob("*.yaml")
    if path.parent.name != "parts"
)
ENTRY_POINTS = [file for file in FILES if file.parent == Path()]

# Files that need words of their own; each has a run of its own. `trainer/gpu`: see below.
OWN = [
    "callbacks/score_curves",  # tests/training/test_score_curves.py
    "experiment/applications",  # these three: test_frontier.py
    "experiment/frontier",
    "experiment/limitations",
    "experiment/metric_validity",  # test_evaluate.py
    "launcher/local",  # tests/launchers
    "launcher/slurm",  # tests/slurm
    "method/prompt_only",  # tests/methods; it has no prior term, no adapter, and trains no stage
    "method/textual_inversion",  # the same, but that it trains the base stage
    "metrics/paper",
    "model/flux1",  # tests/backbones/test_latent_runs.py, as model/sdxl
    "model/flux2_klein",  # the same
    "model/if",  # tests/backbones/test_deepfloyd_runs.py
    "model/sd15",
    "model/sd21",
    "model/sdxl",
    "report/auto",  # these two: test_report.py; they change no run
    "report/none",
    "subject/dreambench",  # tests/subjects/test_dreambench.py
    "subject/folder",
    "trainer/gpu",
    "trainer/gpu_16gb",  # these four: tests/training/test_presets.py
    "trainer/gpu_24gb",
    "trainer/gpu_80gb",
    "trainer/gpu_8gb",
]

# All others share runs: run number i takes the i-th file of each group, from the start again where
# a group has fewer.
SHARED: dict[str, list[str]] = {}
for file in FILES:
    if file not in ENTRY_POINTS and file.as_posix() not in OWN:
        SHARED.setdefault(file.parent.as_posix(), []).append(file.name)
RUNS = [
    {group: names[i % len(names)] for group, names in SHARED.items()}
    for i in range(max(map(len, SHARED.values())))
]


@pytest.fixture(scope="module")
def run_of(tmp_path_factory, tiny):
    """The finished run of a number, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("conf")

    @cache
    def made(number: int) -> Path:
        choices = [f"{group}={name}" for group, name in RUNS[number].items()]
        ended = train(tiny, folder / str(number), *choices)
        assert ended.code == 0, ended.output
        return folder / str(number)

    return made


@pytest.mark.parametrize(
    "file", [f"{group}/{name}" for group, names in SHARED.items() for name in names]
)
def test_every_file_is_run(run_of, file):
    group, name = file.split("/")
    folder = run_of(SHARED[group].index(name))
    run = Run.load_finished(folder)
    assert f"{group}={name}" in run.config["overrides"]
    assert len(run.images.read("prompts")) == 25
    assert bool(run.read_metrics()) == (run.config["metrics"] != {})


# What runs each: on a finished run {run}, the only one of {sweep}; and what it leaves there.
OF_ENTRY_POINTS = {
    "check": ("model=miniature model.backbone.pretrained={tiny}", "."),
    "evaluate": ("run={run} metrics=oracle", "scores.csv"),
    "generate": ("run={run} prompts=[cat] images_per_prompt=1", "images/generated"),
    "plan": ("sweep={pilot} metric=dino effect=0.05", "plans/pilot-dino.png"),
    "pretrain": (
        "part=text num_scenes=8 work={run} weights={run}/new parts.text.num_steps=2 "
        "parts.text.batch_size=2",
        "new/text_encoder",
    ),
    "report": ("sweep={sweep} name={run}/report", "report/index.html"),
    "train": (
        "hydra.run.dir={run}/new experiment=smoke trainer=cpu prior=off metrics=none "
        "logger=csv model.backbone.pretrained={tiny}",
        "new/weights/base",
    ),
}


def test_every_entry_point_is_listed():
    scripts = sorted(path.stem for path in (ROOT / "src").glob("*.py"))
    assert [file.name for file in ENTRY_POINTS] == scripts
    assert scripts == sorted([*OF_ENTRY_POINTS, "fetch"])  # which needs a network: test_fetch.py


@pytest.mark.parametrize("name", OF_ENTRY_POINTS)
def test_every_entry_point_is_run(tmp_path, tiny, finished, name, monkeypatch):
    run = shutil.copytree(finished, tmp_path / "sweep" / "0")
    monkeypatch.setattr("dreambooth.reporting.plan.PLANS", run / "plans")
    pilot = made_up_sweep(tmp_path / "pilot", ("biscuit", "olive"))
    (run / "scores.csv").write_text("")
    words, left = OF_ENTRY_POINTS[name]
    ended = command(name, *words.format(run=run, sweep=run.parent, tiny=tiny, pilot=pilot).split())
    assert ended.code == 0, ended.output
    assert (run / left).is_dir() or (run / left).stat().st_size


def test_nothing_but_the_subject_differs_between_the_named_subjects():
    for name in SHARED["subject"]:
        settings = yaml.safe_load((CONF / "subject" / f"{name}.yaml").read_text())
        if name != "miniature":
            assert set(settings) == {"defaults", "class_noun", "seed", "name"}
            assert settings["name"] == name


def test_stable_diffusion_on_a_folder_of_photos_is_trained_saved_and_reloaded(
    tmp_path, tiny, stable_diffusion
):
    if dreambench := os.environ.get("DREAMBENCH_DIR"):
        photos = Path(dreambench) / "dog6"
    else:
        photos = tmp_path / "photos"
        photos.mkdir()
        for i, image in enumerate(drawn_subject("dog", 7).photos(64)):
            pixels = ((image.permute(1, 2, 0).numpy() + 1) * 127.5).astype(np.uint8)
            Image.fromarray(pixels).save(photos / f"{i}.jpg")
    folder = ("subject=folder", f"photos={photos}", "class_noun=dog", "subject.kind=live")
    ended = train(tiny, tmp_path / "run", *folder, *stable_diffusion)
    assert ended.code == 0, ended.output
    run = Run.load_finished(tmp_path / "run")
    assert len(run.images.read("prompts")) == 25
    assert "2 of 'a dog' (2 made now)" in ended.output
    arguments = ("prompts=['a red {}']", "images_per_prompt=1")
    ended = command("generate", f"run={run.folder}", *arguments)
    assert ended.code == 0, ended.output
    (again,) = run.images.read("generated")
    (first,) = [p for p in run.images.read("prompts") if p.prompt == again.prompt]
    assert (again.pixels.int() - first.pixels.int()).abs().max() <= 1

    from diffusers import StableDiffusionPipeline

    plain = StableDiffusionPipeline.from_pretrained(run.weights, safety_checker=None)
    assert type(plain.unet).__name__ == "UNet2DConditionModel"


def test_stable_diffusion_2_1_is_trained_to_predict_v(tmp_path, tiny):
    from tiny_models import stable_diffusion_folder

    folder = stable_diffusion_folder(tmp_path / "tiny", v_prediction=True)
    own = ("model=sd21", f"model.backbone.pretrained={folder}", "model.rare_token_ids=[592,722]")
    ended = train(tiny, tmp_path / "run", *own, "prior=off")
    assert ended.code == 0, ended.output
    scheduler = json.loads((tmp_path / "run/weights/scheduler/scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == "v_prediction"


def test_the_gpu_trainer_differs_from_the_cpus_in_device_and_precision_only():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        gpu, cpu = (dict(compose("train", [f"trainer={name}"]).trainer) for name in ("gpu", "cpu"))
    assert {k for k in gpu | cpu if gpu.get(k) != cpu.get(k)} == {"accelerator", "precision"}
    ended = command("train", "trainer=gpu", "--cfg", "job")  # its run without a GPU: test_bad_input
    assert "precision: bf16-mixed" in ended.output


def test_one_command_pretrains_all_parts_reproducibly(tmp_path, monkeypatch):
    from dreambooth.miniature import oracle_pretraining, pretraining
    from dreambooth.miniature.drawing import SIZE_PX

    calibrate = partial(oracle_pretraining.calibrate, num_cases=4)
    monkeypatch.setattr(pretraining, "calibrate", calibrate)
    work = tmp_path / "work"
    work.mkdir()
    pixels = np.zeros((8, SIZE_PX, SIZE_PX, 3), np.uint8)
    np.save(work / "scenes-0-8.npy", pixels)  # so that they are not drawn
    parts = ("text", "base", "sr", "oracle", "clip", "dino")
    settings = {"num_steps": 2, "batch_size": 12}
    line = [f"work={work}", "num_scenes=8"]
    line += [f"parts.{part}.{key}={value}" for part in parts for key, value in settings.items()]
    ended = command("pretrain", *line)
    assert ended.code == 0, ended.output
    assert [text for text in ended.output.splitlines() if text.endswith(": done")] == [
        f"{part}: done" for part in parts
    ]
    weights = work / "weights"
    before = {path: path.read_bytes() for path in weights.rglob("*.safetensors")}
    folders = {"weights", "text_encoder", "base", "sr", "clip", "dino"}
    assert {path.parent.name for path in before} == folders
    assert command("pretrain", *line, "part=base").code == 0
    assert {path: path.read_bytes() for path in weights.rglob("*.safetensors")} == before


def test_an_unknown_part_is_refused_with_the_known_ones(tmp_path):
    ended = command("pretrain", "part=typo", f"work={tmp_path}")
    assert (
        ended.sentence
        == "part=typo is not known; choose all or one of text, base, sr, oracle, clip, dino"
    )
