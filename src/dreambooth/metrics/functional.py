"""The scores as pure functions of features: DINO, CLIP-I, CLIP-T, PRES, DIV and a copy score.

Ruiz et al., arXiv 2208.12242, sections 4.1 (DINO, CLIP-I, CLIP-T) and 4.3 (PRES, DIV). With the
features f in R^D of an image or text, of any norm, cos(a, b) = <f_a, f_b> / (|f_a| |f_b|).

Letters: G generated images, R real photos, N images, P pairs of images, D feature dimensions.
Every function returns one value per image or pair, from which intervals can be computed; the score
is their mean. All functions compute and return float64, so that the mixed precision or TF32 of a
training does not affect them. A NaN feature makes its scores NaN. No generated images give no
values; no real photos raise a ValueError.
"""

import re
from collections.abc import Callable, Hashable, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# Two float32 encodings of one image may differ this much in similarity.
_ROUNDING = 1e-6
_PAIRS_AT_ONCE = 64  # since the pixels of all pairs of a prompt may not fit in memory


def pairwise_similarity(generated: Tensor, real: Tensor) -> Tensor:
    """mean_r cos(g, r) for each generated image g, over all real photos r: (G,) in [-1, 1].

    The mean is the paper's DINO or CLIP-I, depending on the encoder. generated (G, D), real (R, D).
    """
    return _unit(generated) @ _unit(_not_empty(real)).mean(dim=0)  # the dot product is linear


def self_similarity(real: Tensor) -> Tensor:
    """mean_{s != r} cos(r, s) for each real photo r, over all others s: (R,) in [-1, 1].

    This gives the row "real images" of the paper's table 1. A photo is not paired with itself, but
    is paired with duplicates: identical photos give 1, orthogonal features 0. real (R, D);
    ValueError for R < 2.
    """
    if len(real) < 2:
        raise ValueError(f"photos are compared with each other: 2 are needed, not {len(real)}")
    return _cosines(real, real).fill_diagonal_(0).sum(dim=1) / (len(real) - 1)


def text_similarity(images: Tensor, texts: Tensor) -> Tensor:
    """cos(image, text) of each pair, neither clamped nor scaled: (N,) in [-1, 1].

    The mean is CLIP-T. images (N, D), texts (N, D), where text i is the prompt of image i.
    """
    if images.shape != texts.shape:
        raise ValueError(
            "features compared one to one must have the same shape, "
            f"not {tuple(images.shape)} and {tuple(texts.shape)}"
        )
    return (_unit(images) * _unit(texts)).sum(dim=1)


def prior_preservation(of_class: Tensor, real: Tensor) -> Tensor:
    """mean_r cos(g, r) of DINO features for images g of the *class* prompt: (G,) in [-1, 1].

    The mean is PRES; lower is better. A high value means that the class has collapsed onto the
    subject. of_class (G, D): images of "a [class noun]", without [V], by the fine-tuned model;
    real (R, D): the subject's photos.
    """
    return pairwise_similarity(of_class, real)


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - cos(a, b) of each pair: (N,) in [0, 2]. The perceptual distance of the miniature."""
    return 1 - text_similarity(a, b)


def diversity(
    images: Tensor,
    prompts: Sequence[Hashable],
    distance: Callable[[Tensor, Tensor], Tensor] = cosine_distance,
) -> Tensor:
    """distance(i, j) of all pairs of images of the same prompt: (P,) >= 0.

    The mean is DIV. images (N, ...): what `distance` compares, which is pixels for LPIPS (as in the
    paper) or features (N, D) for `cosine_distance`. prompts: the prompt of each image; all images
    show one subject. Each unordered pair counts once, so that a prompt with more images weighs
    more. A prompt with one image has no pairs.
    """
    if len(images) != len(prompts):
        raise ValueError(f"each image needs a prompt: {len(images)} images, {len(prompts)} prompts")
    pairs = _pairs(prompts)
    if not pairs:
        return torch.empty(0, dtype=torch.float64, device=images.device)
    chunks = torch.tensor(pairs, device=images.device).split(_PAIRS_AT_ONCE)
    return torch.cat([distance(images[c[:, 0]], images[c[:, 1]]) for c in chunks]).double()


def diversity_of_each(distances: Tensor, prompts: Sequence[Hashable]) -> Tensor:
    """The mean distance of each image to the others of its prompt: (N,); NaN if there are none.

    `distances`: what `diversity` returns for these prompts. If all prompts have the same number of
    images, the mean over images is DIV.
    """
    total, count = (torch.zeros(len(prompts), dtype=torch.float64) for _ in range(2))
    for (i, j), distance in zip(_pairs(prompts), distances.tolist(), strict=True):
        for image in (i, j):
            total[image] += distance
            count[image] += 1
    return total / count


class CopyScores(NamedTuple):
    """`nearest` (G,) in [-1, 1]; `closer` (G,) 1 or 0, NaN if undefined. See `copy_score`."""

    nearest: Tensor
    closer: Tensor


def copy_score(generated: Tensor, real: Tensor) -> CopyScores:
    """How close generated images are to copies of the training photos, which also have high DINO.

        nearest(g) = max_r cos(g, r)
        closer(g)  = nearest(g) > max_{r != s} cos(r, s)      by more than float32's rounding, 1e-6

    `closer` is 1 if the image is more similar to a photo than the two most similar photos are to
    each other; its mean is the share of such images. It is NaN if there is only one photo or a
    feature is NaN. If a photo occurs twice, no image can be closer than that. generated (G, D),
    real (R, D).
    """
    nearest = _cosines(generated, _not_empty(real)).amax(dim=1)
    among_real = _cosines(real, real).fill_diagonal_(-torch.inf).amax()
    lead = nearest - (among_real if len(real) > 1 else torch.nan)
    return CopyScores(nearest, (lead > _ROUNDING).double().where(~lead.isnan(), torch.nan))


def copied_of_unseen(real: Tensor, unseen: Tensor | None = None) -> Tensor:
    """`closer` of `copy_score` for photos of the subject that no training saw: copied's null.

    unseen (U, D) against real (R, D): (U,). Without unseen photos, each real photo against the
    others: (R,). The two photos most similar to each other are then 1 and the others 0, so the mean
    is 2 / R whatever the photos; a new photo like the others would be 1 with a chance of
    2 / (R + 1).
    """
    if unseen is not None:
        return copy_score(unseen, real).closer
    if len(real) < 2:
        return torch.full((len(real),), torch.nan, dtype=torch.float64)
    others = ~torch.eye(len(real), dtype=torch.bool, device=real.device)
    each = [copy_score(real[i : i + 1], real[others[i]]).closer for i in range(len(real))]
    return torch.cat(each)


def without_identifier(prompt: str, identifier: str, in_its_place: str = "") -> str:
    """The text for CLIP-T: "a kzn dog in the snow" without "kzn" is "a dog in the snow".

    CLIP cannot know [V], and the paper does not say whether it stays in the text. All occurrences
    as whole words are removed, ignoring case. Nothing else changes: "a kzn in the snow" becomes "a
    in the snow", "a kzn" becomes "a", and "kzn" becomes "". An empty identifier removes nothing. So
    every prompt counts in the mean. `in_its_place`: a noun, where the identifier is all that
    stands for the subject, so that all methods are compared on the same text.
    """
    if not identifier.split():
        return prompt
    words = r"\s+".join(map(re.escape, identifier.split()))
    pattern = rf"(?<![\w-]){words}(?![\w-])\s*"
    return re.sub(pattern, f"{in_its_place} ".lstrip(), prompt, flags=re.IGNORECASE).strip()


def _pairs(prompts: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Pairs of images of the same prompt, prompt by prompt."""
    groups: dict[Hashable, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(i)
    return [pair for group in groups.values() for pair in combinations(group, 2)]


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """cos(a_i, b_j) of all pairs: (len(a), len(b))."""
    return _unit(a) @ _unit(b).T


def _unit(features: Tensor) -> Tensor:
    """Features scaled to unit length, in float64."""
    if features.ndim != 2:
        raise ValueError(f"features must be (images, dimensions), not {tuple(features.shape)}")
    return F.normalize(features.double(), dim=1)  # zeros stay: their cosine is 0


def _not_empty(real: Tensor) -> Tensor:
    if not len(real):
        raise ValueError("there are no real photos to compare with: give at least one")
    return real
