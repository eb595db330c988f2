"""The miniature's CLIP and DINO: their training, and that their extractors preprocess alike."""

import colorsys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dreambooth.backbones.cascade import save_as
from dreambooth.metrics.encoders import ClipEncoder, DinoEncoder
from dreambooth.miniature.drawing import draw
from dreambooth.miniature.encoders import (
    ClipPretraining,
    DinoPretraining,
    crop,
    erase_surroundings,
    new_clip,
    new_dino,
    save_clip,
    tint,
    to_dino_input,
    views,
)
from dreambooth.miniature.scenes import nth_scene
from dreambooth.miniature.tokenizer import MAX_TOKENS, build_tokenizer

TEXTS = ["a dog", "a red striped dog in the snow", "a sketch of a sks fish"]


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pixels():
    """uint8 (6, 3, 64, 64)"""
    drawn = np.stack([draw(nth_scene(i, seed=5)) for i in range(6)])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def images(pixels):
    return pixels / 127.5 - 1


@pytest.fixture(scope="module")
def clip(images):
    """A random CLIP whose batch norms have the statistics of `images`; with the initial statistics
    its features would hardly depend on the images."""
    torch.manual_seed(0)
    model = new_clip()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # an average of all batches with equal weights
    with torch.no_grad():
        model.encode_image(images)
    return model.eval()


@pytest.fixture(scope="module")
def clip_folder(clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    save_clip(clip, folder)
    return folder


def tokens(texts):
    padded = build_tokenizer()(texts, padding="max_length", max_length=MAX_TOKENS)
    return torch.tensor(padded.input_ids)


def least_cosine(a, b):
    """Just below 1 for equal features, if one model was saved in float16."""
    return F.cosine_similarity(a, b).min()


@torch.no_grad()
def test_clip_s_extractor_preprocesses_images_as_in_training(clip_folder, clip, pixels, images):
    features = ClipEncoder(clip_folder).images(pixels)
    assert least_cosine(features, clip.encode_image(images)) > 0.999
    assert least_cosine(features, clip.encode_image(images.flip(1))) < 0.99  # other colours


@torch.no_grad()
def test_clip_s_extractor_uses_the_tokenizer_beside_the_weights(clip_folder, clip):
    features = ClipEncoder(clip_folder).texts(TEXTS)
    assert least_cosine(features, clip.encode_text(tokens(TEXTS))) > 0.9999
    assert least_cosine(features, features.roll(1, 0)) < 0.999


@torch.no_grad()
def test_clip_ignores_what_follows_the_end_of_a_text(clip):
    ids = tokens(["a dog"])
    assert ids[0, :4].tolist()[-1] == 2  # [BOS] a dog [EOS]
    beyond, within = ids.clone(), ids.clone()
    beyond[0, 5:] = 30
    within[0, 2] = 30
    torch.testing.assert_close(clip.encode_text(beyond), clip.encode_text(ids))
    assert not torch.allclose(clip.encode_text(within), clip.encode_text(ids), atol=1e-3)


@torch.no_grad()
def test_dino_s_extractor_preprocesses_images_as_in_training(tmp_path, pixels, images):
    torch.manual_seed(0)
    dino = new_dino().eval()
    save_as(dino, tmp_path, torch.float16)
    features = DinoEncoder(tmp_path, resize_px=64, crop_px=64).images(pixels)
    expected = dino(to_dino_input(images)).last_hidden_state[:, 0]
    assert least_cosine(features, expected) > 0.9999
    assert (features - F.normalize(expected, dim=-1)).abs().max() < 2e-3


def test_both_encoders_are_small_enough_to_ship():
    count = sum(p.numel() for model in (new_clip(), new_dino()) for p in model.parameters())
    assert 2 * count <= 6.2e6  # bytes, as float16; all weights together have 45 million


# --- DINO's views ------------------------------------------------------------------------------


def disc(radius):
    """Return (4, 3, 64, 64), a bright, soft disc about the centre; radius 1 is half the image."""
    y, x = torch.meshgrid(*2 * [(torch.arange(64) + 0.5) / 32 - 1], indexing="ij")
    return torch.sigmoid(12 * (radius - (x**2 + y**2).sqrt())).expand(4, 3, 64, 64)


def test_a_crop_of_the_whole_image_turns_and_mirrors_only():
    assert (crop(disc(0.6), 64, (1.0, 1.0), 1.0, noise()) - disc(0.6)).abs().max() < 0.03


def test_a_crop_of_half_the_side_shows_things_twice_as_large():
    once, twice = disc(0.3), crop(disc(0.3), 64, (0.5, 0.5), 0.0, noise())
    area = (once > 0.5).float().mean().item()
    assert (twice > 0.5).float().mean().item() == pytest.approx(4 * area, rel=0.03)


def test_crops_stay_within_the_image_except_for_turned_corners():
    """The pixels of the image are their coordinates, so crops show where they are."""
    y, x = torch.meshgrid(*2 * [(torch.arange(64) + 0.5) / 32 - 1], indexing="ij")
    places = crop(torch.stack([x, y, x]).expand(200, 3, 64, 64), 8, (0.4, 0.6), 1.0, noise())
    centres = places[:, :2].mean((2, 3))
    assert 0.45 < centres.abs().max() < 0.6
    assert centres.mean(0).abs().max() < 0.1


def test_erasing_keeps_the_middle_and_paints_the_rest_in_one_colour(images):
    erased = erase_surroundings(images, noise())
    assert (erased - images)[:, :, 28:36, 28:36].abs().max() < 0.01
    corners = erased[:, :, [0, 0, 63, 63], [0, 63, 0, 63]]
    assert (corners - corners[:, :, :1]).abs().max() < 0.01
    assert (
        corners[1:, :, 0] - corners[:1, :, 0]
    ).abs().max() > 0.2  # a different one for each image


def test_tinting_keeps_the_hue():
    colours = torch.tensor([[0.3, -0.1, -0.4], [-0.3, 0.2, 0.0], [-0.2, -0.3, 0.3]])
    tinted = tint(colours[:, :, None, None].expand(3, 3, 4, 4), noise())[:, :, 0, 0]
    assert not torch.allclose(tinted, colours, atol=0.02)
    hues = [
        [colorsys.rgb_to_hsv(*(c / 2 + 0.5).tolist())[0] for c in row] for row in (colours, tinted)
    ]
    assert hues[1] == pytest.approx(hues[0], abs=1e-3)


def test_views_have_the_documented_sizes_and_depend_on_the_generator_only(images):
    first, again, other = views(images, noise(1)), views(images, noise(1)), views(images, noise(2))
    assert [v.shape[-1] for v in first] == [48, 48, 64, 32, 32]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


# --- training ----------------------------------------------------------------------------------


def steps(module, batch, count):
    module.log = lambda *_, **__: None  # there is no trainer
    optimizer = module.configure_optimizers()["optimizer"]
    losses = []
    for _ in range(count):
        loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        module.on_before_optimizer_step(optimizer)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_few_steps_lower_the_loss_of_clip(images):
    torch.manual_seed(0)
    batch = {"step": 0, "images": images[:3], "tokens": tokens(TEXTS)}
    losses = steps(
        ClipPretraining(new_clip(), num_steps=12, lr=0.2), batch, 8
    )  # warm-up divides lr
    assert losses[-1] < 0.5 * losses[0]


def test_dino_s_teacher_is_the_moving_average_of_the_student(images):
    torch.manual_seed(0)
    dino = DinoPretraining(new_dino(), num_steps=4, lr=1e-2)
    pairs = [(dino.model, dino.teacher), (dino.head, dino.teacher_head)]
    initial = [p.clone() for _, teacher in pairs for p in teacher.parameters()]
    steps(dino, {"step": 0, "images": images[:2]}, 1)
    after = [p for _, teacher in pairs for p in teacher.parameters()]
    torch.testing.assert_close(after, initial)  # updated before the student's first step
    student = [p.detach().clone() for part, _ in pairs for p in part.parameters()]
    assert max((s - i).abs().max() for s, i in zip(student, initial, strict=True)) > 1e-5
    steps(dino, {"step": 0, "images": images[:2]}, 1)
    for now, before, weights in zip(after, initial, student, strict=True):
        torch.testing.assert_close(now, 0.98 * before + 0.02 * weights)


def test_dino_s_loss_is_that_of_the_papers(images):
    """DINO: -sum p_teacher log p_student, the mean over pairs of a middle view and another view,
    with the centre still 0. KoLeo: -mean log of the distance to the nearest neighbour in the batch,
    for each middle view."""
    torch.manual_seed(0)
    dino = DinoPretraining(new_dino(), num_steps=8)
    inputs = [to_dino_input(view) for view in views(images[:3], noise(7))]
    dino.log = lambda *_, **__: None
    loss = dino.training_step({"step": 7, "images": images[:3]}, 0)
    with torch.no_grad():
        states = [
            dino.model(v, interpolate_pos_encoding=True).last_hidden_state[:, 0] for v in inputs
        ]
        outputs = [dino.head(state) for state in states]
    terms = [
        -((outputs[t] / 0.04).softmax(-1) * (outputs[s] / 0.1).log_softmax(-1)).sum(-1).mean()
        for t in (0, 1)
        for s in range(5)
        if s != t
    ]
    spread = []
    for state in states[:2]:
        apart = torch.cdist(*2 * [F.normalize(state, dim=-1)]).fill_diagonal_(9)
        spread.append(-apart.min(1).values.log().mean())
    expected = torch.stack(terms).mean() + 0.1 * torch.stack(spread).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
