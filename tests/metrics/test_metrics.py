from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, distributed
from torchmetrics import Metric

from dreambooth.metrics.functional import (
    copy_score,
    diversity,
    pairwise_similarity,
    self_similarity,
    text_similarity,
)
from dreambooth.metrics.metrics import (
    ClipImageSimilarity,
    ClipTextSimilarity,
    CopyScore,
    DinoSimilarity,
    Diversity,
    PriorPreservation,
)


def features(count: int, seed: int) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) + 0.3


GENERATED, REAL, TEXTS = features(10, 0), features(4, 1), features(10, 2)
GENERATED[7] = REAL[0] + 0.01  # a copy
PIXELS = (100 * GENERATED.abs()).to(torch.uint8).reshape(10, 1, 2, 3).expand(10, 3, 2, 3)
PROMPTS = ["snow"] * 2 + ["beach"] * 5 + ["moon"] + ["fog"] * 2  # no split below parts a prompt


def pixel_distance(a: Tensor, b: Tensor) -> Tensor:
    """Stands for LPIPS: of two batches of pixels (P, 3, H, W)."""
    assert a.dtype == torch.uint8
    return (a.float() - b.float()).abs().mean(dim=(1, 2, 3))


def all_metrics() -> dict[str, Metric]:
    return {
        "dino": DinoSimilarity(),
        "clip_i": ClipImageSimilarity(),
        "clip_t": ClipTextSimilarity(),
        "pres": PriorPreservation(),
        "copy": CopyScore(),
        "div": Diversity(),
        "div_pixels": Diversity(pixel_distance),
    }


def update(metrics: dict[str, Metric], part: slice) -> None:
    for name in ("dino", "clip_i", "pres", "copy"):
        metrics[name].update(GENERATED[part], REAL)
    metrics["clip_t"].update(GENERATED[part], TEXTS[part])
    metrics["div"].update(GENERATED[part], PROMPTS[part])
    metrics["div_pixels"].update(PIXELS[part], PROMPTS[part])


def computed(metrics: dict[str, Metric]) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, metric in metrics.items():
        value = metric.compute()
        values |= {name: value} if isinstance(value, Tensor) else value
    return {name: float(value) for name, value in values.items()}


def expected() -> dict[str, float]:
    """Plain means of the pure functions, which have references of their own."""
    similarity = pairwise_similarity(GENERATED, REAL).mean()
    copies = copy_score(GENERATED, REAL)
    values = {
        "dino": similarity,
        "clip_i": similarity,
        "clip_t": text_similarity(GENERATED, TEXTS).mean(),
        "pres": similarity,
        "copy": copies.nearest.mean(),
        "copied": copies.closer.mean(),
        "div": diversity(GENERATED, PROMPTS).mean(),
        "div_pixels": diversity(PIXELS, PROMPTS, pixel_distance).mean(),
    }
    return {name: float(value) for name, value in values.items()}


def test_the_mean_is_over_images_whatever_the_batches():
    assert 0 < expected()["copied"] < 1
    for parts in ([slice(0, 10)], [slice(0, 7), slice(7, 8), slice(8, 8), slice(8, 10)]):
        metrics = all_metrics()
        for part in parts:
            update(metrics, part)
        assert computed(metrics) == pytest.approx(expected(), rel=1e-6)


def _process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    results = []
    for parts in [
        ([slice(0, 2), slice(2, 7)], [slice(7, 10)]),  # unequal
        ([], [slice(0, 10)]),  # the first process has no images, and never updates
        ([], []),
    ]:
        metrics = all_metrics()
        for part in parts[rank]:
            update(metrics, part)
        results.append(computed(metrics))
        assert computed(metrics) == pytest.approx(results[-1], nan_ok=True)  # states are kept
    torch.save(results, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    torch.multiprocessing.spawn(_process, (tmp_path,), nprocs=2)
    for rank in (0, 1):
        unequal, one_sided, none = torch.load(tmp_path / f"{rank}.pt")
        assert unequal == pytest.approx(expected(), rel=1e-6)
        assert one_sided == pytest.approx(expected(), rel=1e-6)
        assert list(none) == list(expected())
        assert np.isnan(list(none.values())).all()


@pytest.mark.parametrize("metric", [DinoSimilarity(), ClipImageSimilarity()])
def test_real_photos_alone_leave_self_pairs_out(metric):
    for photos, value in [
        (REAL[:1].expand(5, 6), 1.0),
        (torch.eye(4), 0.0),
        (REAL, self_similarity(REAL).mean().item()),
    ]:
        metric.reset()
        metric.update(photos)
        assert metric.compute().item() == pytest.approx(value, abs=1e-12)


@pytest.mark.filterwarnings("ignore:.*before the ``update`` method:UserWarning")
def test_no_images_are_nan():
    never, empty = all_metrics(), all_metrics()
    update(empty, slice(0, 0))
    for metrics in (never, empty):
        assert np.isnan(list(computed(metrics).values())).all()


def test_a_single_image_has_every_score_but_diversity():
    metrics = all_metrics()
    update(metrics, slice(7, 8))
    values = computed(metrics)
    assert {name for name, value in values.items() if np.isnan(value)} == {"div", "div_pixels"}
    assert values["dino"] == pytest.approx(pairwise_similarity(GENERATED[7:8], REAL).item())
    assert values["copied"] == 1


def test_a_single_photo_has_every_score_but_the_share_of_copies():
    dino, copies = DinoSimilarity(), CopyScore()
    for metric in (dino, copies):
        metric.update(GENERATED, REAL[:1])
    values = copies.compute()
    assert dino.compute() == pytest.approx(values["copy"].item())
    assert values["copied"].isnan()


def test_no_photos_and_unequal_numbers_are_refused():
    for metric in (DinoSimilarity(), PriorPreservation(), CopyScore()):
        with pytest.raises(ValueError, match="no real photos"):
            metric.update(GENERATED, REAL[:0])
    with pytest.raises(ValueError, match="same shape"):
        ClipTextSimilarity().update(GENERATED, TEXTS[:1])
    with pytest.raises(ValueError, match="10 images have 9 prompts"):
        Diversity().update(GENERATED, PROMPTS[:9])


def test_pairs_that_two_updates_part_are_refused():
    div = Diversity()
    for part in (slice(0, 4), slice(4, 10)):  # both have images of the beach
        div.update(GENERATED[part], PROMPTS[part])
    with pytest.raises(ValueError, match="came in several updates"):
        div.compute()


def test_the_scores_of_images_are_kept_in_their_order_and_a_nan_is_left_out_of_the_mean():
    images, metrics = GENERATED.clone(), all_metrics()
    images[3] = torch.nan
    for part in (slice(0, 2), slice(2, 10)):
        metrics["dino"].update(images[part], REAL)
        metrics["copy"].update(images[part], REAL)
        metrics["div"].update(GENERATED[part], PROMPTS[part])
    rest = [i for i in range(10) if i != 3]
    similarity, copies = pairwise_similarity(images, REAL), copy_score(images, REAL)
    for scores, expected in (
        (metrics["dino"].per_image(), similarity),
        (metrics["copy"].per_image(), copies.nearest),
        (metrics["copy"].closer_per_image(), copies.closer),
    ):
        torch.testing.assert_close(scores, expected, equal_nan=True)
        assert scores.isnan().tolist() == [i == 3 for i in range(10)]
    assert float(metrics["dino"].compute()) == pytest.approx(similarity[rest].mean().item())
    assert float(metrics["copy"].compute()["copied"]) == copies.closer[rest].mean()
    assert [len(pairs) for pairs in metrics["div"].by_prompt()] == [1, 10, 0, 1]
    distances = torch.cat(metrics["div"].by_prompt())
    torch.testing.assert_close(distances, diversity(GENERATED, PROMPTS))


def test_only_prior_preservation_and_copies_are_better_low():
    lower = {name for name, metric in all_metrics().items() if not metric.higher_is_better}
    assert lower == {"pres", "copy"}
