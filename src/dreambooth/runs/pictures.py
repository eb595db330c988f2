"""Generated images as PNG files whose metadata says what they were made from."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.runs.files import slug

if TYPE_CHECKING:  # reports read runs without importing torch
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Picture:
    """A generated image and what it was made from."""

    pixels: Tensor  # uint8 (3, H, W)
    prompt: str
    index: int  # counts the images of one prompt; (prompt, index) determines the noise
    template: str = ""  # the prompt with {} for the subject: "a {} in the snow"


def picture_name(prompt: str, index: int) -> str:
    """The file name of an image in its image set."""
    return f"{slug(prompt)}-{index:03d}.png"


def png_of(picture: Picture) -> bytes:
    """An image as PNG, with its prompt, index and template in the metadata."""
    from PIL import Image, PngImagePlugin

    metadata = PngImagePlugin.PngInfo()
    for key in ("prompt", "index", "template"):
        metadata.add_itxt(key, str(getattr(picture, key)))
    content = io.BytesIO()
    image = Image.fromarray(picture.pixels.permute(1, 2, 0).contiguous().numpy())
    image.save(content, "PNG", pnginfo=metadata)
    return content.getvalue()


def read_png(path: Path) -> Picture:
    """Read what `png_of` wrote. ValueError if the file is damaged or was written otherwise."""
    import numpy as np
    import torch
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB")))
            text = dict(image.info)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error
    try:
        return Picture(
            pixels.permute(2, 0, 1).contiguous(),
            prompt=text["prompt"],
            index=int(text["index"]),
            template=text["template"],
        )
    except KeyError as error:
        raise ValueError(f"{path} is damaged (its metadata has no {error})") from error
