"""Loading a subject's photos from a folder, and converting images to uint8 and back."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from dreambooth.subjects.files import SUBJECT_FILE, annotation_files, photo_files, visible

log = logging.getLogger(__name__)

CROPS = ("centre", "pad", "none")
"""How a photo is made square: its largest central square, the whole photo on a square of the colour
of its border, or not at all (other photos are refused)."""


@dataclass(frozen=True)
class Photos:
    """Photos sorted by file name, and their pixels in the same order."""

    paths: tuple[Path, ...]
    images: Tensor  # [-1, 1], (N, 3, R, R), float32


def load_photos(folder: Path, resolution_px: int, crop: str = "centre") -> Photos:
    """Load the photos of a folder (not of its subfolders), at the resolution of a stage.

    Each photo is rotated according to its EXIF orientation, composited on white where transparent,
    made square as `crop` says (`CROPS`), and resized with an antialiased bicubic filter. Colour
    profiles are ignored.

    Warns if there is only one photo (the paper uses 3-5), about files that are skipped, and of
    transparent areas.
    ValueError if the folder does not exist or holds no photo, if a photo cannot be read, or if it
    is not square and `crop` is "none".
    """
    folder = Path(folder).expanduser()
    paths = photo_files(folder)
    known = {*paths, *annotation_files(folder), folder / SUBJECT_FILE}
    others = [p.name for p in visible(folder) if p not in known]
    if others:
        skipped = ", ".join(others[:5]) + (" ..." if len(others) > 5 else "")
        log.warning("%s: skipped these, which are not photos: %s", folder, skipped)
    if len(paths) == 1:
        log.warning("only one photo in %s: 3-5 photos give better results", folder)
    images = torch.stack([read_photo(path, resolution_px, crop) for path in paths])
    if count := sum(map(is_transparent, paths)):
        log.warning(
            "%s: %d of %d photos have transparent areas, which training sees as white",
            folder,
            count,
            len(paths),
        )
    return Photos(paths, images)


def read_photo(path: Path, resolution_px: int, crop: str = "centre") -> Tensor:
    """Load one photo as `load_photos` does: [-1, 1], (3, R, R)."""
    image = _open_upright(path)
    if crop == "none" and image.width != image.height:
        raise ValueError(
            f"subject.crop=none takes square photos, and {path} has {image.width}x{image.height} "
            "px: make it square, or give subject.crop=centre or pad"
        )
    square = _padded(image) if crop == "pad" else central_square(image)
    resized = square.resize((resolution_px, resolution_px), Image.Resampling.BICUBIC)
    return from_uint8(torch.from_numpy(np.array(resized)).permute(2, 0, 1))


def is_transparent(path: Path) -> bool:
    """Whether a photo has an area that is not opaque."""
    with Image.open(path) as image:
        if not image.has_transparency_data:
            return False
        lowest = image.convert("RGBA").getchannel("A").getextrema()[0]
    return isinstance(lowest, int | float) and lowest < 255


def central_square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _padded(image: Image.Image) -> Image.Image:
    """The image in the middle of a square of the median colour of its border."""
    pixels, side = np.asarray(image), max(image.size)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    red, green, blue = (int(value) for value in np.median(border, axis=0))
    square = Image.new("RGB", (side, side), (red, green, blue))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def warn_of_photos(originals: Sequence[Tensor], resolution_px: int, crop: str) -> None:
    """Warn once of photos that are cut, and once of those that are enlarged.

    `originals`: uint8 (3, H, W), before they are made square. `resolution_px`: of the model.
    """
    sizes_px = [photo.shape[-2:] for photo in originals]
    cut = [1 - min(size) / max(size) for size in sizes_px if len(set(size)) > 1]
    if cut and crop == "centre":
        log.warning(
            "%d of %d photos are not square: training sees the centre of each, and up to %.0f %% "
            "of a photo is cut off; subject.crop=pad keeps whole photos",
            len(cut),
            len(sizes_px),
            100 * max(cut),
        )
    side_of = max if crop == "pad" else min
    small = [side_of(size) for size in sizes_px if side_of(size) < resolution_px]
    if small:
        log.warning(
            "%d of %d photos are smaller than the model's %d px (the smallest: %d): they are "
            "enlarged, and the model learns the missing detail as blur",
            len(small),
            len(sizes_px),
            resolution_px,
            min(small),
        )


def to_uint8(images: Tensor) -> Tensor:
    """Round images [-1, 1], of any shape, to uint8."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(pixels: Tensor) -> Tensor:
    """Convert uint8, of any shape, to float32 images [-1, 1]; `to_uint8` inverts it exactly."""
    return pixels.float() / 127.5 - 1


def read_original(path: Path) -> Tensor:
    """Load one photo upright, neither cropped nor resized: uint8 (3, H, W)."""
    return torch.from_numpy(np.array(_open_upright(path))).permute(2, 0, 1).contiguous()


def _open_upright(path: Path) -> Image.Image:
    try:
        with Image.open(path) as file:
            return to_rgb(ImageOps.exif_transpose(file))
    except Exception as error:  # Pillow's decoders raise many kinds of error on a broken file
        raise ValueError(
            f"cannot read the photo {path} ({error}): repair it or remove it"
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB, composited on white where it is transparent.

    ValueError for floating-point images; all other modes are supported.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range: save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip it at 255 instead of scaling
        grey = np.asarray(image).clip(0, 65535) / 257
        image = Image.fromarray(grey.round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
