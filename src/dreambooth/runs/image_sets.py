"""The images of a run folder: images/SET/, a PNG file each, with the prompt in its metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth.runs.contact_sheet import contact_sheet
from dreambooth.runs.files import Score, csv_of, write_atomically
from dreambooth.runs.ownership import RUN_SETS
from dreambooth.runs.pictures import Picture, picture_name, png_of, read_png


def check_new_set(image_set: str) -> None:
    """ValueError if a name cannot be that of an image set, or is that of a set of the run's own, or
    of its frontier's."""
    _check_name(image_set)
    if image_set.lower().startswith("frontier"):
        raise ValueError(
            f"image_set={image_set}: names that begin with frontier are for the images of "
            "experiment=frontier, give another name"
        )
    if image_set.lower() in RUN_SETS:
        raise ValueError(
            f"image_set={image_set} is a set that the run itself writes: give another name than "
            f"{', '.join(RUN_SETS)}"
        )


@dataclass(frozen=True)
class ImageSets:
    """The image sets of the run in a folder: its own (`RUN_SETS`), and those of src/generate.py."""

    folder: Path

    def save(self, image_set: str, pictures: Sequence[Picture]) -> list[Path]:
        """Write images as images/SET/<words of the prompt>-<index>.png; return their paths.

        Different prompts have different file names, even where the file system ignores case. An
        image of the same set, prompt and index is replaced.
        """
        self._folder_of(image_set).mkdir(parents=True, exist_ok=True)
        paths = [self._folder_of(image_set) / picture_name(p.prompt, p.index) for p in pictures]
        assert len(set(paths)) == len(paths), "two images have the same prompt and index"
        for path, picture in zip(paths, pictures, strict=True):
            write_atomically(path, png_of(picture))
        return paths

    def save_contact_sheet(
        self, image_set: str, pictures: Sequence[Picture], captions: Sequence[str] = ()
    ) -> Path:
        """Write images as the one image images/SET.png, with their prompts; return its path."""
        path = self._folder_of(image_set).with_name(f"{image_set}.png")
        write_atomically(path, contact_sheet(pictures, captions))
        return path

    def save_rows(self, name: str, rows: Sequence[Mapping[str, Score]]) -> Path:
        """Write rows about images as images/NAME.csv; return its path."""
        path = self._folder_of(name).with_name(f"{name}.csv")
        write_atomically(path, csv_of(rows).encode())
        return path

    def read(self, image_set: str) -> list[Picture]:
        """The images of a set, ordered by file name."""
        return [read_png(path) for path in self.paths(image_set)]

    def has(self, image_set: str) -> bool:
        """Whether the run has this image set."""
        return self._folder_of(image_set).is_dir()

    def has_picture(self, image_set: str, prompt: str, index: int, template: str) -> bool:
        """Whether the set holds this image, undamaged."""
        path = self._folder_of(image_set) / picture_name(prompt, index)
        try:
            saved = read_png(path) if path.exists() else None
        except ValueError:
            return False
        return saved is not None and (saved.prompt, saved.template) == (prompt, template)

    def paths(self, image_set: str) -> list[Path]:
        """The PNG files of a set, sorted by name. ValueError if the run has no such set."""
        folder = self._folder_of(image_set)
        if not folder.is_dir():
            raise ValueError(f"the run in {self.folder} has no images/{image_set}")
        return sorted(folder.glob("*.png"))

    def _folder_of(self, image_set: str) -> Path:
        _check_name(image_set)
        return self.folder / "images" / image_set


def _check_name(image_set: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", image_set):
        raise ValueError(f"{image_set!r} cannot name a set of images: use letters and digits")
