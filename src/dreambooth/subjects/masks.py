"""Masks: where the subject is in its photos, white on black, NAME.mask.png for NAME.jpg."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from dreambooth.subjects.files import mask_of
from dreambooth.subjects.photos import central_square, is_transparent, read_original, to_rgb


def load_masks(photos: Sequence[Path], resolution_px: int, crop: str = "centre") -> Tensor:
    """The mask of each photo as training sees it: [0, 1], (N, 1, R, R), 1 where the subject is.

    A mask is made square as its photo is, and resized by averaging areas. The border that
    crop=pad adds is black. A photo without a mask has 1 everywhere.
    """
    paths, white = map(mask_of, photos), torch.ones(1, resolution_px, resolution_px)
    return torch.stack([white if p is None else _read(p, resolution_px, crop) for p in paths])


def overlay(pixels: Tensor, mask: Tensor) -> Tensor:
    """A photo, uint8 (3, R, R), with red over what its mask (1, R, R) leaves out."""
    red = torch.tensor([255.0, 0.0, 0.0]).view(3, 1, 1)
    outside = 0.4 * pixels + 0.6 * red
    return (mask * pixels + (1 - mask) * outside).round().to(torch.uint8)


def check_masks(photos: Sequence[Path], crop: str) -> bool:
    """Check the masks, and return whether any photo has one.

    ValueError if a mask cannot be read, is transparent, has another size than its photo, or is
    black wherever training looks.
    """
    pairs = {photo: path for photo in photos if (path := mask_of(photo))}
    for photo, path in pairs.items():
        height, width = read_original(photo).shape[1:]
        mask = _open(path)
        if mask.size != (width, height):
            raise ValueError(
                f"the mask {path} has {mask.width}x{mask.height} px and its photo {width}x{height}:"
                " save it at the size of the photo"
            )
        if is_transparent(path):
            raise ValueError(
                f"the mask {path} has transparent areas: save it as white (the subject) on black"
            )
        if mask.getextrema()[1] == 0:
            raise ValueError(f"the mask {path} is all black: make the subject white, or remove it")
        if _read(path, 1, crop).max() == 0:
            raise ValueError(
                f"the mask {path} is black within the centre of its photo, which is what training "
                "sees: give subject.crop=pad"
            )
    return bool(pairs)


def _read(path: Path, resolution_px: int, crop: str) -> Tensor:
    white = Image.fromarray(np.asarray(_open(path), np.float32) / 255)  # in floating point
    side = (max(white.size),) * 2
    square = ImageOps.pad(white, side) if crop == "pad" else central_square(white)
    resized = square.resize((resolution_px, resolution_px), Image.Resampling.BOX)
    return torch.from_numpy(np.array(resized))[None]


def _open(path: Path) -> Image.Image:
    """A mask upright, in 8-bit grey."""
    try:
        with Image.open(path) as file:
            return to_rgb(ImageOps.exif_transpose(file)).convert("L")
    except Exception as error:  # Pillow's decoders raise many kinds of error on a broken file
        raise ValueError(f"cannot read the mask {path} ({error}): repair or remove it") from error
