"""Images made by any system, from a folder or a table, as pictures to be scored."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from torch import Tensor

from dreambooth.runs.pictures import Picture
from dreambooth.subjects.photos import SUFFIXES, read_original
from dreambooth.subjects.prompts import class_prompt, subject_phrase
from dreambooth.subjects.subject import Subject


class PictureFile(Picture):
    """A picture whose pixels are read from its file whenever they are asked for: there may be more
    of them than memory holds. They are upright RGB, on white where the image is transparent."""

    path: Path

    def __init__(self, path: Path, prompt: str, index: int, template: str) -> None:
        named = {"path": path, "prompt": prompt, "index": index, "template": template}
        for name, value in named.items():
            object.__setattr__(self, name, value)  # a Picture is frozen

    @property
    def pixels(self) -> Tensor:
        return read_original(self.path)


def read_external(
    images: Path, subject: Subject, identifier: str = ""
) -> tuple[list[Picture], list[Picture]]:
    """Pictures of the subject under its prompts, and those of the class prompt ("a dog").

    `images`: a folder with a subfolder for each prompt, named by it ("a dog in the snow", or with
    "_" for each space); or a CSV file with the columns path and prompt, a row for each image, paths
    as seen from the file's own folder. {} in a prompt stands for the subject: "a {}" is never the
    class prompt, and "a dog" and "A dog" are. Other files and what is hidden do not count.

    ValueError where there is no such folder, file or image, where an image cannot be read, or where
    a prompt names neither the identifier nor the class noun.
    """
    if not images.exists():
        raise ValueError(f"there is no folder or CSV file {images}")
    listed = list(_from_table(images) if images.is_file() else _from_folders(images))
    if not listed:
        raise ValueError(
            f"no images in {images}: give a folder with a subfolder for each prompt, named by it, "
            f"of {', '.join(SUFFIXES)} files, or a CSV file with the columns path and prompt"
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
    of_class = class_prompt(subject.class_noun).lower()
    by_class = [picture.template.lower() == of_class for picture in pictures]
    return (
        [p for p, of in zip(pictures, by_class, strict=True) if not of],
        [p for p, of in zip(pictures, by_class, strict=True) if of],
    )


def _from_folders(folder: Path) -> Iterator[tuple[Path, str]]:
    """(path, prompt) of all images, ordered by name."""
    children = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    if loose := [p.name for p in children if p.suffix.lower() in SUFFIXES and p.is_file()]:
        raise ValueError(
            f"{folder} says no prompt for {loose[0]}: put each image into a subfolder named by its "
            "prompt, or list them in a CSV file with the columns path and prompt"
        )
    for child in (p for p in children if p.is_dir()):
        for path in sorted(child.iterdir()):
            if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                yield path, " ".join(child.name.replace("_", " ").split())


def _from_table(table: Path) -> Iterator[tuple[Path, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames or [], list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} is no CSV file ({error})") from error
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
            raise ValueError(f"line {number} of {table} names {path}, and there is no such file")
        yield path, " ".join(row["prompt"].split())


def _check_named(prompt: str, class_noun: str, identifier: str, path: Path) -> None:
    words = prompt.lower()
    if class_noun.lower() not in words and (not identifier or identifier.lower() not in words):
        raise ValueError(
            f"the prompt {prompt!r} of {path} does not name the subject, a {class_noun}: write "
            "{} where it stands, or give identifier.text=, the word that the prompts have for it"
        )


def _check_readable(path: Path) -> None:
    """Its header only: that finds text named .png before any work, and is fast."""
    try:
        with Image.open(path):
            pass
    except OSError as error:
        raise ValueError(f"cannot read the image {path} ({error}): take it away") from error
