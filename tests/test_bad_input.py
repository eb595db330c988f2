"""A user's mistake is one sentence, before anything is drawn or trained."""

import os
import shutil
from pathlib import Path

import pytest
from commands import command, train
from PIL import Image

from dreambooth.runs.run import Run

pytestmark = pytest.mark.slow


@pytest.fixture
def photos(tmp_path):
    """Five photos of something, in a folder."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(5):
        Image.effect_noise((40, 30), 20 + i).convert("RGB").save(folder / f"{i}.jpg")
    return folder


@pytest.fixture
def from_folder(photos, stable_diffusion):
    """Overrides of a run on these photos."""
    return ("subject=folder", f"photos={photos}", "class_noun=dog", *stable_diffusion)


def refused(tiny, folder, *overrides):
    """The sentence of a run that ends before it starts, and leaves nothing."""
    ended = train(tiny, folder, *overrides)
    sentence = ended.sentence
    assert not (folder.parent / "prior").exists()
    assert not folder.exists()
    return sentence


@pytest.mark.parametrize("value", ["-1", "abc", "nan", "inf", "true", "null", "[1]"])
def test_an_invalid_lambda_is_refused(tiny, tmp_path, value):
    sentence = refused(tiny, tmp_path / "run", f"prior.lambda={value}")
    assert sentence.startswith("prior.lambda=")
    assert sentence.endswith(": give a number of 0 (no prior preservation) or more, 1 in the paper")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("subject.wrong_class_noun=dog", "the wrong class noun 'dog' is the subject's true class"),
        ("subject.class_noun=horse", "the miniature has no class 'horse'; its classes are dog, "),
        ("subject.num_photos=0", "subject.num_photos=0: give 1 or more"),
        ("subject.seed=-1", "subject.seed=-1 is not the number"),
        ("class.noun=doggo", "the word 'doggo' of 'a kzn doggo' is outside the vocabulary of"),
        ("class.noun=doggo", "the nearest words are dog"),
        ("identifier.text='dög'", "the tokenizer does not keep the identifier 'dög'"),
        ("identifier.text=two words", "the identifier 'two words' is not one word"),
        ("identifier.text=''", "the identifier '' is empty"),
        ("identifier.num_tokens=4", "num_tokens=4: give 1, 2 or 3 rare tokens"),
        ("model.rare_token_ids=[5000,10000]", "does not lie within the tokenizer's vocabulary"),
        ("model.backbone.pretrained=nowhere", "there is no cascade in nowhere"),
        (
            "model.sampling.prior.base.name=heun",
            "base.name=heun: give ancestral, ddim, dpm or",
        ),
        (
            "model.sampling.images.sr.name=heun",
            "sr.name=heun: give ancestral, ddim, dpm or",
        ),
        ("model.sampling.images.sr.name=euler", "sampler 'euler' is for flow-matching models"),
        ("model.sampling.images.base.num_steps=0", "num_steps=0: give a whole number from 1 up"),
        ("model.sampling.images.sr.num_steps=1001", "more than the 1000 timesteps"),
        ("model.sampling.images.sr.guidance_scale=-1", "guidance_scale=-1: give a number of 0"),
        ("drawing.images_per_prompt=0", "drawing.images_per_prompt=0: give a whole number from 1"),
        ("drawing.num_class_images=0.5", "drawing.num_class_images=0.5: give a whole number"),
        ("sr.noise_level=1", "sr.noise_level=1: give a variance from 0 to below 1, such as 1e-3"),
        ("sr.noise_level=-0.1", "sr.noise_level=-0.1: give a variance from 0"),
        ("sr.noise_level=high", "sr.noise_level=high: give a variance from 0"),
        ("sr.inference_noise_level=2", "sr.inference_noise_level=2: give a variance from 0"),
        ("stage=text", "stage=text: give base or sr"),
        ("seed=abc", "seed=abc: give a whole number"),
        ("~method.max_steps", "method.max_steps is missing: give method.max_steps=..."),
        ("method.timesteps.name=cubic", "timesteps.name=cubic: give uniform or logit_normal"),
        ("method.module.cooldown_fraction=2", "cooldown_fraction=2: give a fraction from 0 to 1"),
        ("method.ema_decay=1", "method.ema_decay=1: give a number between 0 and 1"),
        ("method.ema_decay=true", "method.ema_decay=true: give a number between 0 and 1"),
        ("prior.caption_dropout=1", "prior.caption_dropout=1: give a fraction from 0 to below 1"),
        ("prior.kind=typo", "prior.kind=typo: give images, output or blank"),
        ("prior.num_images=0", "prior.num_images=0: give a whole number from 1 up"),
        ("method.max_steps=0", "method.max_steps=0: give a whole number from 1 up"),
        ("method.batch_size=many", "method.batch_size=many: give a whole number from 1 up"),
        ("method.tuning.train=typo", "method.tuning.train=typo: give all or cross_attention"),
        ("method.module.weighting=typo", "module.weighting=typo: give uniform or min_snr"),
        ("method.module.learning_rate=0", "method.module.learning_rate=0: give a number above 0"),
        ("trainer.precision=12", "trainer.precision=12: give 32-true, bf16-mixed"),
    ],
)
def test_an_invalid_setting_is_refused(tiny, tmp_path, override, said):
    assert said in refused(tiny, tmp_path / "run", override)


def test_the_sr_stage_alone_needs_a_run_of_the_same_subject(tiny, tmp_path, finished):
    ended = train(tiny, tmp_path / "run", "stage=sr", "sr=noise_1e-5")
    assert ended.sentence == "stage=sr builds on a finished run: give run=DIR"
    again = ("stage=sr", "sr=noise_1e-5", f"run={finished}")
    for override, what in (
        ("subject=olive", "subject"),
        ("prior.lambda=0.5", "prior"),
        ("method.max_steps=9", "method"),
        ("seed=9", "seed"),
    ):
        said = refused(tiny, tmp_path / f"run-{what}", *again, override)
        assert said.endswith(f"trained with another {what}: stage=sr needs the same")


def test_an_objective_that_is_no_score(tiny, tmp_path):
    sentence = refused(tiny, tmp_path / "run", "objective=typo")
    assert sentence.startswith("objective=typo is not a score of these metrics: choose from")


def test_an_invalid_setting_of_the_sr_stage_is_refused(tiny, tmp_path):
    said = refused(tiny, tmp_path / "run", "sr=noise_1e-5", "sr.learning_rate=0")
    assert said == "sr.learning_rate=0: give a number above 0"


def test_a_setting_of_an_untrained_stage_gives_a_warning(tiny, tmp_path):
    ended = train(tiny, tmp_path / "run", "sr.max_steps=9")
    assert ended.code == 0, ended.output
    assert "sr.max_steps=9 changes nothing" in ended.output


def test_sr_settings_without_an_sr_stage_are_refused(tiny, tmp_path, from_folder):
    sentence = refused(tiny, tmp_path / "run", *from_folder, "sr=frozen")
    assert sentence.endswith("has no SR stage: give sr=off")
    for number, override in enumerate(("sr.max_steps=9", "sr.noise_level=1e-5")):
        sentence = refused(tiny, tmp_path / str(number), *from_folder, override)
        assert sentence.endswith(f"has no SR stage: leave out {override}")
    assert "sr=off does not use sr.noise_level" in refused(
        tiny, tmp_path / "other", "sr=off", "sr.noise_level=1e-5"
    )


def test_an_unknown_choice_of_a_group_is_refused_with_the_known_ones(tiny, tmp_path):
    ended = train(tiny, tmp_path / "run", "class=typo")
    assert ended.code == 1
    assert "class=typo does not exist" in ended.output
    assert all(choice in ended.output for choice in ("none", "wrong", "correct"))
    assert "Traceback" not in ended.output
    assert not (tmp_path / "run").exists()


def test_an_unknown_setting_is_refused(tiny, tmp_path):
    ended = train(tiny, tmp_path / "run", "prior.lamda=0")
    assert ended.code == 1
    assert "prior.lamda" in ended.output
    assert "Traceback" not in ended.output


def test_a_missing_gpu_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    sentence = refused(tiny, tmp_path / "run", "trainer=gpu")
    assert sentence == "trainer=gpu needs a GPU, and no GPU is available: give trainer=cpu"


def test_subject_folder_without_a_path_is_refused(tiny, tmp_path):
    ended = train(tiny, tmp_path / "run", "subject=folder", "class_noun=dog")
    assert ended.sentence == "photos has no default: give photos=... on the command line"


def test_a_missing_folder_of_photos_is_refused(tiny, tmp_path, from_folder):
    sentence = refused(tiny, tmp_path / "run", *from_folder, f"photos={tmp_path / 'nowhere'}")
    assert sentence.startswith(f"there is no folder {tmp_path / 'nowhere'}")


def test_a_file_in_place_of_a_folder_of_photos_is_refused(tiny, tmp_path, photos, from_folder):
    sentence = refused(tiny, tmp_path / "run", *from_folder, f"photos={photos / '0.jpg'}")
    assert "0.jpg is a file: give the folder" in sentence


def test_a_folder_without_photos_is_refused(tiny, tmp_path, photos, from_folder):
    for path in photos.iterdir():
        path.rename(path.with_suffix(".txt"))
    assert refused(tiny, tmp_path / "run", *from_folder).startswith(f"no photos in {photos}")


def test_a_text_file_named_jpg_is_refused_by_name(tiny, tmp_path, photos, from_folder):
    (photos / "3.jpg").write_text("this is no photo")
    sentence = refused(tiny, tmp_path / "run", *from_folder)
    assert sentence.startswith(f"cannot read the photo {photos / '3.jpg'}")


def test_an_empty_class_noun_is_refused(tiny, tmp_path, from_folder):
    sentence = refused(tiny, tmp_path / "run", *from_folder, "class_noun=' '")
    assert sentence.startswith("subject.class_noun is empty")


def test_an_unknown_kind_of_subject_is_refused(tiny, tmp_path, from_folder):
    sentence = refused(tiny, tmp_path / "run", *from_folder, "subject.kind=plant")
    assert sentence == "subject.kind='plant' is not known; choose live or object"


def test_a_metric_of_the_drawn_world_is_refused_for_photos(tiny, tmp_path, from_folder):
    sentence = refused(tiny, tmp_path / "run", *from_folder, "metrics=miniature")
    assert "metrics=miniature scores subjects of the drawn world only" in sentence


def test_the_model_of_the_drawn_world_is_refused_for_photos(tiny, tmp_path, photos):
    overrides = ("subject=folder", f"photos={photos}", "class_noun=dog", "metrics=none")
    sentence = refused(tiny, tmp_path / "run", *overrides)
    assert "is outside the vocabulary of model tiny" in sentence


def test_a_single_small_photo_gives_one_warning_and_is_trained_on(
    tiny, tmp_path, photos, from_folder
):
    for path in sorted(photos.iterdir())[1:]:
        path.unlink()
    ended = train(tiny, tmp_path / "run", *from_folder, "prior=off")
    assert ended.code == 0, ended.output
    assert ended.output.count("only one photo") == 1
    small = "1 of 1 photos are smaller than the model's 64 px (the smallest: 30)"
    assert ended.output.count(small) == 1


def test_a_crop_that_is_not_known_or_cannot_be(tiny, tmp_path, photos, from_folder):
    sentence = refused(tiny, tmp_path / "a", *from_folder, "subject.crop=left")
    assert sentence == "subject.crop='left' is not known; choose centre, pad or none"
    sentence = refused(tiny, tmp_path / "b", *from_folder, "subject.crop=none")
    assert sentence.startswith("subject.crop=none takes square photos, and ")
    assert "0.jpg has 40x30 px: make it square, or give subject.crop=centre or pad" in sentence


@pytest.mark.parametrize("crop", ["centre", "pad"])
def test_photos_that_are_not_square_are_said_and_shown(tiny, tmp_path, photos, from_folder, crop):
    Image.new("RGB", (30, 80), "red").save(photos / "0.jpg")
    ended = train(tiny, tmp_path / "run", *from_folder, "prior=off", f"subject.crop={crop}")
    assert ended.code == 0, ended.output
    said = "5 of 5 photos are not square: training sees the centre of each, and up to 62 % of a"
    assert ended.output.count(said) == (crop == "centre")
    sheet = tmp_path / "run" / "images" / "photos.png"
    assert f"the photos as training sees them: {sheet}" in ended.output
    assert Image.open(sheet).width > 5 * 64


def test_the_folder_of_another_experiment_is_refused_and_unchanged(tiny, finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "run")
    prior = f"prior.cache={finished.parent / 'prior'}"
    ended = train(tiny, copy, prior, "method.max_steps=3")
    assert ended.sentence == (
        f"{copy} holds a run of another experiment (method.max_steps is 2 there and 3 here): "
        "give another folder, or force=true to replace that run"
    )
    assert Run.load_finished(copy).config == Run.load_finished(finished).config


def test_photos_that_changed_are_named_and_refused(tiny, tmp_path, photos, from_folder):
    folder = tmp_path / "run"
    ended = train(tiny, folder, *from_folder, "prior=off")
    assert ended.code == 0, ended.output
    (photos / "0.jpg").rename(photos / "other.jpg")
    Image.effect_noise((40, 30), 90).convert("RGB").save(photos / "1.jpg")
    (photos / "2.jpg").unlink()
    (photos / "notes.md").write_text("no photo")
    said = (
        f"the run in {folder} began with other files (photos/0.jpg is now photos/other.jpg; "
        "photos/1.jpg has changed; photos/2.jpg is gone): "
        "put them back, or start a new run in another folder"
    )
    assert train(tiny, folder, *from_folder, "prior=off").sentence == said
    assert command("evaluate", f"run={folder}").sentence == said
    Run(folder, {}).set_status("failed", "killed")
    assert train(tiny, folder, *from_folder, "prior=off").sentence == said
    assert command("train", f"run={folder}").sentence == said
    assert Run(folder, {}).status().reason == "killed"


def test_a_damaged_prior_image_is_drawn_again_with_a_warning(tiny, finished, tmp_path):
    shutil.copytree(finished.parent / "prior", tmp_path / "prior")
    (path,) = tmp_path.glob("prior/*/000001.png")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    ended = train(tiny, tmp_path / "run", "metrics=none")
    assert ended.code == 0, ended.output
    assert "1 prior images in" in ended.output
    assert "damaged or missing and are generated again (000001.png)" in ended.output
    assert path.read_bytes() == whole


def test_a_full_disk_during_a_checkpoint_leaves_the_previous_checkpoint(
    tiny, finished, tmp_path, monkeypatch
):
    """The second checkpoint finds the disk full."""
    replaced, fsync = [], os.fsync

    def full(number):
        name = str(Path(f"/proc/self/fd/{number}").readlink())
        if ".ckpt" in name:
            replaced.append(name)
            if len(replaced) == 2:
                raise OSError(28, "No space left on device", name)
        fsync(number)

    monkeypatch.setattr("dreambooth.runs.files.os.fsync", full)
    ended = train(tiny, tmp_path / "run", "metrics=none", "method.max_steps=3")
    assert ended.code == 1
    assert "No space left on device" in ended.output
    assert "Traceback" not in ended.output
    import torch

    (path,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert path.name == "base-00000001.ckpt"
    assert torch.load(path, weights_only=True)["global_step"] == 1
    status = Run(tmp_path / "run", {}).status()
    assert (status.state, "No space left" in status.reason) == ("failed", True)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((), "run has no default: give run=... on the command line"),
        (("run=nowhere",), "there is no run folder nowhere"),
        (("run=conf",), "conf is not a run folder"),
    ],
)
def test_generating_without_a_run_is_refused(overrides, said):
    assert command("generate", *overrides).sentence.startswith(said)


@pytest.mark.parametrize("state", ["running", "failed"])
def test_generating_from_an_unfinished_run_is_refused(finished, tmp_path, state):
    copy = shutil.copytree(finished, tmp_path / "run")
    Run(copy, {}).set_status(state, "out of memory" if state == "failed" else "")
    sentence = command("generate", f"run={copy}").sentence
    assert sentence.startswith(f"the run in {copy} is not finished ({state}")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("config.yaml", "config.yaml is missing"),
        ("names.json", "names.json is missing"),
        ("weights", "weights/ is missing"),
        ("weights/cascade.json", "no cascade.json"),
        ("weights/sr", "is damaged"),
        ("weights/base/diffusion_pytorch_model.safetensors", "is damaged"),
        ("weights/text_encoder/model.safetensors", "is damaged"),
        ("weights/tokenizer", "is damaged"),
    ],
)
def test_generating_from_a_damaged_run_is_refused(finished, tmp_path, damage, said):
    copy = shutil.copytree(finished, tmp_path / "run")
    lost = copy / damage
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    assert said in command("generate", f"run={copy}").sentence
    assert not (copy / "images" / "generated").exists()


def test_generating_from_truncated_weights_is_refused(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "run")
    path = copy / "weights" / "base" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    sentence = command("generate", f"run={copy}").sentence
    assert sentence.startswith(f"the cascade in {copy / 'weights'} is damaged (")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("prompts=['a {} on the beech']", "the word 'beech' of 'a kzn dog on the beech'"),
        ("prompts=['a {} on the beech']", "the nearest words are beach"),
        ("prompts=['" + "a " * 30 + "{}']", "has 34 tokens, and this model's text encoder takes"),
        ("prompts=[]", "prompts=[]: give at least one"),
        ("images_per_prompt=0", "images_per_prompt=0: give a whole number from 1 up"),
        ("image_set=../up", "cannot name a set of images"),
        ("image_set=prompts", "image_set=prompts is a set that the run itself writes: give anothe"),
        ("image_set=Class", "image_set=Class is a set that the run itself writes"),
        ("image_set=frontier-0.5", "image_set=frontier-0.5: names that begin with frontier are"),
    ],
)
def test_generating_with_invalid_settings_is_refused(finished, tmp_path, override, said):
    copy = shutil.copytree(finished, tmp_path / "run")
    assert said in command("generate", f"run={copy}", override).sentence
    assert not (copy / "images" / "generated").exists()


def test_a_refused_run_deletes_no_folder_that_was_a_runs_before(tiny, tmp_path):
    folder = tmp_path / "run"
    train(tiny, folder, "method.max_steps=3")
    (folder / "metrics.json").unlink()
    Run(folder, {}).set_status("failed", "killed")
    (tmp_path / "moved").mkdir()
    moved = f"model.backbone.pretrained={tmp_path / 'moved'}"
    config = (folder / "config.yaml").read_text().replace(str(tiny), str(tmp_path / "moved"))
    (folder / "config.yaml").write_text(config)
    (folder / "names.json").unlink()
    before = sorted(folder.rglob("*"))
    assert "there is no cascade in" in train(tiny, folder, moved, "method.max_steps=3").sentence
    assert set(before) <= set(folder.rglob("*"))
