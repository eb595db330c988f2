"""Generated images as PNG files that say what they were made from."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.runs.files import slug

if TYPE_CHECKING:  # reports read runs without paying for torch
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Picture:
    """A generated image and what it was made from."""

    pixels: Tensor  # uint8 (3, H, W)
    prompt: str
    index: int  # among the images of its prompt; (prompt, index) fixes the noise
    template: str = ""  # the prompt before the subject was named, as "a {} in the snow"


def picture_name(prompt: str, index: int) -> str:
    """The file of a picture in its set."""
    return f"{slug(prompt)}-{index:03d}.png"


def png_of(picture: Picture) -> bytes:
    from PIL import Image, PngImagePlugin

    metadata = PngImagePlugin.PngInfo()
    for key in ("prompt", "index", "template"):
        metadata.add_itxt(key, str(getattr(picture, key)))
    content = io.BytesIO()
    image = Image.fromarray(picture.pixels.permute(1, 2, 0).contiguous().numpy())
    image.save(content, "PNG", pnginfo=metadata)
    return content.getvalue()


def read_png(path: Path) -> Picture:
    """ValueError where the file is damaged or was not written by `png_of`."""
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
