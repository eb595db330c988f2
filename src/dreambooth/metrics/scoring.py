"""Scores a run's images by DINO, CLIP-I, CLIP-T, PRES, DIV and a copy score.

Each encoder sees each image once; all scores are computed from the features.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from dreambooth.distributed.ranks import num_ranks, rank
from dreambooth.metrics.detail import enlarged_photos
from dreambooth.metrics.evaluation import PictureSets, Row, Scores
from dreambooth.metrics.functional import copied_of_unseen, diversity_of_each, without_identifier
from dreambooth.metrics.intervals import ci95, ci95_of_share, mean, pooled_mean, units
from dreambooth.metrics.metrics import (
    ClipImageSimilarity,
    ClipTextSimilarity,
    CopyScore,
    DinoSimilarity,
    Diversity,
    PriorPreservation,
)
from dreambooth.runs.pictures import Picture
from dreambooth.runs.records import Metric
from dreambooth.subjects.photos import to_uint8
from dreambooth.subjects.subject import Subject


class ImageEncoder(Protocol):
    """Encodes images, uint8 (3, H, W) each, into features (N, D)."""

    protocol: str  # how the features are computed, in words

    def images(self, images: Iterable[Tensor]) -> Tensor: ...


class TextImageEncoder(ImageEncoder, Protocol):
    """Encodes texts too, into the same feature space."""

    def texts(self, texts: Iterable[str]) -> Tensor: ...


class PairDistance(Protocol):
    """A distance (N,) between the images a[i] and b[i], uint8 (N, 3, H, W) each."""

    protocol: str  # how the distance is computed, in words

    def pairs(self, a: Tensor, b: Tensor) -> Tensor: ...


class FidelityScorer:
    """Scores against the subject's real photos and against the prompt (paper, sections 4.1, 4.3).

    `distance`: the distance for DIV, on pixels (LPIPS in the paper); None uses 1 - cosine of the
    DINO features. `keep_identifier`: whether [V] stays in the text for CLIP-T.
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
        """Nothing to check: every subject has photos."""

    def score(self, sets: PictureSets) -> Scores:
        prompts, class_prompts = sets.prompts, sets.class_prompts
        names = [p.prompt for p in prompts]
        # DIV comes first, because it raises if the images of a prompt differ in size.
        div = self._pixel_diversity(prompts) if self.distance else None
        photos = sets.subject.originals()
        real_dino, real_clip = self.dino.images(photos), self.clip.images(photos)
        by_dino = self.dino.images(p.pixels for p in prompts)  # reads one batch at a time
        by_clip = self.clip.images(p.pixels for p in prompts)
        removed = "" if self.keep_identifier else sets.identifier
        texts = [without_identifier(name, removed, sets.in_text) for name in names]
        # Every rank has the features of all images (encoders.py), so there is nothing to gather.
        dino = DinoSimilarity(sync_on_compute=False)
        clip_i = ClipImageSimilarity(sync_on_compute=False)
        clip_t = ClipTextSimilarity(sync_on_compute=False)
        pres = PriorPreservation(sync_on_compute=False)
        copies = CopyScore(sync_on_compute=False)
        dino.update(by_dino, real_dino)
        clip_i.update(by_clip, real_clip)
        clip_t.update(by_clip, self.clip.texts(texts))
        pres.update(self.dino.images(p.pixels for p in class_prompts), real_dino)
        copies.update(by_dino, real_dino)
        if div is None:
            div = Diversity(sync_on_compute=False)
            div.update(by_dino, names)
        distances = div.by_prompt()
        columns = {
            "dino": dino.per_image(),
            "clip_i": clip_i.per_image(),
            "clip_t": clip_t.per_image(),
            "copy": copies.per_image(),
            "copied": copies.closer_per_image(),
            "div": diversity_of_each(torch.cat([torch.empty(0), *distances]), names),
        }
        class_columns = {"pres": pres.per_image()}
        counts = {
            name: int((~column.isnan()).sum()) for name, column in (columns | class_columns).items()
        }
        counts["div"] = sum(map(len, distances))
        values = {
            "dino": dino.compute(),
            "clip_i": clip_i.compute(),
            "clip_t": clip_t.compute(),
            "pres": pres.compute(),
            "div": div.compute(),
            **copies.compute(),
        }
        rows = _rows(columns, len(prompts)) + _rows(class_columns, len(class_prompts))
        metrics = self._summary(values, counts, photos)
        of_prompts = ci95(units([of_prompt.tolist() for of_prompt in distances]))
        metrics["div"] = replace(metrics["div"], ci95=of_prompts)
        metrics["copied_null"] = self._null(sets.subject, real_dino)
        return Scores(rows, metrics)

    def score_restored(self, sets: PictureSets) -> Scores:
        restored = [p.pixels for p in sets.restored]
        originals = [p.pixels for p in sets.originals]
        cosine = (self.dino.images(restored) * self.dino.images(originals)).sum(1)
        columns = {"sr_dino": cosine}
        photos = enlarged_photos(sets.subject)
        protocols = {"sr_dino": f"mean cosine to the original; {photos}; {self.dino.protocol}"}
        if self.distance is not None:
            columns["sr_lpips"] = self.distance.pairs(torch.stack(restored), torch.stack(originals))
            protocols["sr_lpips"] = f"distance to the original; {photos}; {self.distance.protocol}"
        rows = _rows(columns, len(restored))
        return Scores(rows, {name: mean(rows, name, protocols[name]) for name in protocols})

    def change(self, pictures: Sequence[Picture], before: Sequence[Picture]) -> list[float]:
        """1 - cosine of the DINO features of each image and what it was before, in [0, 2]."""
        features = (self.dino.images(p.pixels for p in images) for images in (pictures, before))
        now, then = features
        changes: list[float] = (1 - (now * then).sum(1)).clamp(min=0).tolist()
        return changes

    def _pixel_diversity(self, prompts: Sequence[Picture]) -> Diversity:
        """DIV on pixels, with one prompt in memory at a time; the ranks share the prompts."""
        assert self.distance is not None
        div = Diversity(self.distance.pairs)
        names = list(dict.fromkeys(p.prompt for p in prompts))
        # Contiguous shares, so that gathering them restores the order of the prompts.
        share = torch.arange(len(names)).tensor_split(num_ranks())[rank()]
        for prompt in (names[i] for i in share.tolist()):
            pixels = [p.pixels for p in prompts if p.prompt == prompt]
            if len({image.shape for image in pixels}) > 1:
                raise ValueError(
                    f"the images of the prompt {prompt!r} have several sizes ({sizes(pixels)}), "
                    "and DIV compares them pixel by pixel: resize them to one size"
                )
            div.update(torch.stack(pixels), [prompt] * len(pixels))
        return div

    def _null(self, subject: Subject, real: Tensor) -> Metric:
        """`copied` of photos of the subject that no training saw, or of each photo left out."""
        if subject.held_out is None:
            closer = copied_of_unseen(real)
            photos = "each of the subject's photos, left out of the others"
        else:
            unseen = to_uint8(subject.held_out(subject.originals()[0].shape[-1]))
            closer = copied_of_unseen(real, self.dino.images(unseen))
            photos = f"{len(unseen)} photos of the subject that no training saw"
        protocol = f"copied of {photos}; {self.dino.protocol}"
        values = closer[~closer.isnan()].tolist()
        return Metric(pooled_mean([values]), len(values), protocol, ci95_of_share(values))

    def _summary(
        self, values: Mapping[str, Tensor], counts: Mapping[str, int], photos: Sequence[Tensor]
    ) -> dict[str, Metric]:
        real = f"{len(photos)} real photos ({sizes(photos)}, 8 bits)"
        pairs = f"mean cosine, all images x {real}"
        dino, clip = self.dino.protocol, self.clip.protocol
        token = "[V] stays in the text" if self.keep_identifier else "[V] left out of the text"
        distance = "1 - cosine; " + dino if self.distance is None else self.distance.protocol
        protocols = {
            "dino": f"{pairs}; {dino}",
            "clip_i": f"{pairs}; {clip}",
            "clip_t": f"mean cosine, image and its prompt, {token}; {clip}",
            "pres": f"class prompt's images: {pairs}; {dino}",
            "div": f"mean over pairs of one prompt, interval over prompts; {distance}",
            "copy": f"mean cosine to the nearest of {real}; {dino}",
            "copied": f"share nearer to one of {real} than any two of them; {dino}",
        }
        return {
            name: Metric(float(values[name]), counts[name], protocol)
            for name, protocol in protocols.items()
        }


def sizes(images: Sequence[Tensor]) -> str:
    """The smallest and largest width x height of images (3, H, W): "64x64 px"."""
    all_sizes = {(image.shape[2], image.shape[1]) for image in images}
    by_area = sorted(all_sizes, key=lambda size: size[0] * size[1])
    ends = [f"{width}x{height}" for width, height in dict.fromkeys([by_area[0], by_area[-1]])]
    return " to ".join(ends) + " px"


def _rows(columns: dict[str, Tensor], count: int) -> list[Row]:
    """One row for each image, with None in place of NaN."""
    values = {name: column.tolist() for name, column in columns.items()}
    return [
        {name: None if math.isnan(v[i]) else v[i] for name, v in values.items()}
        for i in range(count)
    ]
