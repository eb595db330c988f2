"""The image files of a folder, without importing torch."""

from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def image_files(folder: Path) -> tuple[Path, ...]:
    """The image files of a folder, sorted by name, without hidden files."""
    return tuple(p for p in visible(folder) if p.suffix.lower() in SUFFIXES and p.is_file())


def visible(folder: Path) -> list[Path]:
    """What a folder holds, sorted by name, without hidden files."""
    return sorted((p for p in folder.iterdir() if p.name[0] != "."), key=lambda p: p.name)
