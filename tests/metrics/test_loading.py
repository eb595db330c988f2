"""What happens to a run whose encoders are unavailable."""

import shutil

import pytest
import tiny_encoders
from commands import command, smoke, train
from made_up_photos import photos_folder

from dreambooth.runs.run import Run

pytestmark = pytest.mark.slow

SMALL = ("drawing.num_class_images=2", "prior=off")


@pytest.fixture
def own(tmp_path, stable_diffusion, monkeypatch):
    """A run of model=sd15 with the metrics that the model chooses, where there are no encoders."""
    for name in ("HF_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    monkeypatch.setattr("dreambooth.runs.hub._silent_since", {})
    photos = photos_folder(tmp_path / "photos")
    model = [text for text in stable_diffusion if text != "metrics=none"]
    return (*model, "subject=folder", f"photos={photos}", "class_noun=dog", *SMALL)


def paper(tmp_path):
    """Tiny encoders of metrics=paper."""
    tiny_encoders.miniature_folder(tmp_path)
    alexnet = tiny_encoders.lpips_backbone(tmp_path / "alexnet.pth")
    return (
        *("metrics=paper", f"metrics.fidelity.dino.pretrained={tmp_path / 'dino'}"),
        *("+metrics.fidelity.dino.resize_px=64", "+metrics.fidelity.dino.crop_px=64"),
        f"metrics.fidelity.clip.model={tmp_path / 'clip'}",
        f"metrics.fidelity.distance.backbone={alexnet}",
    )


def test_without_encoders_a_run_trains_draws_and_can_be_scored_later(tiny, tmp_path, own):
    ended = train(tiny, tmp_path / "run", *own)
    assert ended.code == 0, ended.output
    said = [line for line in ended.output.splitlines() if "is not scored" in line]
    assert len(said) == 1
    for words in (
        "the DINO encoder 'facebook/dino-vits16', the CLIP encoder 'ViT-B-32' 'openai', the LPIPS",
        "python src/fetch.py metrics=paper, where there is a network",
        f"python src/evaluate.py run={tmp_path / 'run'} metrics=paper",
    ):
        assert words in said[0]
    assert ended.output.index("is not scored") < ended.output.index("base: ")
    run = Run.load_finished(tmp_path / "run")
    assert len(run.images.read("prompts")) == 25
    assert run.read_metrics() == {}
    ended = command("evaluate", f"run={run.folder}", *paper(tmp_path / "encoders"))
    assert ended.code == 0, ended.output
    assert {"dino", "clip_i", "clip_t", "div"} <= set(run.read_metrics())


def test_metrics_that_were_asked_for_are_never_left_out(tiny, tmp_path, own):
    for text in ("metrics=paper", "metrics.fidelity.keep_identifier=true"):
        said = train(tiny, tmp_path / "run", *own, text).sentence
        assert said.startswith("the DINO encoder 'facebook/dino-vits16' cannot be used (")
        assert "; the LPIPS backbone" in said


def test_encoders_that_are_there_score_the_run_by_default(tiny, tmp_path, own, monkeypatch):
    """Their files in place of those of the hubs."""
    words = [text for text in paper(tmp_path / "encoders") if text != "metrics=paper"]
    for module in ("assemble", "launch.checks"):
        monkeypatch.setattr(f"dreambooth.{module}.metrics_are_chosen", lambda overrides: False)
    ended = train(tiny, tmp_path / "run", *own, *words)
    assert ended.code == 0, ended.output
    assert "dino" in Run.load_finished(tmp_path / "run").read_metrics()
    shutil.rmtree(tmp_path / "run")
    shutil.rmtree(tmp_path / "encoders")
    ended = train(tiny, tmp_path / "run", *own, *words)
    assert ended.code == 0, ended.output
    assert "is not scored" in ended.output


def test_a_sweep_asks_for_the_encoders_once_before_its_first_cell(tiny, tmp_path, own, monkeypatch):
    from dreambooth import assemble

    loaded = []
    load = assemble.load_scorers
    monkeypatch.setattr(assemble, "load_scorers", lambda *a: loaded.append(a) or load(*a))
    sweep = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    words = (*smoke(tiny, tmp_path / "prior"), "logger=csv", *own, "seed=0,1", sweep)
    ended = command("train", "-m", *words)
    assert ended.code == 0, ended.output
    assert len(loaded) == 3, "once for the sweep, and once in each cell"
