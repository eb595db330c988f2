"""How near generated images of the drawn world are to its drawings.

Each prompt is the caption of a fresh scene. The *reference* is a set of drawings of other fresh
scenes. The *floor* is the distance from the reference to drawings of the prompts' scenes: a perfect
model would have this distance with as many images.

Features have the shape (N, D), one row for each image.
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

PROMPT_SEED, REFERENCE_SEED = 991, 992  # not used in any training
NEIGHBOURS = 3  # the value of arXiv 1904.06991


# --- prompts and reference -------------------------------------------------------------------


def prompted_scenes(count: int) -> tuple[list[Scene], list[str]]:
    """Return fresh scenes and a caption of each. A larger count begins with the same ones."""
    scenes = [nth_scene(i, PROMPT_SEED) for i in range(count)]
    captions = [
        caption(scene, np.random.default_rng([PROMPT_SEED, i, 1])) for i, scene in enumerate(scenes)
    ]
    return scenes, captions


def reference_scenes(count: int) -> list[Scene]:
    """Return other fresh scenes. A larger count begins with the same ones."""
    return [nth_scene(i, REFERENCE_SEED) for i in range(count)]


def drawings(scenes: Sequence[Scene]) -> Tensor:
    """Draw the scenes as RGB, uint8 (N, 3, 64, 64)."""
    return torch.from_numpy(np.stack([draw(scene) for scene in scenes])).permute(0, 3, 1, 2)


# --- distances of features -------------------------------------------------------------------


@dataclass(frozen=True)
class Distance:
    """The distance of a set of images from the reference, by the features of one extractor."""

    frechet: float  # >= 0, in squared units of the features
    normalised: float  # `frechet` / total variance of the reference
    precision: float  # in [0, 1]
    recall: float  # in [0, 1]


def distance(images: Tensor, reference: Tensor) -> Distance:
    """Return the distance of features (N, D) from those of the reference (M, D).

    Division by the total variance of the reference cancels the scale of the extractor, so that
    models of different worlds can be compared, each by its own extractor. 0 means equal
    distributions; 1 is the value of the reference's mean feature, repeated. The ratio still depends
    on what the extractor attends to and on the number of images. Read it beside the floor, and
    before you trust a comparison of two worlds, repeat it with the same extractor for both.
    """
    frechet = frechet_distance(images, reference)
    precision, recall = precision_and_recall(images, reference)
    return Distance(frechet, frechet / total_variance(reference), precision, recall)


def frechet_distance(images: Tensor, reference: Tensor) -> float:
    """Return |mu - mu_r|^2 + tr(C + C_r - 2 (C C_r)^(1/2)), from the means and covariances of the
    two sets (arXiv 1706.08500), in float64. With few images it is biased upwards."""
    for features in (images, reference):
        _check_rows(features, least=2)
    # torchmetrics would extract the features. They are also needed elsewhere, so it is given them.
    metric = FrechetInceptionDistance(feature=_GivenFeatures(reference.shape[1]), normalize=True)
    metric.update(reference.double(), real=True)
    metric.update(images.double(), real=False)
    return max(0.0, float(metric.compute()))  # for equal sets, rounding can give -1e-15


class _GivenFeatures(nn.Module):
    """A feature extractor for torchmetrics that returns its input, which is features already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def total_variance(features: Tensor) -> float:
    """Return the trace of the covariance of features (N, D), with the divisor N - 1."""
    return float(features.double().var(0).sum())


def precision_and_recall(
    images: Tensor, reference: Tensor, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Return precision and recall (Kynkaanniemi et al., arXiv 1904.06991, equations 1 and 2).

    Precision is the share of `images` within the manifold of the reference; recall is the share of
    the reference within the manifold of `images`. The manifold of a set is the union of balls
    around its rows; the radius is the distance to the row's k-th nearest neighbour in the set.
    Time and memory grow as N * M.
    """
    for features in (images, reference):
        _check_rows(features, least=neighbours + 1)
    between = _distances(images, reference)
    precise = (between <= _radii(reference, neighbours)).any(1)
    recalled = (between <= _radii(images, neighbours)[:, None]).any(0)
    return float(precise.double().mean()), float(recalled.double().mean())


def _radii(features: Tensor, neighbours: int) -> Tensor:
    """Return the distance (N,) of each row to its k-th nearest other row."""
    distances = _distances(features, features)
    distances.fill_diagonal_(-1)  # the row itself is the first of the k + 1 smallest
    return distances.kthvalue(neighbours + 1, dim=1).values


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Return Euclidean distances (N, M), in float64, exactly 0 between equal rows."""
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")


def _check_rows(features: Tensor, least: int) -> None:
    if features.ndim != 2 or len(features) < least:
        raise ValueError(
            f"the features have the shape {tuple(features.shape)}, and (N, D) with N >= {least} is "
            "needed: give more images"
        )


# --- extractors ------------------------------------------------------------------------------


def load_extractor(folder: Path) -> DinoEncoder:
    """Load the miniature's DINO from a folder such as weights/dino.

    DINO learns to give a picture and its softened crops the same feature. It therefore compares
    what pictures show, and overlooks much of how cleanly they are drawn. Raises ValueError if the
    folder does not exist.
    """
    if not folder.is_dir():
        raise ValueError(
            f"the extractor {folder} is not a folder: give one that holds a DINO ViT, as "
            "python src/pretrain.py part=dino writes it"
        )
    return DinoEncoder(folder, resize_px=SIZE_PX, crop_px=SIZE_PX)


class UntrainedFeatures:
    """Convolutions with random weights, which detect smears and warps that DINO overlooks.

    For images unlike those of ImageNet, random features have no blind spots from training
    (arXiv 2002.09797), and they are the same for every world. There are four levels, each of half
    the size of the one before. A feature is the mean of a channel over its level.
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
        """Return the features (N, 336), float32, of images (N, 3, H, W), uint8."""
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
    """Return the distances of four sets of N images from a reference of N drawings:

    - `images`, generated from the first N captions of `prompted_scenes`;
    - `floor`, drawings of those scenes;
    - `warped` and `half size`, the same drawings with damage. If these are no farther from the
      reference than the floor, the extractor cannot detect such damage.

    `images`: uint8 (N, 3, 64, 64), N > 3. `features` maps such images to (N, D).
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
    """Bend uint8 images (N, 3, H, W) by a smooth field of random offsets.

    The offsets to the right and down have the standard deviation `shift_px` on a grid of 8 x 8
    points and are interpolated between them. They depend on N only.
    """
    n, _, height, width = images.shape
    coarse = torch.randn(n, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    field = F.interpolate(coarse, (height, width), mode="bicubic").permute(0, 2, 3, 1)
    field = field * 2 * shift_px / torch.tensor([width, height])  # an image is 2 grid units wide
    identity = F.affine_grid(torch.eye(2, 3).expand(n, 2, 3), [n, 3, height, width], False)
    grid = identity + field
    moved = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return moved.round().to(torch.uint8)


def half_size(images: Tensor) -> Tensor:
    """Reduce uint8 images (N, 3, H, W) to half their size and enlarge them again, which smears thin
    lines."""
    small = F.avg_pool2d(images.float(), 2)
    return F.interpolate(small, scale_factor=2, mode="bilinear").round().to(torch.uint8)


# --- a contact sheet -------------------------------------------------------------------------


def contact_sheet(
    images: Tensor, captions: Sequence[str], columns: int = 8, enlargement: int = 2
) -> Image.Image:
    """Return a sheet of all images, uint8 (N, 3, H, W), row by row, with captions beneath them."""
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
