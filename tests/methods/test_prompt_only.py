"""The baseline without training, from the description to the report's row."""

import pytest
from commands import command, train

from dreambooth.backbones.cascade import CascadeBackbone
from dreambooth.backbones.stable_diffusion import StableDiffusionBackbone
from dreambooth.methods.prompt_only import PromptOnly
from dreambooth.miniature.subjects import drawn_subject
from dreambooth.reporting.settings import label_of, settings_of
from dreambooth.runs.run import Run
from dreambooth.subjects.prompts import PromptNames

SUBJECT = drawn_subject("dog", 7)
NAMES = PromptNames("kzn", "dog", "dog")


def test_the_description_stands_in_the_prompts(tiny):
    names = PromptOnly().names(NAMES, SUBJECT, CascadeBackbone.load(tiny))
    assert f"a {names.subject} in the snow" == f"a {SUBJECT.description} in the snow"
    assert (names.class_prompt, names.in_text) == ("a dog", "dog")


@pytest.fixture(scope="module")
def described(tmp_path_factory, tiny, encoders):
    """A finished run of method=prompt_only."""
    folder = tmp_path_factory.mktemp("prompt_only") / "run"
    ended = train(tiny, folder, "method=prompt_only", *encoders)
    assert ended.code == 0, ended.output
    return Run.load_finished(folder)


@pytest.mark.slow
def test_a_run_is_the_pretrained_model_with_the_folder_and_scores_of_any_other(described):
    prompts = [p.prompt for p in described.images.read("prompts")]
    assert len(prompts) == 25
    assert all(SUBJECT.description in prompt for prompt in prompts)
    assert not list(described.folder.glob("checkpoints/*"))
    assert not (described.folder.parent / "prior").exists()
    assert [p.name for p in described.weights.iterdir()] == [".written.json"]
    assert {"identity", "dino", "clip_t", "drift"} <= described.read_metrics().keys()
    before, after = (described.images.read(name) for name in ("before", "class"))
    for a, b in zip(before, after, strict=False):  # drawn in batches of another size
        assert (a.pixels.int() - b.pixels.int()).abs().max() <= 1


@pytest.mark.slow
def test_more_images_are_drawn_and_scored_and_the_report_has_its_row(described):
    ended = command("generate", f"run={described.folder}", "images_per_prompt=1")
    assert ended.code == 0, ended.output
    ended = command("evaluate", f"run={described.folder}", "metrics=oracle")
    assert ended.code == 0, ended.output
    settings = settings_of(described.config)
    assert label_of({"method": settings["method"]}) == "prompt only"
    assert not {"lambda", "class", "identifier", "num_photos"} & settings.keys()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["prior.lambda=1"], "prior.lambda=1: this method has no prior term, give prior=off"),
        (["prior=on"], "prior.lambda=1: this method has no prior term, give prior=off"),
        (["sr=noise_1e-5"], "this method does not fine-tune the SR stage, give sr=frozen"),
        (["adapter=lora"], "this method trains no adapter: give adapter=none"),
    ],
)
def test_what_it_does_not_have_is_refused(tiny, tmp_path, overrides, said):
    ended = train(tiny, tmp_path / "run", "method=prompt_only", *overrides)
    assert said in ended.sentence


def test_a_subject_without_a_description_is_refused(tiny, tmp_path, stable_diffusion):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.effect_noise((64, 64), 30).convert("RGB").save(tmp_path / "photos/0.png")
    folder = ("subject=folder", f"photos={tmp_path}/photos", "class_noun=toy")
    words = ("method=prompt_only", *folder)
    ended = train(tiny, tmp_path / "run", *words, *stable_diffusion)
    assert "subject.description is empty" in ended.output
    ended = train(tiny, tmp_path / "run", *words, "subject.description=woolly toy")
    assert "subject.description=woolly toy: the word 'woolly'" in ended.output


def test_the_recipe_is_that_of_the_pretrained_model(stable_diffusion, tmp_path):
    from dreambooth.backbones.stage import Sampling
    from dreambooth.runs.settings import Sampler

    folder = stable_diffusion[1].partition("=")[2]
    backbone = StableDiffusionBackbone.load(folder)
    sampling = Sampling({"base": Sampler("ddim", 2, 1.0)})
    assert repr(folder) in backbone.recipe(tmp_path, "a red toy", ("t", 0), sampling)
