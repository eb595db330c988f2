"""Images of any other system, read from a folder or a CSV file for scoring."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from torch import Tensor

from dreambooth.runs.pictures import Picture
from dreambooth.subjects.files import SUFFIXES
from dreambooth.subjects.photos import read_original
from dreambooth.subjects.prompts import class_prompt, subject_phrase
from dreambooth.subjects.subject import Subject


class PictureFile(Picture):
    """An image that reads its pixels from a file on each access, since they may not fit in memory.

    The pixels are upright RGB, composited on white where the image is transparent.
    """

    path: Path

    def __init__(self, path: Path, prompt: str, index: int, template: str) -> None:
        fields = {"path": path, "prompt": prompt, "index": index, "template": template}
        for name, value in fields.items():
            object.__setattr__(self, name, value)  # a Picture is frozen

    @property
    def pixels(self) -> Tensor:
        return read_original(self.path)


def read_external(
    images: Path, subject: Subject, identifier: str = ""
) -> tuple[list[Picture], list[Picture]]:
    """Read the images of the subject's prompts, and those of the class prompt ("a dog").

    `images` is a folder or a CSV file. A folder has one subfolder for each prompt, named by the
    prompt ("a dog in the snow", or with "_" for each space). A CSV file has the columns path and
    prompt and one row for each image; paths are relative to the CSV file. {} in a prompt stands for
    the subject, so that "a {}" is never the class prompt, while "a dog" and "A dog" are. Hidden
    files and files of other types are ignored.

    ValueError if the folder, the file or an image does not exist, if an image cannot be read, or if
    a prompt names neither the identifier nor the class noun.
    """
    if not images.exists():
        raise ValueError(f"there is no folder or CSV file {images}")
    listed = list(_from_table(images) if images.is_file() else _from_folders(images))
    if not listed:
        raise ValueError(
            f"no images in {images}: give a folder with a subfolder for each prompt, named by the "
            f"prompt, with files of the types {', '.join(SUFFIXES)}; or give a CSV file with the "
            "columns path and prompt"
        )
    phrase = subject_phrase(identifier, subject.class_noun).strip()
    counts: Counter[str] = Counter()
    pictures: list[Picture] = []
    for path, template in listed:
        prompt = template.replace("{}", phrase)
        _check_named(prompt, subject.class_noun, identifier, path)
        _check_readable(path)
        pictures.append(PictureFile(path, prompt, counts[prompt], template))
        counts[prompt] += 1
    prompt_of_class = class_prompt(subject.class_noun).lower()
    return (
        [p for p in pictures if p.template.lower() != prompt_of_class],
        [p for p in pictures if p.template.lower() == prompt_of_class],
    )


def _from_folders(folder: Path) -> Iterator[tuple[Path, str]]:
    """(path, prompt) of each image in the subfolders, sorted by name."""
    children = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    if loose := [p.name for p in children if p.suffix.lower() in SUFFIXES and p.is_file()]:
        raise ValueError(
            f"{folder} gives no prompt for {loose[0]}: put each image into a subfolder named by "
            "its prompt, or list the images in a CSV file with the columns path and prompt"
        )
    for child in (p for p in children if p.is_dir()):
        for path in sorted(child.iterdir()):
            if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                yield path, " ".join(child.name.replace("_", " ").split())


def _from_table(table: Path) -> Iterator[tuple[Path, str]]:
    """(path, prompt) of each row of a CSV file."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames or [], list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} is not a CSV file ({error})") from error
    if missing := {"path", "prompt"} - set(columns):
        raise ValueError(
            f"{table} has no column {' and no column '.join(sorted(missing))} (it has "
            f"{', '.join(columns) or 'none'}): its first line must name path and prompt"
        )
    for number, row in enumerate(rows, start=2):
        if not row["path"] or not (row["prompt"] or "").strip():
            raise ValueError(f"line {number} of {table} lacks a path or a prompt: give both")
        path = table.parent / Path(row["path"]).expanduser()
        if not path.is_file():
            raise ValueError(f"line {number} of {table} names {path}, which does not exist")
        yield path, " ".join(row["prompt"].split())


def _check_named(prompt: str, class_noun: str, identifier: str, path: Path) -> None:
    """ValueError unless a prompt names the subject by its class noun or its identifier."""
    text = prompt.lower()
    if class_noun.lower() not in text and (not identifier or identifier.lower() not in text):
        raise ValueError(
            f"the prompt {prompt!r} of {path} does not name the subject, a {class_noun}: write "
            "{} in its place, or give identifier.text=, the word that stands for it in the prompts"
        )


def _check_readable(path: Path) -> None:
    """ValueError unless the header is that of an image: a fast check before any work."""
    try:
        with Image.open(path):
            pass
    except OSError as error:
        raise ValueError(f"cannot read the image {path} ({error}): remove it") from error
