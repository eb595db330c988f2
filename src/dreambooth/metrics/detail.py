"""What super-resolution adds: the energy of the detail that the base resolution cannot hold."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dreambooth.files import Score
from dreambooth.metrics.intervals import mean
from dreambooth.run import Metric, Picture
from dreambooth.subjects.subject import Subject

Row = dict[str, Score]


def detail_energy(images: Tensor, low_px: int) -> Tensor:
    """Mean square (N,) of what images [0, 1] (N, C, H, W) lose by shrinking them to `low_px`.

    x - enlarged(shrunk(x)): shrunk by area, enlarged bilinearly.
    """
    low = F.adaptive_avg_pool2d(images, low_px)
    enlarged = F.interpolate(low, images.shape[-2:], mode="bilinear")
    return (images - enlarged).square().flatten(1).mean(1)


class DetailScorer:
    """Detail relative to the subject's photos, and how near enlarged photos come to the originals.

    `detail`: detail energy of the generated pictures over that of the photos: below 1 blurred,
    above 1 invented. Of photos that were shrunk to `low_px` and enlarged again by the SR stage,
    each against its original: `sr_detail` (energies' ratio), `sr_psnr` (dB) and `sr_ssim`, the
    latter two through torchmetrics.
    """

    def __init__(self, low_px: int):
        self.low_px = low_px

    def check(self, subject: Subject) -> None:
        pass

    def score(
        self,
        subject: Subject,
        identifier: str,
        prompts: Sequence[Picture],
        class_prompts: Sequence[Picture],
    ) -> tuple[list[Row], dict[str, Metric]]:
        size = prompts[0].pixels.shape[-1]
        photos = (subject.photos(size) + 1) / 2
        reference = detail_energy(photos, self.low_px).mean()
        ratios = detail_energy(unit_range([*prompts, *class_prompts]), self.low_px) / reference
        rows: list[Row] = [{"detail": ratio} for ratio in ratios.tolist()]
        protocol = f"energy above {self.low_px} px, over the photos' mean ({len(photos)} photos)"
        return rows, {"detail": mean(rows[: len(prompts)], "detail", protocol)}

    def score_restored(
        self, subject: Subject, restored: Sequence[Picture], originals: Sequence[Picture]
    ) -> tuple[list[Row], dict[str, Metric]]:
        from torchmetrics.functional.image import (
            peak_signal_noise_ratio,
            structural_similarity_index_measure,
        )

        x, truth = unit_range(restored), unit_range(originals)
        ratios = detail_energy(x, self.low_px) / detail_energy(truth, self.low_px)
        psnr = peak_signal_noise_ratio(x, truth, data_range=1.0, reduction="none", dim=(1, 2, 3))
        ssim = structural_similarity_index_measure(x, truth, data_range=1.0, reduction="none")
        columns = {"sr_detail": ratios, "sr_psnr": psnr, "sr_ssim": ssim}
        rows: list[Row] = [
            {name: float(values[i]) for name, values in columns.items()} for i in range(len(x))
        ]
        photos = f"photos shrunk to {self.low_px} px by area and enlarged by the SR stage"
        says = {
            "sr_detail": f"energy above {self.low_px} px, over the original's; ",
            "sr_psnr": "dB; ",
            "sr_ssim": "",
        }
        return rows, {name: mean(rows, name, f"{says[name]}{photos}") for name in columns}


def unit_range(pictures: Sequence[Picture]) -> Tensor:
    """[0, 1] float32 (N, 3, H, W)."""
    return torch.stack([p.pixels for p in pictures]).float() / 255
