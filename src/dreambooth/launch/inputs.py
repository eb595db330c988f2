"""The user's files that a run reads. Their hashes are part of what the run is."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from dreambooth.subjects.files import image_files
from dreambooth.subjects.prompts import PROMPT_SETS

_KEYS = ("photos", "masks", "prompts")  # of the group `subject`: a file, or a folder of images


def inputs_of(config: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of each file of the subject, such as `photos/0.jpg`; {} for a drawn subject."""
    hashes = {}
    for key in _KEYS:
        value = config["subject"].get(key)
        if not isinstance(value, str) or value in PROMPT_SETS:
            continue
        path = Path(value).expanduser()
        files = image_files(path) if path.is_dir() else [path] if path.is_file() else []
        for file in files:
            hashes[f"{key}/{file.name}"] = sha256(file.read_bytes()).hexdigest()
    return hashes
