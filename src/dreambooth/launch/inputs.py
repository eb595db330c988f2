"""The user's files that a run reads. Their hashes are part of what the run is."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from dreambooth.subjects.files import annotation_files, image_files


def inputs_of(config: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of each photo, such as `photos/0.jpg`, and of its caption and mask.

    {} for a drawn subject.
    """
    photos = config["subject"].get("photos")
    folder = Path(photos).expanduser() if isinstance(photos, str) else None
    if folder is None or not folder.is_dir():
        return {}
    files = [*image_files(folder), *annotation_files(folder)]
    return {f"photos/{file.name}": sha256(file.read_bytes()).hexdigest() for file in files}
