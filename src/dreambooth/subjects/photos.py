"""A subject's photos: a folder of any images to a tensor; and images as bytes, and back."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

log = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Photos:
    """Photos sorted by file name, and their pixels in the same order."""

    paths: tuple[Path, ...]
    images: Tensor  # [-1, 1], (N, 3, R, R), float32


def load_photos(folder: Path, resolution_px: int) -> Photos:
    """The photos in a folder (not in its subfolders), at the resolution of a stage.

    Each is turned upright by its EXIF orientation, put on white where it is transparent, cropped to
    the largest square about its centre, and then resized by an antialiased bicubic filter: the
    proportions stay, what is outside the square is lost. Colour profiles are not applied.

    Warns of a single photo (the paper has 3-5) and of files that are left out. ValueError where the
    folder is not there or holds no photo, or where a photo cannot be read.
    """
    paths = photo_paths(folder)
    images = torch.stack([read_photo(path, resolution_px) for path in paths])
    return Photos(paths, images)


def photo_paths(folder: Path) -> tuple[Path, ...]:
    """The image files of a folder, sorted by name; hidden files do not count. Errors as above."""
    folder = Path(folder).expanduser()
    if not folder.exists():
        raise ValueError(
            f"there is no folder {folder}: give one that holds 3-5 photos of the subject"
        )
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file: give the folder that holds the subject's photos")
    visible = sorted((p for p in folder.iterdir() if p.name[0] != "."), key=lambda p: p.name)
    paths = tuple(p for p in visible if p.suffix.lower() in SUFFIXES and p.is_file())
    names = [p.name for p in visible if p not in paths]
    others = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
    if not paths:
        raise ValueError(
            f"no photos in {folder} (it holds {others or 'nothing'}): "
            f"put 3-5 photos of the subject there, each a {', '.join(SUFFIXES)} file"
        )
    if others:
        log.warning("%s: left out, as no photos: %s", folder, others)
    if len(paths) == 1:
        log.warning("only one photo in %s: 3-5 of them teach the subject better", folder)
    return paths


def read_photo(path: Path, resolution_px: int) -> Tensor:
    """One photo, [-1, 1] (3, R, R); see `load_photos`."""
    image = _opened(path)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    resized = square.resize((resolution_px, resolution_px), Image.Resampling.BICUBIC)
    return from_uint8(torch.from_numpy(np.array(resized)).permute(2, 0, 1))


def to_uint8(images: Tensor) -> Tensor:
    """Images [-1, 1] of any shape as uint8, 0..255: to the nearest byte."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(pixels: Tensor) -> Tensor:
    """uint8 of any shape as float32 images [-1, 1]; `to_uint8` gives the same bytes back."""
    return pixels.float() / 127.5 - 1


def read_original(path: Path) -> Tensor:
    """One photo, upright and whole, at its own size: uint8 (3, H, W)."""
    return torch.from_numpy(np.array(_opened(path))).permute(2, 0, 1).contiguous()


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as file:
            return to_rgb(ImageOps.exif_transpose(file))
    except Exception as error:  # Pillow's decoders raise many kinds of error on a broken file
        raise ValueError(
            f"cannot read the photo {path} ({error}): repair it or take it away"
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as 8-bit RGB, on white where it is transparent."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255, not scale
        grey = np.asarray(image).clip(0, 65535) / 257
        image = Image.fromarray(grey.round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
