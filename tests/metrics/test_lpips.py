from itertools import pairwise

import numpy as np
import pytest
import tiny_encoders
import torch
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity
from torchvision import models

from dreambooth.metrics.encoders import LpipsDistance


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    return tiny_encoders.lpips_backbone(tmp_path_factory.mktemp("lpips") / "alexnet.pth")


def pictures(*sizes, seed=0):
    """Coloured waves with noise: smooth and sharp parts, so that each resize shows."""
    rng, images = np.random.default_rng(seed), []
    for height, width in sizes:
        y, x = np.mgrid[:height, :width] / 40
        waves = [np.sin(a * x + b * y + c) for a, b, c in rng.uniform(-3, 3, (3, 3))]
        pixels = 128 + 90 * np.stack(waves) + rng.normal(0, 25, (3, height, width))
        images.append(torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)))
    return images


def test_lpips_equals_torchmetrics_own_in_float64(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    place.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(models.squeezenet1_1().state_dict(), place)
    a, b = (torch.stack(pictures(*[(64, 80)] * 5, seed=seed)) for seed in (0, 1))
    distances = LpipsDistance("squeeze", batch_size=2).pairs(a, b)

    reference = learned_perceptual_image_patch_similarity(
        a.double() / 255, b.double() / 255, "squeeze", reduction="none", normalize=True
    )
    assert distances.shape == (5,)
    assert distances.min() > 0.01
    torch.testing.assert_close(distances.double(), reference, rtol=0, atol=1e-5)


def test_lpips_is_a_distance_of_each_pair_alone(alexnet):
    lpips = LpipsDistance(backbone=alexnet, batch_size=2)
    sizes = [(64, 64), (64, 64), (64, 64), (40, 70), (40, 70), (64, 64)]
    a, b = pictures(*sizes), pictures(*sizes, seed=1)
    together = lpips.pairs(a, b)
    alone = torch.cat([lpips.pairs([x], [y]) for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(together, lpips.pairs(iter(b), iter(a)))
    assert torch.equal(lpips.pairs(a, a), torch.zeros(6))
    assert lpips.pairs([], []).shape == (0,)


@pytest.mark.slow
def test_lpips_loads_every_backbone_with_its_own_weights(tmp_path):
    a, b = pictures((64, 64)), pictures((64, 64), seed=1)
    found = []
    for net in ("alex", "squeeze"):
        for seed in (0, 1):
            file = tiny_encoders.lpips_backbone(tmp_path / f"{net}{seed}", net, seed)
            found.append(LpipsDistance(net, backbone=file).pairs(a, b))
    assert all(not torch.equal(one, next_one) for one, next_one in pairwise(found))


def test_lpips_tells_of_images_that_it_cannot_compare(alexnet):
    lpips = LpipsDistance(backbone=alexnet)
    for first, second in (((64, 64), (64, 65)), ((31, 64), (31, 64))):
        with pytest.raises(ValueError, match="images of one size, at least 32 px"):
            lpips.pairs(pictures(first), pictures(second))
