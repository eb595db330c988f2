"""The field's scores of a run's pictures: DINO, CLIP-I, CLIP-T, PRES, DIV and a copy score.

Each picture goes through each encoder once; all scores are made of those features.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from dreambooth.metrics.functional import (
    copy_score,
    cosine_distance,
    diversity,
    pairwise_similarity,
    prior_preservation,
    text_similarity,
    without_identifier,
)
from dreambooth.metrics.intervals import mean
from dreambooth.run import Metric, Picture, Score
from dreambooth.subjects.subject import Subject


class ImageEncoder(Protocol):
    """uint8 (3, H, W) each -> features (N, D); `protocol` says which, in words."""

    protocol: str

    def images(self, images: Sequence[Tensor]) -> Tensor: ...


class TextImageEncoder(ImageEncoder, Protocol):
    def texts(self, texts: Sequence[str]) -> Tensor: ...


class PairDistance(Protocol):
    protocol: str

    def pairs(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor: ...


class FidelityScorer:
    """Scores against the subject's real photos and against the prompt (paper, sections 4.1, 4.3).

    `distance` is that of DIV, on pixels (LPIPS in the paper); None takes 1 - cosine of the DINO
    features. `keep_identifier`: whether [V] stays in the text of CLIP-T.
    """

    def __init__(
        self,
        dino: ImageEncoder,
        clip: TextImageEncoder,
        distance: PairDistance | None = None,
        keep_identifier: bool = False,
    ):
        self.dino, self.clip, self.distance = dino, clip, distance
        self.keep_identifier = keep_identifier

    def check(self, subject: Subject) -> None:
        """Any subject has photos."""

    def score(
        self,
        subject: Subject,
        identifier: str,
        prompts: Sequence[Picture],
        class_prompts: Sequence[Picture],
    ) -> tuple[list[dict[str, Score]], dict[str, Metric]]:
        photos = subject.originals()
        pixels, of_class = [p.pixels for p in prompts], [p.pixels for p in class_prompts]
        real_dino, real_clip = self.dino.images(photos), self.clip.images(photos)
        dino, clip = self.dino.images(pixels), self.clip.images(pixels)
        texts = [
            p.prompt if self.keep_identifier else without_identifier(p.prompt, identifier)
            for p in prompts
        ]
        copies = copy_score(dino, real_dino)
        columns = {
            "dino": pairwise_similarity(dino, real_dino),
            "clip_i": pairwise_similarity(clip, real_clip),
            "clip_t": text_similarity(clip, self.clip.texts(texts)),
            "copy": copies.nearest,
            "copied": copies.closer,
        }
        rows = _rows(columns, len(prompts))
        pres = prior_preservation(self.dino.images(of_class), real_dino)
        class_rows = _rows({"pres": pres}, len(class_prompts))
        named = [p.prompt for p in prompts]
        if self.distance is None:
            distances = diversity(dino, named, cosine_distance)
        else:
            distances = diversity(torch.stack(pixels), named, self.distance.pairs)
        return rows + class_rows, self._summary(rows, class_rows, distances, len(photos))

    def _summary(
        self,
        rows: list[dict[str, Score]],
        class_rows: list[dict[str, Score]],
        distances: Tensor,
        num_photos: int,
    ) -> dict[str, Metric]:
        pairs = f"mean cosine, all images x {num_photos} real photos"
        dino, clip = self.dino.protocol, self.clip.protocol
        token = "[V] stays in the text" if self.keep_identifier else "[V] left out of the text"
        distance = "1 - cosine; " + dino if self.distance is None else self.distance.protocol
        div_rows: list[dict[str, Score]] = [{"div": float(d)} for d in distances]
        return {
            "dino": mean(rows, "dino", f"{pairs}; {dino}"),
            "clip_i": mean(rows, "clip_i", f"{pairs}; {clip}"),
            "clip_t": mean(rows, "clip_t", f"mean cosine, image and its prompt, {token}; {clip}"),
            "pres": mean(class_rows, "pres", f"class prompt's images: {pairs}; {dino}"),
            "div": mean(div_rows, "div", f"mean over pairs of one prompt; {distance}"),
            "copy": mean(rows, "copy", f"mean cosine to the nearest photo; {dino}"),
            "copied": mean(
                rows, "copied", f"share nearer to a photo than any two photos are; {dino}"
            ),
        }


def _rows(columns: dict[str, Tensor], count: int) -> list[dict[str, Score]]:
    """A row per image; what is no number is left empty."""
    values = {name: column.tolist() for name, column in columns.items()}
    return [
        {name: (v[i] if v[i] == v[i] else None) for name, v in values.items()} for i in range(count)
    ]
