"""Captions and masks of photos, from the folder to the loss."""

import pytest
import torch
from commands import same_files, train
from made_up_photos import mask_file, photos_folder
from offline_wandb import read_offline

from dreambooth.backbones.cascade import CascadeBackbone
from dreambooth.backbones.stable_diffusion import StableDiffusionBackbone
from dreambooth.methods.dreambooth import DreamBooth
from dreambooth.methods.method import TermPrompts, check_photos
from dreambooth.methods.two_terms import TwoTermModule
from dreambooth.runs.run import Run
from dreambooth.subjects.masks import overlay
from dreambooth.subjects.prompts import PromptNames
from dreambooth.subjects.subject import subject_from_folder
from dreambooth.training.draws import Draw

PROMPTS = TermPrompts(["a qa dog"], ["a dog", ""])
SMALL = ("metrics=none", "drawing.num_class_images=1", "method.max_steps=3")


def draw(stage, size, seed):
    noise = torch.Generator().manual_seed(seed)
    return Draw(
        torch.rand(size, *stage.x_shape, generator=noise) * 2 - 1,
        torch.randn(size, *stage.x_shape, generator=noise),
        torch.randint(1000, (size,), generator=noise),
        torch.zeros(size, dtype=torch.long),
        {},
    )


@pytest.fixture(params=["pixels", "latents"])
def stage(request, tiny, stable_diffusion):
    if request.param == "pixels":
        return CascadeBackbone.load(tiny).stages["base"]
    return StableDiffusionBackbone.load(stable_diffusion[1].partition("=")[2]).stages["base"]


def test_the_masked_subject_term_is_a_plain_mean_over_the_mask_and_the_prior_is_untouched(stage):
    module = TwoTermModule(stage, DreamBooth(), PROMPTS, 1.0, 1e-5, torch.optim.AdamW)
    subject, prior = draw(stage, 2, 1), draw(stage, 2, 2)
    half = torch.zeros(2, 1, *stage.x_shape[1:])
    half[0, :, :, : stage.x_shape[2] // 2] = 1  # left half
    half[1, :, : stage.x_shape[1] // 2] = 0.5  # upper half, half as sure
    plain, found = module.calc_loss(subject, prior), module.calc_loss(subject, prior, half)

    schedule = stage.schedule
    with torch.no_grad():
        z_t = schedule.corrupt(subject.x, subject.eps, subject.t)
        text = stage.encode_prompts(["a qa dog"] * 2)
        error = stage.predict(z_t, subject.t, text) - schedule.target(
            subject.x, subject.eps, subject.t
        )
    left = error[0, :, :, : stage.x_shape[2] // 2].square().mean()
    upper = error[1, :, : stage.x_shape[1] // 2].square().mean()
    torch.testing.assert_close(found.subject, (left + upper) / 2, rtol=1e-5, atol=1e-6)
    assert torch.equal(found.prior, plain.prior)
    assert not torch.allclose(found.subject, plain.subject, rtol=1e-3)
    ones = module.calc_loss(subject, prior, torch.ones_like(half))
    assert all(torch.equal(*pair) for pair in zip(ones, plain, strict=True))


def folder_words(folder):
    return ("subject=folder", f"photos={folder}", "class_noun=dog")


def test_a_caption_may_have_an_identifier_of_several_words(tiny, tmp_path):
    folder = photos_folder(tmp_path / "photos")
    (folder / "0.txt").write_text("a zzz yyy dog in the snow")
    subject = subject_from_folder(str(folder), "dog", prompts="minibench")
    backbone = CascadeBackbone.load(tiny)
    check_photos(DreamBooth(), subject, PromptNames("zzz yyy", "dog", "dog"), backbone)
    with pytest.raises(ValueError, match="does not name the subject"):
        check_photos(DreamBooth(), subject, PromptNames("zz", "dog", "dog"), backbone)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cascade", "latent"])
def test_white_masks_train_the_same_bits_as_none_and_half_masks_others(
    tiny, tmp_path, stable_diffusion, model
):
    own = stable_diffusion if model == "latent" else ("subject.prompts=minibench", "sr=noise_1e-5")
    boxes = {"none": None, "white": (0, 0, 40, 40), "half": (0, 0, 20, 40)}
    for name, box in boxes.items():
        photos = photos_folder(tmp_path / name)
        if box:
            for photo in sorted(photos.glob("*.jpg")):
                mask_file(photo, box)
        cache = f"prior.cache={tmp_path / name}-prior"
        ended = train(tiny, tmp_path / f"run-{name}", *folder_words(photos), *SMALL, *own, cache)
        assert ended.code == 0, ended.output
    runs = [tmp_path / f"run-{name}/weights" for name in boxes]
    assert same_files(runs[0], runs[1], "*.safetensors")
    assert not same_files(runs[0], runs[2], "*.safetensors")


@pytest.mark.slow
def test_each_photo_is_trained_under_its_caption_and_shown_with_caption_and_mask(
    tiny, tmp_path, monkeypatch
):
    folder = photos_folder(tmp_path / "photos", size=(64, 64))
    (folder / "0.txt").write_text("a {} on the beach")
    (folder / "2.txt").write_text("a zzz dog in the snow")
    mask_file(folder / "1.jpg", (0, 0, 32, 64))
    seen = []
    calc_loss = TwoTermModule.calc_loss

    def watched(self, subject, prior, mask=None):
        for x, prompt, m in zip(subject.x, subject.prompt, mask, strict=True):
            seen.append((x.mean().item(), self.prompts["subject"][prompt], m.mean().item()))
        return calc_loss(self, subject, prior, mask)

    monkeypatch.setattr(TwoTermModule, "calc_loss", watched)
    own = (*folder_words(folder), "subject.prompts=minibench", "identifier.text=zzz", "prior=off")
    wandb = ("logger=wandb", "logger.project=test")
    ended = train(tiny, tmp_path / "run", *own, *SMALL, *wandb)
    assert ended.code == 0, ended.output
    run = Run.load_finished(tmp_path / "run")
    shown = run.images.read("photos")
    by_photo = {p.index: p for p in shown}
    prompts = ["a zzz dog on the beach", "a zzz dog", "a zzz dog in the snow"]
    assert [by_photo[i].prompt for i in range(3)] == prompts
    assert {(prompt, area) for _, prompt, area in seen} == {
        (prompts[0], 1.0),
        (prompts[1], 0.5),
        (prompts[2], 1.0),
    }
    means = {p.prompt: p.pixels.float().mean().item() / 127.5 - 1 for p in shown}
    assert all(means[prompt] == pytest.approx(mean, abs=0.01) for mean, prompt, _ in seen)

    sheet = run.folder / "images/photos.png"
    ((logged,),) = read_offline(run.folder).history["photos/filenames"]
    assert (
        run.folder / "wandb" / "latest-run" / "files" / logged
    ).read_bytes() == sheet.read_bytes()


def test_the_overlay_is_red_where_the_mask_is_black():
    pixels = torch.full((3, 2, 2), 100, dtype=torch.uint8)
    mask = torch.tensor([[[1.0, 0.0], [1.0, 0.5]]])
    shown = overlay(pixels, mask)
    assert torch.equal(shown[:, :, 0], pixels[:, :, 0])
    assert shown[:, 0, 1].tolist() == [193, 40, 40]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("a dog on the beach", "the caption 'a dog on the beach' does not name the subject: write"),
        ("a {} on the sofa", "the word 'sofa' of 'a zzz dog on the sofa' is outside the vocab"),
    ],
)
def test_a_caption_that_does_not_fit_is_refused_before_training(tiny, tmp_path, caption, said):
    folder = photos_folder(tmp_path / "photos")
    (folder / "0.txt").write_text(caption)
    own = (*folder_words(folder), "subject.prompts=minibench", "identifier.text=zzz")
    assert said in train(tiny, tmp_path / "run", *own, *SMALL).sentence
