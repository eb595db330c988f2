"""Identities of the distances from drawings, and the images that the benchmark compares."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from dreambooth.miniature import WEIGHTS
from dreambooth.miniature.oracle import prompted_values, scene_values
from dreambooth.miniature.quality import (
    UntrainedFeatures,
    contact_sheet,
    distance,
    distances,
    drawings,
    frechet_distance,
    half_size,
    load_extractor,
    precision_and_recall,
    prompted_scenes,
    reference_scenes,
    total_variance,
    warped,
)


def gaussian(count: int, size: int, seed: int) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed)).double()


def test_a_set_has_distance_0_from_itself():
    features = gaussian(300, 16, 0)
    itself = distance(features, features.flip(0))
    assert itself.frechet == pytest.approx(0, abs=1e-9)
    assert itself.normalised == pytest.approx(0, abs=1e-9)
    assert (itself.precision, itself.recall) == (1, 1)


def test_a_shift_adds_its_squared_length():
    features, shift = gaussian(300, 16, 0), gaussian(1, 16, 1)
    assert frechet_distance(features + shift, features) == pytest.approx(
        float(shift.square().sum()), rel=1e-6
    )


def test_doubling_the_spread_adds_the_total_variance():
    features = gaussian(300, 16, 0)
    features -= features.mean(0)  # N(0, C) from N(0, 4 C): tr(C + 4 C - 2 * 2 C) = tr(C)
    wide = distance(2 * features, features)
    assert wide.frechet == pytest.approx(total_variance(features), rel=1e-6)
    assert wide.normalised == pytest.approx(1, rel=1e-6)


def test_frechet_distance_agrees_with_a_matrix_square_root():
    a, b = gaussian(200, 8, 0) @ gaussian(8, 8, 2) + 1, gaussian(150, 8, 1) @ gaussian(8, 8, 3)
    cov_a, cov_b = np.cov(a.numpy().T), np.cov(b.numpy().T)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = float((a.mean(0) - b.mean(0)).square().sum()) + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


def test_the_normalised_distance_ignores_the_scale_and_rotation_of_an_extractor():
    images, reference = gaussian(200, 8, 0) + 0.5, gaussian(150, 8, 1)
    rotation, _ = torch.linalg.qr(gaussian(8, 8, 2))
    original = distance(images, reference)
    scaled = distance(7 * images @ rotation, 7 * reference @ rotation)
    assert scaled.frechet == pytest.approx(49 * original.frechet, rel=1e-6)
    assert scaled.normalised == pytest.approx(original.normalised, rel=1e-6)
    assert (scaled.precision, scaled.recall) == (original.precision, original.recall)


def test_the_repeated_mean_feature_has_normalised_distance_1():
    reference = gaussian(200, 8, 0)
    collapsed = reference.mean(0).expand(200, -1)
    assert distance(collapsed, reference).normalised == pytest.approx(1, rel=1e-6)


def test_disjoint_clusters_have_neither_precision_nor_recall():
    assert precision_and_recall(gaussian(50, 4, 0) + 100, gaussian(60, 4, 1)) == (0, 0)


def test_a_missing_mode_lowers_recall_and_not_precision():
    mode, other = gaussian(50, 4, 0), gaussian(50, 4, 1) + 100
    assert precision_and_recall(mode, torch.cat([mode, other])) == (1, 0.5)
    assert precision_and_recall(torch.cat([mode, other]), mode) == (0.5, 1)


def test_the_radius_of_a_ball_is_the_distance_to_the_third_nearest_neighbour():
    reference = torch.tensor([[0.0], [1.0], [2.0], [4.0]])  # radii 4, 3, 2, 4: covers -4 to 8
    images = torch.tensor([[-4.01], [-4.0], [8.0], [8.01]])  # radii 12.01, 12, 12, 12.01
    assert precision_and_recall(images, reference) == (0.5, 1)
    # With one neighbour the radii are 1, 1, 1, 2, and 0.01, 0.01, 0.01, 0.01.
    assert precision_and_recall(images, reference, neighbours=1) == (0, 0)


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 8\), and \(N, D\) with N >= 4 is needed"):
        precision_and_recall(gaussian(3, 8, 0), gaussian(9, 8, 1))
    with pytest.raises(ValueError, match=r"shape \(1, 8\), and \(N, D\) with N >= 2 is needed"):
        frechet_distance(gaussian(9, 8, 0), gaussian(1, 8, 1))


def test_captions_are_true_and_the_reference_has_other_scenes():
    scenes, captions = prompted_scenes(40)
    for scene, text in zip(scenes, captions, strict=True):
        assert prompted_values(text).items() <= scene_values(scene).items()
    assert not set(scenes) & set(reference_scenes(40))
    assert prompted_scenes(10) == (scenes[:10], captions[:10])


@pytest.mark.slow
def test_a_perfect_model_reaches_the_floor():
    images = drawings(prompted_scenes(60)[0])
    assert images.dtype == torch.uint8
    assert images.shape == (60, 3, 64, 64)
    perfect = distances(images, load_extractor(WEIGHTS / "dino").images)
    assert perfect["images"] == perfect["floor"]
    assert 0 < perfect["floor"].normalised < 0.5  # with as few as 60 images
    one_picture = images[:1].expand(60, -1, -1, -1)
    collapsed = distances(one_picture, load_extractor(WEIGHTS / "dino").images)
    assert collapsed["images"].normalised > 1
    assert collapsed["images"].recall == 0
    assert collapsed["floor"] == perfect["floor"]


@pytest.mark.slow
def test_untrained_features_detect_damage():
    extractor = UntrainedFeatures()
    results = distances(drawings(prompted_scenes(200)[0]), extractor.images)
    for damage in ("warped", "half size"):
        assert results[damage].frechet > 1.5 * results["floor"].frechet, damage
        assert results[damage].precision < results["floor"].precision, damage


def test_untrained_features_are_the_same_everywhere():
    grey = torch.full((1, 3, 64, 64), 200, dtype=torch.uint8)
    features = UntrainedFeatures().images(grey)
    assert features.shape == (1, 336)
    assert float(features.mean()) == pytest.approx(0.259065, rel=1e-4)


def test_warped_and_half_size_change_images_but_not_their_brightness():
    images = drawings(reference_scenes(8))
    flat = torch.full_like(images, 90)
    for damaged in (warped, half_size):
        assert torch.equal(damaged(flat), flat)
        assert not torch.equal(damaged(images), images)
        assert damaged(images).float().mean() == pytest.approx(images.float().mean(), abs=2)
    assert torch.equal(warped(images, shift_px=0), images)


def test_a_missing_extractor_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a folder: give one that holds a DINO ViT"):
        load_extractor(tmp_path / "dino")


def test_the_contact_sheet_has_each_image_twice_as_large_above_its_caption():
    images = drawings(reference_scenes(10))
    longest = "a painting of a sleeping special purple patched rabbit wearing glasses in the jungle"
    sheet = np.asarray(contact_sheet(images, [longest] * 9 + [""]))
    height, width, _ = sheet.shape
    assert width == 8 * 140 + 12
    cell = (height - 12) // 2
    for i, (row, column) in ((0, (0, 0)), (7, (0, 7)), (9, (1, 1))):
        x, y = 12 + 140 * column, 12 + cell * row
        pixels = sheet[y : y + 128 : 2, x : x + 128 : 2]
        assert (pixels == images[i].permute(1, 2, 0).numpy()).all()
    beneath = sheet[12 + 128 : 12 + cell - 12]
    assert (beneath.min((0, 2)).reshape(-1)[12:140] < 128).any(), "the caption"
    borders = [6 + 140 * column for column in range(9)]
    assert (beneath[:, borders] == 255).all(), "no caption reaches into its neighbour's"
    below_the_last = sheet[12 + cell + 128 :, 12 + 140 : 12 + 280]
    assert (below_the_last == 255).all(), "an empty caption"
