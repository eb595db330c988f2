"""Files and folders that are replaced whole, CSV text, and file names made of prompts."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

Score = str | int | float | None

_PARTIAL = ".partial"


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


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write into that replaces `path` whole, at the end and if nothing fails: whoever
    reads sees the old content or the new."""
    partial = _partial(path)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # some file systems report a full disk only here
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # which disk is full?
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file whole, as `whole_file`."""
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write into that becomes the new folder `path` at once, if nothing fails."""
    partial = _partial(path)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """A run folder for this process alone; what a killed one was writing is swept away.

    ValueError where another process has it. The lock is the operating system's, and goes with its
    holder.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give a folder to write the run into")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ValueError(
            f"another process is at the run in {folder}: let it end, or end it"
        ) from None
    try:
        remove_partial(folder)
        yield
    finally:
        lock.release()


@contextmanager
def if_free(folder: Path) -> Iterator[bool]:
    """Whether no process is at the run in a folder; and if so, none comes to it in the meantime."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def remove_partial(folder: Path) -> None:
    """What a killed process was writing below a folder that no living one writes into."""
    for left in [*folder.rglob(f".*{_PARTIAL}")]:
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
