import math
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import distributed

from dreambooth.metrics.evaluation import PictureSets, evaluate
from dreambooth.metrics.functional import copied_of_unseen
from dreambooth.metrics.intervals import ci95, mean, units
from dreambooth.metrics.scoring import FidelityScorer
from dreambooth.miniature.subjects import drawn_subject
from dreambooth.runs.pictures import Picture
from dreambooth.subjects.photos import to_uint8

SUBJECT = drawn_subject("dog", 7)


class MeanColour:
    """Features: mean colour of each of side x side fields of an image; of a text, its letters'
    counts, which compare with 2 x 2 fields."""

    protocol = "mean colours"

    def __init__(self, side=2):
        self.side, self.seen = side, 0

    def images(self, images):
        images = list(images)
        self.seen += len(images)
        pooled = [F.adaptive_avg_pool2d(i.float(), self.side).flatten() for i in images]
        return F.normalize(torch.stack(pooled)) if pooled else torch.empty(0, 3 * self.side**2)

    def texts(self, texts):
        counts = [[1.0 + text.count(c) for c in "abcdeghimnor"] for text in texts]
        return F.normalize(torch.tensor(counts).reshape(-1, 12))


class MeanDifference:
    protocol = "mean difference"

    def pairs(self, a, b):
        return (a.float() - b.float()).abs().flatten(1).mean(1)


def pictures(prompt, count, seed):
    noise = np.random.default_rng(seed)
    return [
        Picture(torch.from_numpy(noise.integers(0, 255, (3, 64, 64), np.uint8)), prompt, i)
        for i in range(count)
    ]


PROMPTS = [*pictures("a kzn dog in the snow", 2, 1), *pictures("a red kzn dog", 3, 2)]
OF_CLASS = pictures("a dog", 4, 3)


def scored(scorer, prompts, class_prompts=(), subject=SUBJECT):
    scores = scorer.score(PictureSets(subject, "kzn", prompts, class_prompts))
    return scores.rows, scores.metrics


def cosines(a, b):
    a, b = a.double().numpy(), b.double().numpy()
    return a @ b.T


def test_the_scores_are_those_of_a_plain_recomputation():
    dino, clip = MeanColour(4), MeanColour()
    rows, metrics = scored(FidelityScorer(dino, clip), PROMPTS, OF_CLASS)
    pixels = [p.pixels for p in PROMPTS]
    real, drawn = dino.images(SUBJECT.originals()), dino.images(pixels)
    among = cosines(real, real)[~np.eye(len(real), dtype=bool)]
    nearest = cosines(drawn, real).max(1)
    texts = clip.texts(["a dog in the snow"] * 2 + ["a red dog"] * 3)
    by_clip = cosines(clip.images(pixels), clip.images(SUBJECT.originals()))
    own = cosines(drawn, drawn)
    pairs = [own[0, 1], own[2, 3], own[2, 4], own[3, 4]]
    assert metrics["dino"].value == pytest.approx(cosines(drawn, real).mean())
    assert metrics["clip_i"].value == pytest.approx(by_clip.mean())
    assert metrics["clip_t"].value == pytest.approx(
        np.diag(cosines(clip.images(pixels), texts)).mean()
    )
    assert abs(metrics["clip_i"].value - metrics["dino"].value) > 1e-3  # they are told apart
    assert metrics["copy"].value == pytest.approx(nearest.mean())
    assert metrics["copied"].value == pytest.approx((nearest > among.max() + 1e-6).mean())
    assert metrics["div"].value == pytest.approx(1 - np.mean(pairs), abs=1e-6)
    assert metrics["div"].count == 4
    of_prompts = units([[1 - pairs[0]], [1 - pair for pair in pairs[1:]]])
    assert metrics["div"].ci95 == pytest.approx(ci95(of_prompts), abs=1e-5)
    one_prompt = scored(FidelityScorer(dino, clip), PROMPTS[2:])[1]
    assert (one_prompt["div"].count, one_prompt["div"].ci95) == (3, None)
    assert "interval over prompts" in metrics["div"].protocol
    of_class = dino.images([p.pixels for p in OF_CLASS])
    assert metrics["pres"].value == pytest.approx(cosines(of_class, real).mean())
    of_a_prompt = {"dino", "clip_i", "clip_t", "copy", "copied", "div"}
    assert [set(row) for row in rows] == [of_a_prompt] * 5 + [{"pres"}] * 4
    assert rows[0]["div"] == rows[1]["div"] == pytest.approx(1 - own[0, 1], abs=1e-6)
    assert rows[2]["div"] == pytest.approx(1 - (own[2, 3] + own[2, 4]) / 2, abs=1e-6)
    assert np.mean([row["dino"] for row in rows[:5]]) == pytest.approx(metrics["dino"].value)


def test_each_picture_goes_through_each_encoder_once():
    dino, clip = MeanColour(), MeanColour()
    scored(FidelityScorer(dino, clip), PROMPTS, OF_CLASS)
    num_photos = len(SUBJECT.originals())
    unseen = len(SUBJECT.held_out(64))
    assert dino.seen == len(PROMPTS) + len(OF_CLASS) + num_photos + unseen
    assert clip.seen == len(PROMPTS) + num_photos


def test_a_distance_on_pixels_takes_the_place_of_the_features():
    encoder = MeanColour()
    scorer = FidelityScorer(encoder, encoder, MeanDifference())
    rows, metrics = scored(scorer, PROMPTS, OF_CLASS)
    x = [p.pixels.double().numpy() for p in PROMPTS]
    pairs = [np.abs(x[i] - x[j]).mean() for i, j in [(0, 1), (2, 3), (2, 4), (3, 4)]]
    assert metrics["div"].value == pytest.approx(np.mean(pairs))
    assert rows[1]["div"] == pytest.approx(pairs[0])
    assert rows[4]["div"] == pytest.approx((pairs[2] + pairs[3]) / 2)
    assert "mean difference" in metrics["div"].protocol


def _rank(rank, folder):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    store = f"file://{folder / 'store'}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    torch.save(scores_of_pixels(), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def scores_of_pixels():
    """Of four prompts, which two ranks share, images of each scattered among the others."""
    encoder = MeanColour()
    more = [*pictures("a kzn dog", 2, 4), *pictures("a kzn dog on a boat", 3, 5)]
    scorer = FidelityScorer(encoder, encoder, MeanDifference())
    return scored(scorer, [*PROMPTS[::2], *more, *PROMPTS[1::2]], OF_CLASS)


@pytest.mark.slow
def test_two_ranks_have_the_same_bits_as_one(tmp_path):
    torch.multiprocessing.spawn(_rank, (tmp_path,), nprocs=2)
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=False) == scores_of_pixels()


def test_the_mean_of_the_rows_is_the_reported_value_to_the_bit():
    rows, metrics = scores_of_pixels()
    for name in ("dino", "clip_i", "clip_t", "copy", "copied", "pres"):
        assert metrics[name].value == mean(rows, name, "").value, name


def test_the_identifier_is_left_out_of_the_text_unless_it_is_kept():
    encoder = MeanColour()
    stripped = scored(FidelityScorer(encoder, encoder), PROMPTS)[1]["clip_t"]
    kept = scored(FidelityScorer(encoder, encoder, keep_identifier=True), PROMPTS)[1]["clip_t"]
    assert stripped.value != kept.value
    assert "[V] left out" in stripped.protocol
    assert "[V] stays" in kept.protocol


def test_only_shares_have_the_intervals_of_shares():
    """Images that are photos, all the same: cosines of 1, distances of 0."""
    photo = SUBJECT.originals()[0]
    same = [Picture(photo, prompt, i) for prompt in ("a red kzn dog", "a kzn dog") for i in (0, 1)]
    scorer = FidelityScorer(MeanColour(), MeanColour(), MeanDifference())
    metrics = evaluate([scorer], PictureSets(SUBJECT, "kzn", same, [])).metrics
    assert metrics["div"].ci95 == (0, 0)
    assert metrics["copy"].ci95 == pytest.approx((1, 1))
    low, high = metrics["copied"].ci95
    assert 0.1 < low < high == 1  # two prompts


def test_copied_has_the_share_of_photos_that_no_training_saw_beside_it():
    encoder = MeanColour()
    metrics = scored(FidelityScorer(encoder, encoder), PROMPTS)[1]
    real, unseen = encoder.images(SUBJECT.originals()), SUBJECT.held_out(64)
    drawn = encoder.images(list(to_uint8(unseen)))
    among = cosines(real, real)[~np.eye(len(real), dtype=bool)].max()
    expected = (cosines(drawn, real).max(1) > among + 1e-6).mean()
    assert metrics["copied_null"].value == pytest.approx(expected)
    assert metrics["copied_null"].count == len(unseen) == 16
    assert "16 photos of the subject that no training saw" in metrics["copied_null"].protocol


@pytest.mark.parametrize(
    ("num_photos", "share"), [(1, math.nan), (2, math.nan), (3, 2 / 3), (5, 0.4)]
)
def test_of_a_folder_of_photos_each_is_left_out_and_the_nearest_two_are_nearer(num_photos, share):
    photos = torch.randn(num_photos, 8, generator=torch.Generator().manual_seed(0))
    found = copied_of_unseen(photos)
    assert found.mean().item() == pytest.approx(share, nan_ok=True)


def test_no_pictures_give_no_numbers_and_one_photo_no_share_of_copies():
    encoder = MeanColour()
    one = drawn_subject("dog", 7, num_photos=1)
    _, metrics = scored(FidelityScorer(encoder, encoder), PROMPTS[:1], subject=one)
    assert metrics["dino"].count == 1
    for name in ("pres", "div", "copied"):
        assert math.isnan(metrics[name].value), name
        assert metrics[name].count == 0
    _, metrics = scored(FidelityScorer(encoder, encoder), [])
    assert all(m.count == 0 for name, m in metrics.items() if name != "copied_null")
