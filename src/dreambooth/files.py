"""Files that are replaced whole, CSV text, and file names made of prompts."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

Score = str | int | float | None


def slug(prompt: str) -> str:
    """A file name of a prompt: its words joined by "-", and where that says less than the prompt
    (capitals, punctuation, length), "_" and a hash. Different prompts have different slugs."""
    words = "-".join(re.findall("[a-z0-9]+", prompt.lower()))[:80]
    if words and words.replace("-", " ") == prompt:
        return words
    return f"{words}_{blake2b(prompt.encode(), digest_size=5).hexdigest()}"


def csv_of(rows: Sequence[Mapping[str, Score]]) -> str:
    """CSV text with a column per key of any row; text is quoted and numbers are not, so that a
    text of digits stays text. None and an absent key are an empty text."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    if columns:
        writer.writeheader()
        writer.writerows(
            {k: int(v) if v is True or v is False else v for k, v in row.items()} for row in rows
        )
    return text.getvalue()


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file whole: whoever reads sees the old content or the new, whatever fails."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # some file systems report a full disk only here
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
