"""Small WebP copies of pictures, made once and kept in a file beside the report."""

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
    """The pictures as base64 of WebP files of at most `size_px` on the longer side.

    `store` keeps them: a picture is made small again only if its file or the size has changed. One
    that cannot be read is left out.
    """
    kept = _kept(store)
    keys = {path: _key(path, size_px, store.parent) for path in dict.fromkeys(paths)}
    missing = [path for path, key in keys.items() if key and key not in kept]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # PIL decodes outside Python's lock
        made = pool.map(lambda path: small(path, size_px), missing)
        found = kept | {keys[path]: data for path, data in zip(missing, made, strict=True)}
    content = {key: found[key] for key in keys.values() if key}
    if content != kept:
        store.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(store, json.dumps(content, indent=0).encode())
    return {path: content[key] for path, key in keys.items() if key and content[key]}


def small(path: Path, size_px: int) -> str:
    """One picture; "" if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            shrunk = max(image.size) > size_px
            image.draft("RGB", (2 * size_px, 2 * size_px))  # JPEGs are decoded small
            rgb = image.convert("RGB")
        if shrunk:
            rgb.thumbnail((size_px, size_px), Image.Resampling.LANCZOS)
        content = io.BytesIO()
        rgb.save(content, "WEBP", quality=76 if shrunk else 90)  # a drawn world has sharp edges
    except (OSError, SyntaxError, ValueError):
        return ""
    return b64encode(content.getvalue()).decode()


def _kept(store: Path) -> dict[str, str]:
    """What an earlier report left; nothing if there was none or it is damaged."""
    try:
        content = json.loads(store.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _key(path: Path, size_px: int, folder: Path) -> str:
    """The file as it is now, named from the report's folder; "" if it is gone."""
    try:
        state = path.stat()
    except OSError:
        return ""
    name = os.path.relpath(path.resolve(), folder.resolve())
    return f"{name} {size_px} px {state.st_mtime_ns} {state.st_size}"
