"""A hash of content, by which caches and reports recognise weights and code."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # reports read runs without importing torch
    from torch import Tensor


def sha256_of(parts: Iterable[str | bytes | Tensor]) -> str:
    """SHA-256 of the concatenated parts, in hex: strings as UTF-8, tensors as float32."""
    digest = sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode())
        elif isinstance(part, bytes):
            digest.update(part)
        else:
            digest.update(part.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
