"""The scores as pure functions on features: DINO, CLIP-I, CLIP-T, PRES, DIV and a copy score.

Ruiz et al., arXiv 2208.12242, section 4.1 (DINO, CLIP-I, CLIP-T) and 4.3 (PRES, DIV). With the
features f of an image or text in R^D, of any length, cos(a, b) = <f_a, f_b> / (|f_a| |f_b|).

Letters: G generated images, R real photos, N images, P pairs of images, D dimensions of a feature.
Every function gives one value per image or pair, so that intervals can be had from them; the score
is their mean. All of them compute and answer in float64: neither mixed precision nor TF32, which a
training may have switched on, reaches them. A feature that is NaN makes its scores NaN. No
generated images are no values; no photos to compare with is a ValueError, a subject's mistake.
"""

import re
from collections.abc import Callable, Hashable, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# A lead in similarity that two encodings of one image may have in float32 is none.
_ROUNDING = 1e-6
_PAIRS_AT_ONCE = 64  # of pixels, a prompt's pairs may be more than memory holds


def pairwise_similarity(generated: Tensor, real: Tensor) -> Tensor:
    """mean_r cos(g, r) for each generated image g, over all real photos r: (G,) in [-1, 1].

    Its mean is the paper's DINO or CLIP-I, by the encoder. generated (G, D), real (R, D).
    """
    return _unit(generated) @ _unit(_some(real)).mean(dim=0)  # the dot product is linear


def self_similarity(real: Tensor) -> Tensor:
    """mean_{s != r} cos(r, s) for each real photo r, over all others s: (R,) in [-1, 1].

    The row "real images" of the paper's table 1. A photo is not paired with itself, but with its
    duplicates: identical photos have 1, orthogonal features 0. real (R, D); ValueError for R < 2.
    """
    if len(real) < 2:
        raise ValueError(f"photos are compared with each other: 2 are needed, not {len(real)}")
    return _cosines(real, real).fill_diagonal_(0).sum(dim=1) / (len(real) - 1)


def text_similarity(images: Tensor, texts: Tensor) -> Tensor:
    """cos(image, text) one to one, neither clamped nor scaled: (N,) in [-1, 1]. Mean: CLIP-T.

    images (N, D) and texts (N, D), text i being what image i was asked to show.
    """
    if images.shape != texts.shape:
        raise ValueError(
            "features compared one to one have the same shape, "
            f"not {tuple(images.shape)} and {tuple(texts.shape)}"
        )
    return (_unit(images) * _unit(texts)).sum(dim=1)


def prior_preservation(of_class: Tensor, real: Tensor) -> Tensor:
    """mean_r cos(g, r) of DINO features for images g of the *class* prompt: (G,) in [-1, 1].

    Its mean is PRES. of_class (G, D): images of "a [class noun]", without [V], by the fine-tuned
    model; real (R, D): the subject's photos. Low is good: high says that the class has collapsed
    onto the subject.
    """
    return pairwise_similarity(of_class, real)


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - cos(a, b) one to one: (N,) in [0, 2]. The miniature's perceptual distance."""
    return 1 - text_similarity(a, b)


def diversity(
    images: Tensor,
    prompts: Sequence[Hashable],
    distance: Callable[[Tensor, Tensor], Tensor] = cosine_distance,
) -> Tensor:
    """distance(i, j) of all pairs of images of the same prompt: (P,) >= 0. Mean: DIV.

    images (N, ...): whatever `distance` compares, pixels for LPIPS (the paper's) or features (N, D)
    for `cosine_distance`; prompts: N names of the groups within which images are paired, of one
    subject. Each unordered pair counts once and all pairs alike, so that a prompt with more images
    weighs more. A prompt with one image has no pair; with none but such there are no values.
    """
    if len(images) != len(prompts):
        raise ValueError(f"every image has a prompt: {len(images)} images, {len(prompts)} prompts")
    pairs = _pairs(prompts)
    if not pairs:
        return torch.empty(0, dtype=torch.float64, device=images.device)
    chunks = torch.tensor(pairs, device=images.device).split(_PAIRS_AT_ONCE)
    return torch.cat([distance(images[c[:, 0]], images[c[:, 1]]) for c in chunks]).double()


def diversity_of_each(distances: Tensor, prompts: Sequence[Hashable]) -> Tensor:
    """Mean distance of each image to the others of its prompt: (N,); NaN for one that is alone.

    `distances`: what `diversity` gives for these prompts. Where prompts have equally many images,
    the mean over images is DIV.
    """
    total, count = (torch.zeros(len(prompts), dtype=torch.float64) for _ in range(2))
    for (i, j), distance in zip(_pairs(prompts), distances.tolist(), strict=True):
        for image in (i, j):
            total[image] += distance
            count[image] += 1
    return total / count


class CopyScores(NamedTuple):
    """Both (G,). `nearest` in [-1, 1]; `closer` 1 or 0, and NaN where nothing can be said."""

    nearest: Tensor
    closer: Tensor


def copy_score(generated: Tensor, real: Tensor) -> CopyScores:
    """How much generated images are the training photos again; high DINO can be had by copying.

        nearest(g) = max_r cos(g, r)
        closer(g)  = nearest(g) > max_{r != s} cos(r, s)      by more than float32's rounding, 1e-6

    `closer`: the image is more like a training photo than the two most alike photos are like each
    other; its mean is the share of such images. With one photo, or NaN, it is NaN: there is nothing
    to hold the similarity against. Photos given twice have 1, and nothing is closer than that.
    generated (G, D), real (R, D).
    """
    nearest = _cosines(generated, _some(real)).amax(dim=1)
    among_real = _cosines(real, real).fill_diagonal_(-torch.inf).amax()
    lead = nearest - (among_real if len(real) > 1 else torch.nan)
    return CopyScores(nearest, (lead > _ROUNDING).double().where(~lead.isnan(), torch.nan))


def without_identifier(prompt: str, identifier: str) -> str:
    """The text of CLIP-T: "a kzn dog in the snow" without "kzn" is "a dog in the snow".

    CLIP cannot know [V], and the paper does not say whether it stays. All occurrences as whole
    words go, in any case, and nothing else: a prompt without a class noun keeps its article ("a kzn
    in the snow" gives "a in the snow", "a kzn" gives "a"), one that is the identifier gives "",
    and an empty identifier takes nothing. So no prompt is left out of the mean.
    """
    if not identifier.split():
        return prompt
    words = r"\s+".join(map(re.escape, identifier.split()))
    return re.sub(rf"(?<![\w-]){words}(?![\w-])\s*", "", prompt, flags=re.IGNORECASE).strip()


def _pairs(prompts: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Pairs of images of the same prompt, prompt by prompt."""
    groups: dict[Hashable, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(i)
    return [pair for group in groups.values() for pair in combinations(group, 2)]


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    return _unit(a) @ _unit(b).T  # (len(a), len(b))


def _unit(features: Tensor) -> Tensor:
    if features.ndim != 2:
        raise ValueError(f"features are (images, dimensions), not {tuple(features.shape)}")
    return F.normalize(features.double(), dim=1)  # zeros stay: their cosine is 0


def _some(real: Tensor) -> Tensor:
    if not len(real):
        raise ValueError("there are no real photos to compare with: give at least one")
    return real
