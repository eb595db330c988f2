"""Contact sheets: the pictures of a set as one PNG, with their prompts above them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # reports read runs without importing torch
    from dreambooth.runs.pictures import Picture

COLUMNS = 8
MAX_PX = 256  # on a picture's longer side
_GAP_PX, _LINE_PX = 4, 16


def contact_sheet(pictures: Sequence[Picture]) -> bytes:
    """A PNG with the pictures of each prompt, in their order, below the prompt."""
    from PIL import Image, ImageDraw

    groups = [(p, [_small(x) for x in of_prompt]) for p, of_prompt in _by_prompt(pictures)]
    images = [image for _, of_prompt in groups for image in of_prompt]
    cell = _GAP_PX + max(max(image.size) for image in images)
    columns = min(COLUMNS, max(len(of_prompt) for _, of_prompt in groups))
    num_rows = [-(-len(of_prompt) // columns) for _, of_prompt in groups]
    labels = [p.encode("latin-1", "replace").decode("latin-1") for p, _ in groups]  # the font's
    text_px = max(ImageDraw.Draw(images[0]).textlength(label) for label in labels)
    width = max(columns * cell, int(text_px)) + _GAP_PX
    sheet = Image.new("RGB", (width, sum(_LINE_PX + n * cell for n in num_rows)), "white")
    draw, y = ImageDraw.Draw(sheet), 0
    for label, (_, of_prompt), rows in zip(labels, groups, num_rows, strict=True):
        draw.text((_GAP_PX, y + 2), label, fill="black")
        for i, image in enumerate(of_prompt):
            row, column = divmod(i, columns)
            sheet.paste(image, (_GAP_PX + column * cell, y + _LINE_PX + row * cell))
        y += _LINE_PX + rows * cell
    content = io.BytesIO()
    sheet.save(content, "PNG")
    return content.getvalue()


def _by_prompt(pictures: Sequence[Picture]) -> list[tuple[str, list[Picture]]]:
    return [(prompt, list(group)) for prompt, group in groupby(pictures, lambda p: p.prompt)]


def _small(picture: Picture) -> Any:
    from PIL import Image

    image = Image.fromarray(picture.pixels.permute(1, 2, 0).contiguous().numpy())
    image.thumbnail((MAX_PX, MAX_PX))
    return image
