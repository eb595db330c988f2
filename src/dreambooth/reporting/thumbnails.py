"""Small WebP copies of images, cached in a file beside the report."""

from __future__ import annotations

import io
import json
import os
from base64 import b64encode
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dreambooth.runs.files import write_atomically


def thumbnails(paths: Sequence[Path], size_px: int, store: Path) -> dict[Path, str]:
    """Return path -> base64 of a WebP file of at most `size_px` on the longer side.

    Thumbnails are cached in `store`: one is made again only if the image's file or the size has
    changed. Images that cannot be read are left out.
    """
    cached = _read_cache(store)
    keys = {path: _key(path, size_px, store.parent) for path in dict.fromkeys(paths)}
    missing = [path for path, key in keys.items() if key and key not in cached]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # PIL releases the GIL to decode
        made = pool.map(lambda path: small(path, size_px), missing)
        known = cached | {keys[path]: data for path, data in zip(missing, made, strict=True)}
    content = {key: known[key] for key in keys.values() if key}
    if content != cached:
        store.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(store, json.dumps(content, indent=0).encode())
    return {path: content[key] for path, key in keys.items() if key and content[key]}


def small(path: Path, size_px: int) -> str:
    """Return the base64 of one thumbnail; "" if the image cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            shrunk = max(image.size) > size_px
            image.draft("RGB", (2 * size_px, 2 * size_px))  # decodes a JPEG at a reduced size
            rgb = image.convert("RGB")
        if shrunk:
            rgb.thumbnail((size_px, size_px), Image.Resampling.LANCZOS)
        content = io.BytesIO()
        # Images that are not shrunk are those of the miniature: their sharp edges need quality.
        rgb.save(content, "WEBP", quality=76 if shrunk else 90)
    except (OSError, SyntaxError, ValueError):
        return ""
    return b64encode(content.getvalue()).decode()


def _read_cache(store: Path) -> dict[str, str]:
    """Return the thumbnails of an earlier report; {} if there is none or its file is damaged."""
    try:
        content = json.loads(store.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _key(path: Path, size_px: int, folder: Path) -> str:
    """Return a key of the file's current state, relative to `folder`; "" if the file is gone."""
    try:
        state = path.stat()
    except OSError:
        return ""
    name = os.path.relpath(path.resolve(), folder.resolve())
    return f"{name} {size_px} px {state.st_mtime_ns} {state.st_size}"
