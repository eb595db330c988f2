"""The names in runs/checks.py, which `objective` is checked against, are those that runs write."""

import pytest
import tiny_encoders
from commands import command, train
from PIL import Image

from dreambooth.runs.checks import check_objective
from dreambooth.runs.run import Run

pytestmark = pytest.mark.slow


def check(folder):
    """Every score of a finished run may be an objective, and no other name may be."""
    run = Run.load_finished(folder)
    for name in run.read_metrics():
        check_objective(name, run.config)
    with pytest.raises(ValueError, match="is not a score of these metrics: choose from ") as error:
        check_objective("typo", run.config)
    known = str(error.value).partition("choose from ")[2].split(", ")
    assert sorted(known) == sorted(run.read_metrics())


@pytest.mark.parametrize("sr", ["off", "frozen"])
def test_of_the_miniature(tiny, encoders, tmp_path, sr):
    ended = train(tiny, tmp_path / "run", *encoders, f"sr={sr}", "prior=off")
    assert ended.code == 0, ended.output
    check(tmp_path / "run")


def test_of_the_oracle_alone(tiny, tmp_path):
    ended = train(tiny, tmp_path / "run", "metrics=oracle", "prior=off")
    assert ended.code == 0, ended.output
    check(tmp_path / "run")


def test_of_the_paper_on_the_miniature(tiny, tmp_path):
    clip = tiny_encoders.tiny_clip_folder(tmp_path / "clip")
    ended = train(
        tiny,
        tmp_path / "run",
        *("metrics=paper", "prior=off", f"metrics.fidelity.clip.model={clip}"),
        f"metrics.fidelity.dino.pretrained={tiny_encoders.vit_s16_folder(tmp_path / 'vit')}",
        f"metrics.fidelity.distance.backbone={tiny_encoders.lpips_backbone(tmp_path / 'a.pth')}",
    )
    assert ended.code == 0, ended.output
    check(tmp_path / "run")


def test_of_photos_on_stable_diffusion(stable_diffusion, encoders, tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(3):
        noise = Image.effect_noise((64, 64), 20 + i).convert("RGB")
        noise.save(tmp_path / "photos" / f"{i}.png")
    ended = command(
        "train",
        *(*stable_diffusion, "experiment=smoke", "trainer=cpu", "logger=csv", "prior=off"),
        *("subject=folder", f"photos={tmp_path / 'photos'}", "class_noun=dog"),
        *(*encoders, "~metrics.oracle", f"hydra.run.dir={tmp_path / 'run'}"),
    )
    assert ended.code == 0, ended.output
    check(tmp_path / "run")
