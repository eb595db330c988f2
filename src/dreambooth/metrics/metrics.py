"""The scores as torchmetrics: functional.py's means, over batches and over processes.

`update` takes features, not images: they are computed once per image (encoders.py) and serve every
metric. They may lie on any device. `compute` is the mean over all images (or pairs) of all batches
and processes, whatever their sizes; a process without images changes nothing. No images at all, or
no pairs, give NaN: there is no such number, and a score that a run lacks should not stop the run.
No photos give functional.py's ValueError.

    dino = DinoSimilarity()
    dino.update(encoder.images(generated), encoder.images(photos))
    dino.compute()  # float64, a scalar
"""

from collections.abc import Callable, Sequence
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
from dreambooth.randomness import seed_of


class _MeanOverImages(Metric):
    """A sum and a count, which add up over batches and processes."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, scores: Tensor) -> None:
        self.total += scores.sum().to(self.total)
        self.count += len(scores)

    def compute(self) -> Tensor:
        return self.total / self.count


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

    compute() = {"copy_similarity": mean_g max_r cos(f_g, f_r), in [-1, 1],
                 "copy_share": share of images closer to a photo than photos are to each other}

    as `copy_score` defines them; lower is better. The share is NaN if a subject has one photo only.
    update((G, D), (R, D)), all photos of a subject at once.
    """

    higher_is_better = False
    closer: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("closer", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, generated: Tensor, real: Tensor) -> None:
        scores = copy_score(generated, real)
        self._add(scores.nearest)
        self.closer += scores.closer.sum().to(self.closer)

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        share = self.closer / self.count
        return {"copy_similarity": super().compute(), "copy_share": share}


class Diversity(Metric):
    """DIV = mean distance(i, j) over all pairs of images of the same prompt, each pair once.

    Paper, section 4.3, table 3 (LPIPS: 0.391 with the prior term, 0.371 without); >= 0, higher is
    better. `distance` maps two batches (P, ...) to (P,): `LpipsDistance.pairs`, for which `update`
    takes pixels (N, 3, H, W), or `cosine_distance`, for which it takes features (N, D).

    The only score whose pairs may lie on different processes, so the images themselves are kept
    and gathered: those of one subject and of one size, 100 in the paper's protocol (25 x 4).
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    images: list[Tensor] | Tensor
    prompts: list[Tensor] | Tensor

    def __init__(
        self, distance: Callable[[Tensor, Tensor], Tensor] = cosine_distance, **kwargs: Any
    ) -> None:
        super().__init__(dist_sync_fn=_gather, **kwargs)
        self.distance = distance
        self.add_state("images", [], dist_reduce_fx="cat")
        self.add_state("prompts", [], dist_reduce_fx="cat")

    def update(self, images: Tensor, prompts: Sequence[str]) -> None:
        assert isinstance(self.images, list), "concatenated only while processes are in step"
        assert isinstance(self.prompts, list)
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images have {len(prompts)} prompts: give one for each")
        keys = torch.tensor([seed_of(p) for p in prompts], dtype=torch.int64)  # the same everywhere
        self.images.append(images.to(self.device))
        self.prompts.append(keys.to(self.device))

    def compute(self) -> Tensor:
        if not len(self.prompts):
            return torch.tensor(torch.nan, dtype=torch.float64, device=self.device)
        prompts = dim_zero_cat(self.prompts).tolist()
        return diversity(dim_zero_cat(self.images), prompts, self.distance).mean()


def _gather(state: Tensor, group: Any) -> list[Tensor]:
    """The state of all processes; torchmetrics' own fails where one of them has no images."""
    states = [state] * distributed.get_world_size(group)
    distributed.all_gather_object(states, state.cpu(), group)
    return [s.to(state.device) for s in states if s.numel()] or [state]
