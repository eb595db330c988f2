"""The detail that super-resolution adds above the base resolution, true or invented."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dreambooth.metrics.evaluation import PictureSets, Row, Scores
from dreambooth.metrics.intervals import mean
from dreambooth.runs.pictures import Picture
from dreambooth.subjects.subject import Subject


def detail(images: Tensor, low_px: int) -> Tensor:
    """The part of images [0, 1] (N, C, H, W) that shrinking to `low_px` loses: (N, C * H * W).

    x - enlarge(shrink(x)), shrunk by area and enlarged bilinearly.
    """
    low = F.adaptive_avg_pool2d(images, low_px)
    enlarged = F.interpolate(low, images.shape[-2:], mode="bilinear")
    return (images - enlarged).flatten(1)


def detail_energy(images: Tensor, low_px: int) -> Tensor:
    """The mean square of `detail`: (N,)."""
    return detail(images, low_px).square().mean(1)


def kept_and_invented(images: Tensor, originals: Tensor, low_px: int) -> tuple[Tensor, Tensor]:
    """How much of the originals' detail images keep, and how much they invent: (N,) each.

    With the details d of an image and d0 of its original: d = kept d0 + rest, where the rest is
    orthogonal to d0, and invented = |rest|^2 / |d0|^2. So kept^2 + invented = |d|^2 / |d0|^2, and
    an identical image has kept 1 and invented 0.
    """
    d, d0 = detail(images, low_px), detail(originals, low_px)
    energy = d0.square().sum(1)
    kept = (d * d0).sum(1) / energy
    return kept, (d - kept[:, None] * d0).square().sum(1) / energy


class DetailScorer:
    """Detail of generated images relative to photos, and fidelity of enlarged photos.

    `detail`: detail energy of a generated image over the mean of the photos; below 1 is blurred,
    above 1 has invented detail. The `sr_` scores compare restored photos (shrunk to `low_px` and
    enlarged again) with their originals: `sr_detail` (ratio of detail energies), its parts
    `sr_kept` and `sr_invented` (see `kept_and_invented`), and torchmetrics' `sr_psnr` (dB) and
    `sr_ssim`.
    """

    def __init__(self, low_px: int):
        self.low_px = low_px

    def check(self, subject: Subject) -> None:
        """Nothing to check: this scores images of any subject."""

    def score(self, sets: PictureSets) -> Scores:
        prompts, pictures = sets.prompts, [*sets.prompts, *sets.class_prompts]
        size = prompts[0].pixels.shape[-1]
        photos = (sets.subject.photos(size) + 1) / 2
        reference = detail_energy(photos, self.low_px).mean()
        ratios = detail_energy(unit_range(pictures), self.low_px) / reference
        rows: list[Row] = [{"detail": ratio} for ratio in ratios.tolist()]
        protocol = f"energy above {self.low_px} px, over the photos' mean ({len(photos)} photos)"
        return Scores(rows, {"detail": mean(rows[: len(prompts)], "detail", protocol)})

    def score_restored(self, sets: PictureSets) -> Scores:
        from torchmetrics.functional.image import (
            peak_signal_noise_ratio,
            structural_similarity_index_measure,
        )

        x, truth = unit_range(sets.restored), unit_range(sets.originals)
        ratios = detail_energy(x, self.low_px) / detail_energy(truth, self.low_px)
        psnr = peak_signal_noise_ratio(x, truth, data_range=1.0, reduction="none", dim=(1, 2, 3))
        ssim = structural_similarity_index_measure(x, truth, data_range=1.0, reduction="none")
        kept, invented = kept_and_invented(x, truth, self.low_px)
        columns = {
            "sr_detail": ratios,
            "sr_kept": kept,
            "sr_invented": invented,
            "sr_psnr": psnr,
            "sr_ssim": ssim,
        }
        rows: list[Row] = [
            {name: float(values[i]) for name, values in columns.items()} for i in range(len(x))
        ]
        protocols = {
            "sr_detail": f"energy above {self.low_px} px, over the original's; ",
            "sr_kept": f"share of the original's detail above {self.low_px} px that is there; ",
            "sr_invented": "energy of other detail than that, over the original's; ",
            "sr_psnr": "dB; ",
            "sr_ssim": "",
        }
        photos = enlarged_photos(sets.subject)
        metrics = {name: mean(rows, name, f"{protocols[name]}{photos}") for name in columns}
        return Scores(rows, metrics)


def enlarged_photos(subject: Subject) -> str:
    """Describe the photos behind `sr_` scores, in the same words for every `sr` setting."""
    whose = "photos that no training saw" if subject.held_out else "the training's own photos"
    return f"{whose}, shrunk by area and enlarged as the run's pictures are (sr=off: bicubic)"


def unit_range(pictures: Sequence[Picture]) -> Tensor:
    """Stack images: float32 [0, 1], (N, 3, H, W)."""
    return torch.stack([p.pixels for p in pictures]).float() / 255
