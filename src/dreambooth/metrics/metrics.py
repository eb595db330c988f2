"""The scores as torchmetrics classes: the means of functional.py over batches and processes.

A run computes its scores with these classes (scoring.py). `update` takes features, not images: they
are computed once per image (encoders.py), serve every metric and may be on any device. `compute`
returns the mean over all images (or pairs) of all batches and processes, whatever their sizes.
Images whose score is NaN are left out of the mean, and a process may have no images. Without any
images, or any pairs, the result is NaN and not an error, so that a run that lacks a score can go
on. No real photos raise the ValueError of functional.py.

    dino = DinoSimilarity()
    dino.update(encoder.images(generated), encoder.images(photos))
    dino.compute()  # float64, a scalar

Set torchmetrics' option `sync_on_compute=False` if every process has all images.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from math import comb
from typing import Any

import torch
from torch import Tensor, distributed
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from dreambooth.metrics.functional import (
    copy_score,
    cosine_distance,
    diversity,
    pairwise_similarity,
    prior_preservation,
    self_similarity,
    text_similarity,
)
from dreambooth.metrics.intervals import pooled_mean
from dreambooth.randomness import seed_of


class _MeanOverImages(Metric):
    """Stores the score of each image, in float64 and in order, and computes their mean."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    scores: list[Tensor] | Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(dist_sync_fn=_gather, **kwargs)
        self.add_state("scores", [], dist_reduce_fx="cat")

    def _add(self, scores: Tensor) -> None:
        assert isinstance(self.scores, list), "a tensor only while processes are synchronized"
        self.scores.append(scores.to(self.device))

    def per_image(self) -> Tensor:
        """The score of each image of this process: (N,)."""
        return _concatenated(self.scores)

    def compute(self) -> Tensor:
        return _mean(self.scores)


class _PairwiseSimilarity(_MeanOverImages):
    def update(self, images: Tensor, real: Tensor | None = None) -> None:
        """Add generated images (G, D), compared with real photos (R, D).

        Without `real`, `images` are the real photos (G >= 2), each compared with the others.
        """
        self._add(self_similarity(images) if real is None else pairwise_similarity(images, real))


class DinoSimilarity(_PairwiseSimilarity):
    """DINO = mean_{g, r} cos(f_g, f_r) over all generated x real pairs, f: DINO ViT-S/16.

    Subject fidelity that distinguishes individuals of a class (paper, section 4.1). In [-1, 1],
    higher is better; real photos among themselves have 0.774 in the paper's table 1.
    update((G, D), (R, D)), or update((R, D)) for real photos.
    """


class ClipImageSimilarity(_PairwiseSimilarity):
    """CLIP-I = mean_{g, r} cos(f_g, f_r) over all generated x real pairs, f: CLIP's image encoder.

    Subject fidelity (paper, section 4.1). In [-1, 1], higher is better; real photos have 0.885.
    update((G, D), (R, D)), or update((R, D)) for real photos.
    """


class ClipTextSimilarity(_MeanOverImages):
    """CLIP-T = mean_i cos(f_i, h_i), f: CLIP's image encoder, h_i: its text encoder on i's prompt.

    Prompt fidelity (paper, section 4.1). In [-1, 1], higher is better; neither clamped nor scaled,
    unlike torchmetrics' CLIPScore. The paper does not say whether [V] stays in the text: see
    `without_identifier`. update((N, D), (N, D)), one text for each image.
    """

    def update(self, images: Tensor, texts: Tensor) -> None:
        self._add(text_similarity(images, texts))


class PriorPreservation(_MeanOverImages):
    """PRES = mean_{g, r} cos(f_g, f_r), g: images of the class prompt, r: photos, f: DINO.

    Measures how far the class has collapsed onto the subject (paper, section 4.3, table 3: 0.493
    with the prior term, 0.664 without). In [-1, 1], lower is better. update((G, D), (R, D)).
    """

    higher_is_better = False

    def update(self, of_class: Tensor, real: Tensor) -> None:
        self._add(prior_preservation(of_class, real))


class CopyScore(_MeanOverImages):
    """Closeness to the training photos: copying them also gives high DINO. Not in the paper.

    compute() = {"copy": mean_g max_r cos(f_g, f_r), in [-1, 1],
                 "copied": share of images closer to a photo than photos are to each other}

    as defined by `copy_score`; lower is better. The share is NaN if the subject has only one photo.
    update((G, D), (R, D)), with all photos of the subject in each update.
    """

    higher_is_better = False
    closer: list[Tensor] | Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("closer", [], dist_reduce_fx="cat")

    def update(self, generated: Tensor, real: Tensor) -> None:
        assert isinstance(self.closer, list)
        scores = copy_score(generated, real)
        self._add(scores.nearest)
        self.closer.append(scores.closer.to(self.device))

    def closer_per_image(self) -> Tensor:
        """1 for each image that counts as copied, else 0; NaN if undefined: (N,)."""
        return _concatenated(self.closer)

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        return {"copy": _mean(self.scores), "copied": _mean(self.closer)}


class Diversity(Metric):
    """DIV = mean distance(i, j) over all pairs of images of the same prompt, each pair once.

    Paper, section 4.3, table 3 (LPIPS: 0.391 with the prior term, 0.371 without). >= 0, higher is
    better. `distance` maps two batches (P, ...) to (P,): `LpipsDistance.pairs`, for which `update`
    takes pixels (N, 3, H, W), or `cosine_distance`, for which it takes features (N, D).

    All images of a prompt must come in one update of one process; an update may hold several
    prompts. So pixels need to be in memory for one prompt at a time, and processes can share the
    prompts.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    distances: list[Tensor] | Tensor  # (P,): one for each pair
    prompts: list[Tensor] | Tensor  # (K, 2) int64: the key of each prompt, and its number of pairs

    def __init__(
        self, distance: Callable[[Tensor, Tensor], Tensor] = cosine_distance, **kwargs: Any
    ) -> None:
        super().__init__(dist_sync_fn=_gather, **kwargs)
        self.distance = distance
        self.add_state("distances", [], dist_reduce_fx="cat")
        self.add_state("prompts", [], dist_reduce_fx="cat")

    def update(self, images: Tensor, prompts: Sequence[str]) -> None:
        assert isinstance(self.distances, list), "a tensor only while processes are synchronized"
        assert isinstance(self.prompts, list)
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images have {len(prompts)} prompts: give one for each")
        self.distances.append(diversity(images, prompts, self.distance).to(self.device))
        pairs = [[seed_of(p), comb(count, 2)] for p, count in Counter(prompts).items()]
        self.prompts.append(torch.tensor(pairs, dtype=torch.int64, device=self.device).view(-1, 2))

    def by_prompt(self) -> list[Tensor]:
        """The distances of each prompt's pairs, for the prompts of all processes."""
        with self.sync_context(self.dist_sync_fn, should_sync=self.sync_on_compute):
            return self._by_prompt()

    def compute(self) -> Tensor:
        mean = pooled_mean([distances.tolist() for distances in self._by_prompt()])
        return torch.tensor(mean, dtype=torch.float64, device=self.device)

    def _by_prompt(self) -> list[Tensor]:
        keys, num_pairs = _concatenated(self.prompts).long().view(-1, 2).unbind(1)
        if len(keys.unique()) < len(keys):
            raise ValueError(
                "the images of a prompt came in several updates: give them in one update"
            )
        return list(_concatenated(self.distances).split(num_pairs.tolist()))


def _concatenated(state: list[Tensor] | Tensor) -> Tensor:
    return dim_zero_cat(state) if len(state) else torch.empty(0, dtype=torch.float64)


def _mean(state: list[Tensor] | Tensor) -> Tensor:
    scores = _concatenated(state)
    mean = pooled_mean(scores[~scores.isnan()][:, None].tolist())  # each image is a group
    return torch.tensor(mean, dtype=torch.float64, device=scores.device)


def _gather(state: Tensor, group: Any) -> list[Tensor]:
    """Gather a state from all processes. torchmetrics' function fails if one has no images."""
    states = [state] * distributed.get_world_size(group)
    distributed.all_gather_object(states, state.cpu(), group)
    return [s.to(state.device) for s in states if s.numel()] or [state]
