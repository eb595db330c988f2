import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dreambooth.metrics.functional import (
    copy_score,
    cosine_distance,
    diversity,
    diversity_of_each,
    pairwise_similarity,
    prior_preservation,
    self_similarity,
    text_similarity,
    without_identifier,
)

D = 7


def features(count: int, seed: int) -> Tensor:
    """Not centred, as an encoder's are not: cosines of one sign and of the other."""
    return torch.randn(count, D, generator=torch.Generator().manual_seed(seed)) + 0.3


GENERATED, REAL, TEXTS = features(9, 0), features(4, 1), features(9, 2)


def cosine(a: Tensor, b: Tensor) -> float:
    """The independent reference, one pair at a time in float64."""
    x, y = (np.asarray(v, dtype=np.float64) for v in (a, b))
    return float(sum(x * y) / math.sqrt(sum(x**2)) / math.sqrt(sum(y**2)))


def close(found: Tensor, expected: list[float]) -> None:
    assert found.shape == (len(expected),)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)


def test_pairwise_similarity_is_the_mean_cosine_with_all_photos():
    expected = [np.mean([cosine(g, r) for r in REAL]) for g in GENERATED]
    close(pairwise_similarity(GENERATED, REAL), expected)
    close(prior_preservation(GENERATED, REAL), expected)


def test_self_similarity_leaves_self_pairs_out():
    expected = [
        np.mean([cosine(r, s) for j, s in enumerate(REAL) if i != j]) for i, r in enumerate(REAL)
    ]
    close(self_similarity(REAL), expected)


def test_identical_photos_have_self_similarity_one_and_orthogonal_ones_zero():
    close(self_similarity(REAL[:1].expand(5, D)), [1.0] * 5)
    close(self_similarity(3 * torch.eye(4)), [0.0] * 4)


def test_text_similarity_is_one_to_one_and_not_clamped():
    expected = [cosine(i, t) for i, t in zip(GENERATED, TEXTS, strict=True)]
    assert min(expected) < 0
    close(text_similarity(GENERATED, TEXTS), expected)
    close(cosine_distance(GENERATED, TEXTS), [1 - c for c in expected])


def test_diversity_pairs_images_of_one_prompt_once():
    prompts = ["snow", "beach", "snow", "snow", "moon", "beach"]  # 3 + 1 + 0 pairs
    images = GENERATED[:6]
    expected = [
        1 - cosine(images[i], images[j])
        for i in range(6)
        for j in range(i + 1, 6)
        if prompts[i] == prompts[j]
    ]
    assert len(expected) == 4
    close(diversity(images, prompts).sort().values, sorted(expected))


def test_the_diversity_of_each_image_is_its_mean_distance_to_the_others_of_its_prompt():
    prompts = ["snow", "beach", "snow", "snow", "moon", "beach"]
    images = GENERATED[:6]
    found = diversity_of_each(diversity(images, prompts), prompts)
    assert math.isnan(found[4])
    for i in (0, 1, 2, 3, 5):
        others = [j for j in range(6) if prompts[j] == prompts[i] and j != i]
        expected = sum(1 - cosine(images[i], images[j]) for j in others) / len(others)
        assert float(found[i]) == pytest.approx(expected)


def test_diversity_takes_any_distance_on_pixels():
    pixels = torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1).expand(4, 3, 2, 2)

    def difference(a: Tensor, b: Tensor) -> Tensor:
        return (a.int() - b.int()).abs().float().mean(dim=(1, 2, 3))

    found = diversity(pixels, ["a", "b", "a", "b"], difference)
    assert found.tolist() == [2.0, 2.0]


def test_copy_score_equals_its_definition():
    among_real = max(cosine(REAL[i], REAL[j]) for i in range(4) for j in range(4) if i != j)
    generated = torch.cat([GENERATED, 5 * REAL[2:3]])
    nearest = [max(cosine(g, r) for r in REAL) for g in generated]
    closer = [float(n > among_real) for n in nearest]
    assert set(closer) == {0.0, 1.0}
    found = copy_score(generated, REAL)
    close(found.nearest, nearest)
    close(found.closer, closer)


def test_nothing_is_closer_to_a_photo_than_a_photo_given_twice():
    photos = torch.cat([REAL, REAL])
    assert copy_score(photos, photos).closer.tolist() == [0.0] * 8
    assert copy_score(photos, REAL).closer.tolist() == [1.0] * 8


def test_one_photo_has_a_nearest_similarity_but_nothing_to_hold_it_against():
    found = copy_score(GENERATED, REAL[:1])
    close(found.nearest, [cosine(g, REAL[0]) for g in GENERATED])
    assert found.closer.isnan().all()


SCORES = {
    "pairwise": lambda g: pairwise_similarity(g, REAL),
    "self": self_similarity,
    "text": lambda g: text_similarity(g, TEXTS[: len(g)]),
    "nearest": lambda g: copy_score(g, REAL).nearest,
    "diversity": lambda g: diversity(g, [0] * len(g)),
}


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_the_length_of_features_does_not_count(score):
    lengths = torch.logspace(-4, 4, len(GENERATED), dtype=torch.float64)[:, None]
    torch.testing.assert_close(score(GENERATED * lengths), score(GENERATED))


@pytest.mark.parametrize("name", ["pairwise", "self", "nearest"])
def test_the_order_of_images_only_permutes_their_scores(name):
    order = torch.tensor([4, 2, 8, 0, 1, 7, 3, 6, 5])
    score = SCORES[name]
    torch.testing.assert_close(score(GENERATED[order]), score(GENERATED)[order])


def test_the_order_of_photos_does_not_count():
    torch.testing.assert_close(
        pairwise_similarity(GENERATED, REAL.flip(0)), pairwise_similarity(GENERATED, REAL)
    )
    flipped, straight = copy_score(GENERATED, REAL.flip(0)), copy_score(GENERATED, REAL)
    torch.testing.assert_close(flipped, straight)


@pytest.mark.parametrize("name", ["pairwise", "text", "nearest"])
def test_an_image_scores_alike_alone_and_in_a_batch(name):
    torch.testing.assert_close(SCORES[name](GENERATED[:1]), SCORES[name](GENERATED)[:1])


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_mixed_precision_does_not_reach_the_scores(score):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = score(GENERATED)
    assert mixed.dtype == torch.float64
    torch.testing.assert_close(mixed, score(GENERATED), rtol=0, atol=1e-12)


def test_nan_features_give_nan_and_not_an_absent_copy():
    broken = GENERATED.clone()
    broken[3, 0] = torch.nan
    where = [i == 3 for i in range(len(broken))]
    assert pairwise_similarity(broken, REAL).isnan().tolist() == where
    assert copy_score(broken, REAL).closer.isnan().tolist() == where


def test_no_generated_images_are_no_values():
    none = GENERATED[:0]
    for values in (
        pairwise_similarity(none, REAL),
        text_similarity(none, none),
        diversity(none, []),
        diversity(GENERATED[:2], ["a", "b"]),
        *copy_score(none, REAL),
    ):
        assert values.shape == (0,)
        assert values.dtype == torch.float64


@pytest.mark.parametrize("score", [pairwise_similarity, prior_preservation, copy_score])
def test_no_photos_are_said(score):
    with pytest.raises(ValueError, match="there are no real photos"):
        score(GENERATED, REAL[:0])


@pytest.mark.parametrize("count", [0, 1])
def test_self_similarity_needs_two_photos(count):
    with pytest.raises(ValueError, match=f"2 are needed, not {count}"):
        self_similarity(REAL[:count])


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"not \(9, 7\) and \(1, 7\)"):
        text_similarity(GENERATED, TEXTS[:1])
    with pytest.raises(ValueError, match=r"not \(7,\)"):
        pairwise_similarity(GENERATED[0], REAL)
    with pytest.raises(ValueError, match="9 images, 8 prompts"):
        diversity(GENERATED, ["a"] * 8)


@pytest.mark.parametrize(
    ("prompt", "identifier", "text"),
    [
        ("a kzn dog in the snow", "kzn", "a dog in the snow"),
        ("a painting of a KZN dog", "kzn", "a painting of a dog"),
        ("a sks ohw dog", "sks ohw", "a dog"),
        ("a cat beside a kzn dog, kzn asleep", "kzn", "a cat beside a dog, asleep"),
        ("a catalogue of cats-eyes", "cat", "a catalogue of cats-eyes"),
        ("a v-shaped v dog", "v", "a v-shaped dog"),
        ("a <s*> dog", "<s*>", "a dog"),
        ("a kzn in the snow", "kzn", "a in the snow"),
        ("a kzn", "kzn", "a"),
        ("kzn", "kzn", ""),
        ("a dog", "", "a dog"),
    ],
)
def test_the_identifier_leaves_the_text_as_whole_words(prompt, identifier, text):
    assert without_identifier(prompt, identifier) == text


def test_a_noun_stands_in_the_text_in_place_of_a_description():
    text = without_identifier("a brown dog in the snow", "brown dog", "dog")
    assert text == "a dog in the snow"
    assert without_identifier("a <subject>", "<subject>", "dog") == "a dog"
