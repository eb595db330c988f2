"""How near the generated images of the drawn world are to its drawings.

Each prompt is a caption of one fresh scene. The reference is drawings of other fresh scenes, and
the *floor* compares drawings of the prompts' own scenes with that same reference: it is what a
perfect model would get from as many images.

All functions on features take (N, D), one row an image.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.image.fid import FrechetInceptionDistance

from dreambooth.metrics.encoders import DinoEncoder
from dreambooth.miniature.drawing import SIZE_PX, draw
from dreambooth.miniature.scenes import nth_scene
from dreambooth.miniature.world import Scene, caption
from dreambooth.subjects.photos import from_uint8

PROMPT_SEED, REFERENCE_SEED = 991, 992  # scenes of no training
NEIGHBOURS = 3  # the value of arXiv 1904.06991


# --- prompts and reference -------------------------------------------------------------------


def prompted_scenes(count: int) -> tuple[list[Scene], list[str]]:
    """Fresh scenes and a caption of each; a larger count begins with the same ones."""
    scenes = [nth_scene(i, PROMPT_SEED) for i in range(count)]
    captions = [
        caption(scene, np.random.default_rng([PROMPT_SEED, i, 1])) for i, scene in enumerate(scenes)
    ]
    return scenes, captions


def reference_scenes(count: int) -> list[Scene]:
    """Other fresh scenes of the world's own distribution; a larger count begins with the same."""
    return [nth_scene(i, REFERENCE_SEED) for i in range(count)]


def drawings(scenes: Sequence[Scene]) -> Tensor:
    """uint8 (N, 3, 64, 64), red, green and blue."""
    return torch.from_numpy(np.stack([draw(scene) for scene in scenes])).permute(0, 3, 1, 2)


# --- distances of features -------------------------------------------------------------------


@dataclass(frozen=True)
class Distance:
    """How far a set of images is from the reference set, by features of one extractor."""

    frechet: float  # >= 0, in squared units of the features
    normalised: float  # `frechet` over the total variance of the reference
    precision: float  # in [0, 1]
    recall: float  # in [0, 1]


def distance(images: Tensor, reference: Tensor) -> Distance:
    """Of features (N, D) from the reference's (M, D).

    The total variance of the reference is the trace of its covariance. Dividing by it cancels the
    extractor's scale, so that each model can be compared with its own world by its own extractor:
    0 means equal distributions, and 1 is what the reference's mean feature, repeated, would get.
    The ratio still depends on what the extractor attends to and on the number of images, so read it
    beside the floor, and compare two worlds under the same extractor as well before you trust it.
    """
    frechet = frechet_distance(images, reference)
    precision, recall = precision_and_recall(images, reference)
    return Distance(frechet, frechet / total_variance(reference), precision, recall)


def frechet_distance(images: Tensor, reference: Tensor) -> float:
    """|mu - mu_r|^2 + tr(C + C_r - 2 (C C_r)^(1/2)) of the two sets' means and covariances
    (arXiv 1706.08500), in float64. With few images it is biased upwards."""
    for features in (images, reference):
        _check_rows(features, least=2)
    # torchmetrics extracts features itself. Here they are needed twice, so it gets them as input.
    metric = FrechetInceptionDistance(feature=_GivenFeatures(reference.shape[1]), normalize=True)
    metric.update(reference.double(), real=True)
    metric.update(images.double(), real=False)
    return max(0.0, float(metric.compute()))  # rounding can leave -1e-15 of equal sets


class _GivenFeatures(nn.Module):
    """A feature extractor, as torchmetrics wants it, whose images (N, D) are features already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def total_variance(features: Tensor) -> float:
    """The trace of the covariance of (N, D), with N - 1 as its divisor."""
    return float(features.double().var(0).sum())


def precision_and_recall(
    images: Tensor, reference: Tensor, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Kynkaanniemi et al., arXiv 1904.06991, equations 1 and 2.

    Precision: the share of `images` within the reference's manifold. Recall: the share of the
    reference within the manifold of `images`. The manifold of a set is the union of balls around
    its rows, each as large as the distance to the row's k-th nearest neighbour in the set.
    Time and memory grow as N * M.
    """
    for features in (images, reference):
        _check_rows(features, least=neighbours + 1)
    between = _distances(images, reference)
    precise = (between <= _radii(reference, neighbours)).any(1)
    recalled = (between <= _radii(images, neighbours)[:, None]).any(0)
    return float(precise.double().mean()), float(recalled.double().mean())


def _radii(features: Tensor, neighbours: int) -> Tensor:
    """The distance (N,) of each row to its k-th nearest other row."""
    distances = _distances(features, features)
    distances.fill_diagonal_(-1)  # the row itself is the first of the k + 1 smallest
    return distances.kthvalue(neighbours + 1, dim=1).values


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean (N, M), in float64; exactly 0 between equal rows."""
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")


def _check_rows(features: Tensor, least: int) -> None:
    if features.ndim != 2 or len(features) < least:
        raise ValueError(
            f"features must be (N, D) with N >= {least}: given is {tuple(features.shape)}; "
            "give more images"
        )


# --- extractors ------------------------------------------------------------------------------


def load_extractor(folder: Path) -> DinoEncoder:
    """The miniature's DINO, from a folder such as weights/dino; ValueError where it is not.

    It learns to give a picture and its softened crops one feature. It therefore compares what the
    pictures show, and overlooks much of how cleanly they are drawn.
    """
    if not folder.is_dir():
        raise ValueError(
            f"the extractor {folder} is no folder: give one that holds a DINO ViT, as "
            "python src/pretrain.py part=dino makes it"
        )
    return DinoEncoder(folder, resize_px=SIZE_PX, crop_px=SIZE_PX)


class UntrainedFeatures:
    """Convolutions with random weights, which see smears and warps that DINO overlooks.

    Random features compare images unlike ImageNet's without the blind spots of a training
    (arXiv 2002.09797), and they are the same for every world. Four levels, each at half the size of
    the one before; a feature is a channel's mean over its level.
    """

    protocol = "untrained: 4 random convolutions 3x3, ReLU, max pooling; means of 336 channels"

    def __init__(self, widths: Sequence[int] = (48, 64, 96, 128), seed: int = 0):
        noise = torch.Generator().manual_seed(seed)
        shapes = itertools.pairwise((3, *widths))
        self._weights = [
            torch.randn(after, before, 3, 3, generator=noise) * (2 / (9 * before)) ** 0.5
            for before, after in shapes
        ]

    @torch.no_grad()
    def images(self, images: Tensor, batch_size: int = 100) -> Tensor:
        """uint8 (N, 3, H, W) to (N, 336) float32."""
        return torch.cat([self._features(part) for part in images.split(batch_size)])

    def _features(self, images: Tensor) -> Tensor:
        x, means = from_uint8(images), []
        for weight in self._weights:
            x = F.conv2d(x, weight, padding=1).relu()
            means.append(x.mean((2, 3)))
            x = F.max_pool2d(x, 2)
        return torch.cat(means, 1)


# --- distances of images ---------------------------------------------------------------------


def distances(images: Tensor, features: Callable[[Tensor], Tensor]) -> dict[str, Distance]:
    """From N drawings of the reference, of four sets of N images:

    - `images`, one for each of the first N captions of `prompted_scenes`;
    - `floor`, drawings of those scenes;
    - `warped` and `half size`, the same drawings damaged on purpose. Where these are no farther
      than the floor, the extractor does not see such damage, and its distance says nothing of it.

    `images`: uint8 (N, 3, 64, 64), N > 3. `features` maps such images to (N, D) and is the same for
    all that is compared.
    """
    scenes, _ = prompted_scenes(len(images))
    perfect = drawings(scenes)
    sets = {
        "images": images,
        "floor": perfect,
        "warped": warped(perfect),
        "half size": half_size(perfect),
    }
    reference = features(drawings(reference_scenes(len(images))))
    return {name: distance(features(pixels), reference) for name, pixels in sets.items()}


def warped(images: Tensor, shift_px: float = 2.0) -> Tensor:
    """Each uint8 (N, 3, H, W) bent by offsets right and down, drawn on a grid of 8 x 8 points with
    standard deviation `shift_px` and smooth between them. They depend on N and on nothing else."""
    n, _, height, width = images.shape
    coarse = torch.randn(n, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    field = F.interpolate(coarse, (height, width), mode="bicubic").permute(0, 2, 3, 1)
    field = field * 2 * shift_px / torch.tensor([width, height])  # the grid is 2 wide
    still = F.affine_grid(torch.eye(2, 3).expand(n, 2, 3), [n, 3, height, width], False)
    moved = F.grid_sample(images.float(), still + field, padding_mode="border", align_corners=False)
    return moved.round().to(torch.uint8)


def half_size(images: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) shrunk to half its size and enlarged again, which smears thin lines."""
    small = F.avg_pool2d(images.float(), 2)
    return F.interpolate(small, scale_factor=2, mode="bilinear").round().to(torch.uint8)


# --- a contact sheet -------------------------------------------------------------------------


def contact_sheet(
    images: Tensor, captions: Sequence[str], columns: int = 8, enlargement: int = 2
) -> Image.Image:
    """All images, uint8 (N, 3, H, W), row by row, each with its caption beneath."""
    gap, size, line_px = 12, 12, 15
    font = ImageFont.load_default(size)
    height, width = (enlargement * side for side in images.shape[2:])
    letters = int((width + gap // 2) / font.getlength("abcdefghijklmnopqrstuvwxyz ") * 27)
    texts = [wrap(text, letters) for text in captions]
    lines = max(len(text) for text in texts)
    cell_width, cell_height = width + gap, height + gap + line_px * lines
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * cell_width + gap, rows * cell_height + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (image, text) in enumerate(zip(images, texts, strict=True)):
        x, y = gap + i % columns * cell_width, gap + i // columns * cell_height
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (x, y))
        centre = x + width / 2
        for k, line in enumerate(text):
            pen.text((centre, y + height + 3 + k * line_px), line, "black", font, anchor="ma")
    return sheet
