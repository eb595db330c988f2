"""The images of made-up sweeps: PNG files as a run writes them, in microseconds."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from dreambooth.runs.files import slug


@cache
def _pixels(number: int, size_px: int) -> bytes:
    """One of eight images, compressed: a disc on a plain background."""
    y, x = np.mgrid[:size_px, :size_px] / size_px
    inside = (x - 0.3 - 0.05 * number) ** 2 + (y - 0.5) ** 2 < 0.06
    colour = np.array([40 * number % 256, 200 - 20 * number, 90])
    image = np.where(inside[..., None], colour, 230 - 10 * number).astype(np.uint8)
    filtered = np.zeros((size_px, 1 + 3 * size_px), np.uint8)
    filtered[:, 1:] = image.reshape(size_px, -1)
    return zlib.compress(filtered.tobytes(), 6)


def write_images(folder: Path, jobs: Sequence[tuple[str, str, int]], size_px: int) -> None:
    """Different prompts differ in their image; what is drawn says nothing."""
    folder.mkdir(parents=True)
    for prompt, template, index in jobs:
        pixels = _pixels((zlib.crc32(prompt.encode()) + index) % 8, size_px)
        said = {"prompt": prompt, "index": str(index), "template": template}
        (folder / f"{slug(prompt)}-{index:03d}.png").write_bytes(png(pixels, size_px, said))


def png(pixels: bytes, size_px: int, metadata: Mapping[str, str]) -> bytes:
    """A PNG file of compressed, filtered RGB rows with international text, as Pillow writes it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", size_px, size_px, 8, 2, 0, 0, 0)
    texts = [
        chunk(b"iTXt", key.encode() + b"\0\0\0\0\0" + text.encode())
        for key, text in metadata.items()
    ]
    parts = [chunk(b"IHDR", header), *texts, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
