"""The field's scores of a run's pictures: DINO, CLIP-I, CLIP-T, PRES, DIV and a copy score.

Each picture goes through each encoder once; all scores are made of those features.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import comb
from typing import Protocol

import torch
from torch import Tensor

from dreambooth.distributed.ranks import split
from dreambooth.metrics.detail import enlarged_photos
from dreambooth.metrics.functional import (
    copy_score,
    cosine_distance,
    diversity,
    diversity_of_each,
    pairwise_similarity,
    prior_preservation,
    text_similarity,
    without_identifier,
)
from dreambooth.metrics.intervals import mean, mean_of_groups
from dreambooth.runs.files import Score
from dreambooth.runs.pictures import Picture
from dreambooth.runs.records import Metric
from dreambooth.subjects.subject import Subject


class ImageEncoder(Protocol):
    """uint8 (3, H, W) each -> features (N, D); `protocol` says which, in words."""

    protocol: str

    def images(self, images: Iterable[Tensor]) -> Tensor: ...


class TextImageEncoder(ImageEncoder, Protocol):
    def texts(self, texts: Iterable[str]) -> Tensor: ...


class PairDistance(Protocol):
    protocol: str

    def pairs(self, a: Tensor, b: Tensor) -> Tensor: ...


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
        distances = self._distances(prompts) if self.distance else None  # refuses odd sizes first
        photos = subject.originals()
        real_dino, real_clip = self.dino.images(photos), self.clip.images(photos)
        dino = self.dino.images(p.pixels for p in prompts)  # pixels of one batch at a time
        clip = self.clip.images(p.pixels for p in prompts)
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
        if distances is None:
            distances = diversity(dino, [p.prompt for p in prompts], cosine_distance)
        columns["div"] = diversity_of_each(distances, [p.prompt for p in prompts])
        rows = _rows(columns, len(prompts))
        pres = prior_preservation(self.dino.images(p.pixels for p in class_prompts), real_dino)
        class_rows = _rows({"pres": pres}, len(class_prompts))
        counts = Counter(p.prompt for p in prompts).values()
        by_prompt = distances.split([comb(count, 2) for count in counts])
        return rows + class_rows, self._summary(rows, class_rows, by_prompt, photos)

    def score_restored(
        self, subject: Subject, restored: Sequence[Picture], originals: Sequence[Picture]
    ) -> tuple[list[dict[str, Score]], dict[str, Metric]]:
        ours, theirs = ([p.pixels for p in pictures] for pictures in (restored, originals))
        cosine = (self.dino.images(ours) * self.dino.images(theirs)).sum(1)
        columns = {"sr_dino": cosine}
        photos = enlarged_photos(subject)
        says = {"sr_dino": f"mean cosine to the original; {photos}; {self.dino.protocol}"}
        if self.distance is not None:
            columns["sr_lpips"] = self.distance.pairs(torch.stack(ours), torch.stack(theirs))
            says["sr_lpips"] = f"distance to the original; {photos}; {self.distance.protocol}"
        rows = _rows(columns, len(ours))
        return rows, {name: mean(rows, name, protocol) for name, protocol in says.items()}

    def _distances(self, prompts: Sequence[Picture]) -> Tensor:
        """Of all pairs of one prompt, whose pixels are in memory together. A rank does some."""
        distance = self.distance
        assert distance is not None

        def of_a_prompt(prompt: str) -> Tensor:
            pixels = [p.pixels for p in prompts if p.prompt == prompt]
            if len({image.shape for image in pixels}) > 1:
                raise ValueError(
                    f"the images of the prompt {prompt!r} have several sizes ({sizes(pixels)}), "
                    "and DIV compares them pixel by pixel: resize them to one size"
                )
            return diversity(torch.stack(pixels), [prompt] * len(pixels), distance.pairs)

        found = split(of_a_prompt, list(dict.fromkeys(p.prompt for p in prompts)))
        return torch.cat([torch.empty(0, dtype=torch.float64), *found])

    def _summary(
        self,
        rows: list[dict[str, Score]],
        class_rows: list[dict[str, Score]],
        distances: Sequence[Tensor],  # of each prompt's pairs
        photos: Sequence[Tensor],
    ) -> dict[str, Metric]:
        real = f"{len(photos)} real photos ({sizes(photos)}, 8 bits)"
        pairs = f"mean cosine, all images x {real}"
        dino, clip = self.dino.protocol, self.clip.protocol
        token = "[V] stays in the text" if self.keep_identifier else "[V] left out of the text"
        distance = "1 - cosine; " + dino if self.distance is None else self.distance.protocol
        return {
            "dino": mean(rows, "dino", f"{pairs}; {dino}"),
            "clip_i": mean(rows, "clip_i", f"{pairs}; {clip}"),
            "clip_t": mean(rows, "clip_t", f"mean cosine, image and its prompt, {token}; {clip}"),
            "pres": mean(class_rows, "pres", f"class prompt's images: {pairs}; {dino}"),
            "div": mean_of_groups(
                [some.tolist() for some in distances],
                f"mean over pairs of one prompt, interval over prompts; {distance}",
            ),
            "copy": mean(rows, "copy", f"mean cosine to the nearest of {real}; {dino}"),
            "copied": mean(
                rows,
                "copied",
                f"share nearer to one of {real} than any two of them; {dino}",
                share=True,
            ),
        }


def sizes(images: Sequence[Tensor]) -> str:
    """Width x height of images (3, H, W), the smallest and the largest: "64x64 px"."""
    found = sorted({image.shape[:0:-1] for image in images}, key=lambda size: size[0] * size[1])
    ends = [f"{width}x{height}" for width, height in dict.fromkeys([found[0], found[-1]])]
    return " to ".join(ends) + " px"


def _rows(columns: dict[str, Tensor], count: int) -> list[dict[str, Score]]:
    """A row per image; what is no number is left empty."""
    values = {name: column.tolist() for name, column in columns.items()}
    return [
        {name: (v[i] if v[i] == v[i] else None) for name, v in values.items()} for i in range(count)
    ]
