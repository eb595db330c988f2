"""The files of a subject's folder, without importing torch.

NAME.jpg         a photo, of `SUFFIXES`
NAME.txt         its caption, optional
NAME.mask.png    where the subject is in it, optional
subject.yaml     what the photos show, optional: the settings of `subject` as YAML
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MASK = ".mask.png"
SUBJECT_FILE = "subject.yaml"
SUBJECT_KEYS = ("class_noun", "wrong_class_noun", "kind", "name", "description", "crop", "prompts")


def image_files(folder: Path) -> tuple[Path, ...]:
    """The photos of a folder, sorted by name, without masks and hidden files."""
    return tuple(
        p
        for p in visible(folder)
        if p.suffix.lower() in SUFFIXES and not _is_mask(p) and p.is_file()
    )


def photo_files(folder: Path) -> tuple[Path, ...]:
    """The photos of a folder, sorted by name.

    ValueError if it is no folder, holds no photo, or holds a caption or a mask of no photo.
    """
    if not folder.exists():
        raise ValueError(f"{no_such_folder(folder)}: give one that holds 3-5 photos of the subject")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file: give the folder that holds the subject's photos")
    paths = image_files(folder)
    if not paths:
        others = [p.name for p in visible(folder)]
        held = ", ".join(others[:5]) + (" ..." if len(others) > 5 else "")
        raise ValueError(
            f"no photos in {folder} (it holds {held or 'nothing'}): "
            f"put 3-5 photos of the subject there, each a {', '.join(SUFFIXES)} file"
        )
    names = {each.name for photo in paths for each in (_caption(photo), _mask(photo))}
    for path in annotation_files(folder):
        if path.name not in names:
            is_mask = _is_mask(path)
            example = _mask(paths[0]) if is_mask else _caption(paths[0])
            raise ValueError(
                f"{path} is the {'mask' if is_mask else 'caption'} of no photo: name it as its "
                f"photo is named, such as {example.name} for {paths[0].name}, or move it away"
            )
    return paths


def annotation_files(folder: Path) -> list[Path]:
    """The captions and masks of a folder."""
    return [p for p in visible(folder) if _is_mask(p) or p.suffix == ".txt"]


def captions_of(photos: Sequence[Path]) -> tuple[str | None, ...]:
    """The caption of each photo, None where it has none. {} stands for the subject.

    ValueError unless a caption is one line of text, without other braces than {}.
    """
    return tuple(_read_caption(p) if (p := _caption(photo)).is_file() else None for photo in photos)


def mask_of(photo: Path) -> Path | None:
    """The file of a photo's mask; None if it has none."""
    return path if (path := _mask(photo)).is_file() else None


def read_subject_file(folder: Path) -> dict[str, Any]:
    """The settings in subject.yaml of a folder; {} if there is none.

    ValueError if it is no YAML, or has other keys than `SUBJECT_KEYS`.
    """
    path = folder / SUBJECT_FILE
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read {path} ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} has no settings: write lines such as class_noun: dog")
    for key in content:
        if key not in SUBJECT_KEYS:
            near = difflib.get_close_matches(str(key), SUBJECT_KEYS, 1)
            remedy = f"did you mean {near[0]}?" if near else f"give {', '.join(SUBJECT_KEYS)}"
            raise ValueError(f"{path} has no setting {key}: {remedy}")
    return content


def no_such_folder(folder: Path) -> str:
    """ "there is no folder my_dgo, did you mean my_dog?", where there is one of a similar name."""
    siblings = visible(folder.parent) if folder.parent.is_dir() else []
    names = [p.name for p in siblings if p.is_dir()]
    near = difflib.get_close_matches(folder.name, names, 1, 0.75)
    there_is_none = f"there is no folder {folder}"
    return f"{there_is_none}, did you mean {folder.parent / near[0]}?" if near else there_is_none


def visible(folder: Path) -> list[Path]:
    """What a folder holds, sorted by name, without hidden files."""
    return sorted((p for p in folder.iterdir() if p.name[0] != "."), key=lambda p: p.name)


def _is_mask(path: Path) -> bool:
    return path.stem.lower().endswith(".mask")


def _mask(photo: Path) -> Path:
    return photo.with_name(photo.stem + MASK)


def _caption(photo: Path) -> Path:
    return photo.with_suffix(".txt")


def _read_caption(path: Path) -> str:
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the caption {path} ({error})") from error
    if len(lines) != 1:
        raise ValueError(
            f"the caption {path} has {len(lines)} lines of text: write one, as 'a {{}} on a sofa'"
        )
    if re.search("[{}]", lines[0].replace("{}", "")):
        raise ValueError(f"the caption {path} has other braces than {{}}, the subject: {lines[0]}")
    return lines[0]
