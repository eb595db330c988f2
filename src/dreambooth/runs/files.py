"""Atomic writes of files and folders, locks on run folders, CSV text, and file names."""

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

from dreambooth.runs.ownership import check_folder

Score = str | int | float | None

_PARTIAL = ".partial"


def slug(prompt: str) -> str:
    """A file name for a prompt: its words joined by "-".

    If that loses anything (capitals, punctuation, length), "_" and a hash of the prompt follow.
    Different prompts have different slugs.
    """
    words = "-".join(re.findall("[a-z0-9]+", prompt.lower()))[:80]
    if words and words.replace("-", " ") == prompt:
        return words
    return f"{words}_{blake2b(prompt.encode(), digest_size=5).hexdigest()}"


def csv_of(rows: Sequence[Mapping[str, Score]]) -> str:
    """Rows as CSV text, with one column for each key that any row has.

    Text is quoted and numbers are not, so that digits in quotes are read back as text. None and
    missing keys become empty cells.
    """
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
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` on success.

    A reader sees either the old content or the new content, never a part of it.
    """
    partial = _partial_path(path)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # some file systems report a full disk only here
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # so that the message names the full disk
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file with `atomic_file`."""
    with atomic_file(path) as file:
        file.write(content)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary path at which to create a folder, which becomes `path` on success."""
    partial = _partial_path(path)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Lock a run folder for this process, and delete what a killed process left half-written.

    ValueError if another process holds the lock, or if the folder is not a run's. The operating
    system releases the lock when its process ends.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give a folder to write the run into")
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ValueError(
            f"another process is using the run in {folder}: wait until it ends, or end it"
        ) from None
    try:
        remove_partial(folder)
        yield
    finally:
        lock.release()


@contextmanager
def if_free(folder: Path) -> Iterator[bool]:
    """Lock a run folder unless a process has locked it already; yield whether it is locked now."""
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
    """Delete the temporary files of killed processes. The caller must hold the folder's lock."""
    for partial in [*folder.rglob(f".*{_PARTIAL}")]:
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)


def _partial_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
