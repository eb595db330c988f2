import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dreambooth.metrics.detail import DetailScorer, detail_energy, kept_and_invented
from dreambooth.metrics.evaluation import PictureSets
from dreambooth.miniature.scoring import layout_error
from dreambooth.miniature.world import COLOURS, individual
from dreambooth.runs.pictures import Picture

DRAWN = SimpleNamespace(held_out=lambda px: images())
FOLDER = SimpleNamespace(held_out=None)


def images(seed=0, count=3):
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def pictures(x):
    return [Picture((one * 255).round().to(torch.uint8), "a dog", i) for i, one in enumerate(x)]


def sets(subject, prompts=(), restored=(), originals=()):
    return PictureSets(
        subject, "kzn", pictures(prompts), [], pictures(restored), pictures(originals)
    )


def test_energy_is_that_of_what_shrinking_loses():
    x = images()
    low = x.double().numpy().reshape(3, 3, 32, 2, 32, 2).mean((3, 5))
    enlarged = F.interpolate(torch.from_numpy(low), 64, mode="bilinear").numpy()
    expected = ((x.double().numpy() - enlarged) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(detail_energy(x, 32).numpy(), expected, rtol=1e-4)


def test_a_flat_image_has_none_and_contrast_counts_squared():
    assert detail_energy(torch.full((1, 3, 64, 64), 0.3), 32).item() == pytest.approx(0, abs=1e-12)
    x = images()
    torch.testing.assert_close(detail_energy(x / 2, 32), detail_energy(x, 32) / 4)


def test_blur_is_below_one_and_noise_above():
    sharp = images()
    subject = SimpleNamespace(photos=lambda px: sharp * 2 - 1)
    blurred = F.interpolate(F.avg_pool2d(sharp, 2), 64, mode="bilinear")
    noisy = (sharp + 0.5 * (images(1) - 0.5)).clamp(0, 1)
    of = {
        name: DetailScorer(32).score(sets(subject, x)).metrics["detail"].value
        for name, x in (("photos", sharp), ("blurred", blurred), ("noisy", noisy))
    }
    assert of["photos"] == pytest.approx(1, abs=0.01)
    assert of["blurred"] < 0.2
    assert of["noisy"] > 1.05


def test_enlarged_photos_are_compared_each_with_its_original():
    x, y = images(), images(1)
    scores = DetailScorer(32).score_restored(sets(DRAWN, restored=y, originals=x))
    rows, metrics = scores.rows, scores.metrics
    quantised = [(v * 255).round() / 255 for v in (x, y)]
    for row, one, other in zip(rows, *quantised, strict=True):
        mse = float((one - other).square().mean())
        assert row["sr_psnr"] == pytest.approx(-10 * math.log10(mse), abs=1e-3)
        ratio = detail_energy(other[None], 32) / detail_energy(one[None], 32)
        assert row["sr_detail"] == pytest.approx(ratio.item(), rel=1e-4)
    same = DetailScorer(32).score_restored(sets(DRAWN, restored=x, originals=x)).metrics
    assert same["sr_ssim"].value == pytest.approx(1)
    assert same["sr_detail"].value == pytest.approx(1)
    assert metrics["sr_ssim"].value < 0.2


def test_it_is_said_which_photos_were_enlarged():
    unseen, trained = (
        DetailScorer(32).score_restored(sets(who, restored=images(), originals=images(1))).metrics
        for who in (DRAWN, FOLDER)
    )
    for name in unseen:
        assert "photos that no training saw" in unseen[name].protocol
        assert "the training's own photos" in trained[name].protocol


def test_detail_is_what_is_kept_of_the_original_and_what_is_invented():
    x, other = images(), images(1)
    kept, invented = kept_and_invented(x, x, 32)
    torch.testing.assert_close(kept, torch.ones(3))
    torch.testing.assert_close(invented, torch.zeros(3), atol=1e-6, rtol=0)
    blurred = (x + F.interpolate(F.avg_pool2d(x, 2), 64, mode="bilinear")) / 2
    kept, invented = kept_and_invented(blurred, x, 32)
    assert (kept > 0.4).all()
    assert (kept < 0.8).all()
    noisy = kept_and_invented(x + 0.3 * (other - 0.5), x, 32)
    assert (noisy[1] > invented).all()
    assert (noisy[0] > 0.9).all()
    kept, invented = kept_and_invented(other, x, 32)
    ratio = detail_energy(other, 32) / detail_energy(x, 32)
    torch.testing.assert_close(kept**2 + invented, ratio)


def test_the_layout_error_counts_the_pixels_that_changed_their_colour():
    who = individual("dog", 7)
    main, second = (torch.tensor(COLOURS[c], dtype=torch.uint8) for c in (who.main, who.second))
    original = main.view(3, 1, 1).expand(3, 8, 8).clone()
    original[:, 4:] = second.view(3, 1, 1)
    assert layout_error(original, original, who) == 0
    changed = original.clone()
    changed[:, 4:6] = main.view(3, 1, 1)
    assert layout_error(changed, original, who) == pytest.approx(0.25)
    assert layout_error(original, torch.zeros_like(original), who) is None
