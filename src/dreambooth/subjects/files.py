"""The image files of a folder, without importing torch."""

from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def image_files(folder: Path) -> tuple[Path, ...]:
    """The image files of a folder, sorted by name, without hidden files."""
    return tuple(p for p in visible(folder) if p.suffix.lower() in SUFFIXES and p.is_file())


def photo_files(folder: Path) -> tuple[Path, ...]:
    """The image files of a folder, sorted by name. ValueError if it is none or holds no photo."""
    if not folder.exists():
        raise ValueError(
            f"there is no folder {folder}: give one that holds 3-5 photos of the subject"
        )
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
    return paths


def visible(folder: Path) -> list[Path]:
    """What a folder holds, sorted by name, without hidden files."""
    return sorted((p for p in folder.iterdir() if p.name[0] != "."), key=lambda p: p.name)
