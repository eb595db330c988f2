"""Contact sheets: the images of a set as one PNG, with their prompts above them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # reports read runs without importing torch
    from dreambooth.runs.pictures import Picture

COLUMNS = 8
MAX_PX = 256  # on an image's longer side
_GAP_PX, _LINE_PX = 4, 16


def contact_sheet(pictures: Sequence[Picture], captions: Sequence[str] = ()) -> bytes:
    """A PNG with the images of each prompt, in their order, below the prompt.

    `captions`: a line below each image.
    """
    from PIL import Image, ImageDraw

    images = [_small(picture) for picture in pictures]
    draw = ImageDraw.Draw(images[0])
    groups = [(p, list(of_prompt)) for p, of_prompt in _by_prompt(pictures)]
    text_px = max(map(draw.textlength, captions), default=0)
    cell = _GAP_PX + int(max(text_px, *(max(image.size) for image in images)))
    cell_height = _GAP_PX + max(image.height for image in images) + (_LINE_PX if captions else 0)
    columns = min(COLUMNS, max(len(of_prompt) for _, of_prompt in groups))
    num_rows = [-(-len(of_prompt) // columns) for _, of_prompt in groups]
    labels = [p.encode("latin-1", "replace").decode("latin-1") for p, _ in groups]  # the font's
    width = max(columns * cell, int(max(map(draw.textlength, labels)))) + _GAP_PX
    sheet = Image.new("RGB", (width, sum(_LINE_PX + n * cell_height for n in num_rows)), "white")
    draw, y = ImageDraw.Draw(sheet), 0
    for label, (_, of_prompt), rows in zip(labels, groups, num_rows, strict=True):
        draw.text((_GAP_PX, y + 2), label, fill="black")
        for i, number in enumerate(of_prompt):
            row, column = divmod(i, columns)
            left, top = _GAP_PX + column * cell, y + _LINE_PX + row * cell_height
            sheet.paste(images[number], (left, top))
            if captions:
                below = top + images[number].height
                draw.text((left, below), captions[number], fill="black")
        y += _LINE_PX + rows * cell_height
    content = io.BytesIO()
    sheet.save(content, "PNG")
    return content.getvalue()


def _by_prompt(pictures: Sequence[Picture]) -> Iterator[tuple[str, Iterator[int]]]:
    """Each prompt, and the numbers of its images."""
    return groupby(range(len(pictures)), lambda number: pictures[number].prompt)


def _small(picture: Picture) -> Any:
    from PIL import Image

    image = Image.fromarray(picture.pixels.permute(1, 2, 0).contiguous().numpy())
    image.thumbnail((MAX_PX, MAX_PX))
    return image
