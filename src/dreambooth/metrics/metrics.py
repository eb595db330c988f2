"""The scores as torchmetrics: functional.py's means, over batches and over processes.

A run computes its scores with these classes (scoring.py). `update` takes features, not images: they
are computed once per image (encoders.py) and serve every metric. They may lie on any device. The
score of each image is kept, and `compute` is the mean over all images (or pairs) of all batches and
processes, whatever their sizes; an image whose score is NaN is left out, and a process without
images changes nothing. No images at all, or no pairs, give NaN: there is no such number, and a
score that a run lacks should not stop the run. No photos give functional.py's ValueError.

    dino = DinoSimilarity()
    dino.update(encoder.images(generated), encoder.images(photos))
    dino.compute()  # float64, a scalar

`sync_on_compute=False`, torchmetrics' own option, is for processes that each have all images.
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
    """Keeps the score of each image, in float64, in their order."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    scores: list[Tensor] | Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(dist_sync_fn=_gather, **kwargs)
        self.add_state("scores", [], dist_reduce_fx="cat")

    def _add(self, scores: Tensor) -> None:
        assert isinstance(self.scores, list), "concatenated only while processes are in step"
        self.scores.append(scores.to(self.device))

    def per_image(self) -> Tensor:
        """The score of each image that this process was given, (N,)."""
        return _joined(self.scores)

    def compute(self) -> Tensor:
        return _mean(self.scores)


class _PairwiseSimilarity(_MeanOverImages):
    def update(self, images: Tensor, real: Tensor | None = None) -> None:
        """Add images (G, D) against real photos (R, D); without `real`, the images are the real
        photos themselves and are compared with each other, self-pairs left out (G >= 2)."""
        self._add(self_similarity(images) if real is None else pairwise_similarity(images, real))


class DinoSimilarity(_PairwiseSimilarity):
    """DINO = mean_{g, r} cos(f_g, f_r) over all generated x real pairs, f: DINO ViT-S/16.

    Subject fidelity that tells individuals of a class apart (paper, section 4.1). In [-1, 1];
    higher is better, up to what real photos have among themselves (0.774 in the paper's table 1).
    update((G, D), (R, D)), or update((R, D)) for the latter.
    """


class ClipImageSimilarity(_PairwiseSimilarity):
    """CLIP-I = mean_{g, r} cos(f_g, f_r) over all generated x real pairs, f: CLIP's image encoder.

    Subject fidelity (paper, section 4.1), in [-1, 1], higher is better; photos: 0.885.
    update((G, D), (R, D)), or update((R, D)) for photos among themselves.
    """


class ClipTextSimilarity(_MeanOverImages):
    """CLIP-T = mean_i cos(f_i, h_i), f: CLIP's image encoder, h_i: its text encoder on i's prompt.

    Prompt fidelity (paper, section 4.1), in [-1, 1], higher is better; neither clamped nor scaled,
    unlike torchmetrics' CLIPScore. Whether [V] stays in the text is not stated there: see
    `without_identifier`. update((N, D), (N, D)), one text for each image.
    """

    def update(self, images: Tensor, texts: Tensor) -> None:
        self._add(text_similarity(images, texts))


class PriorPreservation(_MeanOverImages):
    """PRES = mean_{g, r} cos(f_g, f_r), g made for the class prompt, r the subject's photos; DINO.

    Whether the class is still more than the subject (paper, section 4.3, table 3: 0.493 with the
    prior term, 0.664 without). In [-1, 1], lower is better. update((G, D), (R, D)).
    """

    higher_is_better = False

    def update(self, of_class: Tensor, real: Tensor) -> None:
        self._add(prior_preservation(of_class, real))


class CopyScore(_MeanOverImages):
    """Nearness to the training photos: high DINO can be had by copying them. Not in the paper.

    compute() = {"copy": mean_g max_r cos(f_g, f_r), in [-1, 1],
                 "copied": share of images closer to a photo than photos are to each other}

    as `copy_score` defines them; lower is better. The share is NaN if a subject has one photo only.
    update((G, D), (R, D)), all photos of a subject at once.
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
        """1 for each image that counts as copied, else 0, (N,); NaN where nothing can be said."""
        return _joined(self.closer)

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        return {"copy": _mean(self.scores), "copied": _mean(self.closer)}


class Diversity(Metric):
    """DIV = mean distance(i, j) over all pairs of images of the same prompt, each pair once.

    Paper, section 4.3, table 3 (LPIPS: 0.391 with the prior term, 0.371 without); >= 0, higher is
    better. `distance` maps two batches (P, ...) to (P,): `LpipsDistance.pairs`, for which `update`
    takes pixels (N, 3, H, W), or `cosine_distance`, for which it takes features (N, D).

    The images of a prompt are given in one update, by one process; of several prompts, in any
    number of them. So pixels are in memory for one prompt at a time, and processes share the work.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    distances: list[Tensor] | Tensor  # of each pair
    prompts: list[Tensor] | Tensor  # (K, 2) int64: each prompt's key, and its number of pairs

    def __init__(
        self, distance: Callable[[Tensor, Tensor], Tensor] = cosine_distance, **kwargs: Any
    ) -> None:
        super().__init__(dist_sync_fn=_gather, **kwargs)
        self.distance = distance
        self.add_state("distances", [], dist_reduce_fx="cat")
        self.add_state("prompts", [], dist_reduce_fx="cat")

    def update(self, images: Tensor, prompts: Sequence[str]) -> None:
        assert isinstance(self.distances, list), "concatenated only while processes are in step"
        assert isinstance(self.prompts, list)
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images have {len(prompts)} prompts: give one for each")
        self.distances.append(diversity(images, prompts, self.distance).to(self.device))
        pairs = [[seed_of(p), comb(count, 2)] for p, count in Counter(prompts).items()]
        self.prompts.append(torch.tensor(pairs, dtype=torch.int64, device=self.device).view(-1, 2))

    def by_prompt(self) -> list[Tensor]:
        """The distances of each prompt's pairs, of all processes, one after the other."""
        with self.sync_context(self.dist_sync_fn, should_sync=self.sync_on_compute):
            return self._by_prompt()

    def compute(self) -> Tensor:
        mean = pooled_mean([distances.tolist() for distances in self._by_prompt()])
        return torch.tensor(mean, dtype=torch.float64, device=self.device)

    def _by_prompt(self) -> list[Tensor]:
        keys, num_pairs = _joined(self.prompts).long().view(-1, 2).unbind(1)
        if len(keys.unique()) < len(keys):
            raise ValueError("the images of a prompt came in several updates: give them in one")
        return list(_joined(self.distances).split(num_pairs.tolist()))


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    return dim_zero_cat(state) if len(state) else torch.empty(0, dtype=torch.float64)


def _mean(state: list[Tensor] | Tensor) -> Tensor:
    scores = _joined(state)
    mean = pooled_mean(scores[~scores.isnan()][:, None].tolist())  # each image a group
    return torch.tensor(mean, dtype=torch.float64, device=scores.device)


def _gather(state: Tensor, group: Any) -> list[Tensor]:
    """The state of all processes; torchmetrics' own fails where one of them has no images."""
    states = [state] * distributed.get_world_size(group)
    distributed.all_gather_object(states, state.cpu(), group)
    return [s.to(state.device) for s in states if s.numel()] or [state]
