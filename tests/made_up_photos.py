"""Folders of photos as users have them, and DreamBench's layout with photos of noise."""

from pathlib import Path

import numpy as np
from PIL import Image

from dreambooth.subjects.prompt_sets import DREAMBENCH

CLASSES = {"backpack": "backpack", "bear_plushie": "stuffed animal", "cat2": "cat", "dog6": "dog"}


def photos_folder(folder: Path, count: int = 3, size: tuple[int, int] = (40, 40)) -> Path:
    """`count` photos of noise, 0.jpg and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(count)
    for i in range(count):
        pixels = noise.integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return folder


def mask_file(photo: Path, box: tuple[int, int, int, int], value: int = 255) -> Path:
    """A mask of a photo that is white within `box` (left, top, right, bottom)."""
    mask = Image.new("L", Image.open(photo).size, 0)
    mask.paste(value, box)
    path = photo.with_name(f"{photo.stem}.mask.png")
    mask.save(path)
    return path


def dreambench_folder(folder: Path, subjects: tuple[str, ...] = ("cat2", "dog6")) -> Path:
    """A folder in DreamBench's layout, whose file lists `CLASSES`, with photos of `subjects`."""
    for name in subjects:
        photos_folder(folder / name)
    blocks = {
        "Object": DREAMBENCH["object"],
        "Live Subject": DREAMBENCH["live"],
    }
    lines = ["Classes", "", "subject_name,class", *(f"{n},{c}" for n, c in CLASSES.items())]
    lines += ["", "Prompts"]
    for heading, templates in blocks.items():
        rows = [f"'{t.format('{0} {1}')}'.format(unique_token, class_token)" for t in templates]
        lines += ["", f"{heading} Prompts", "", "prompt_list = [", ",\n".join(rows), "]"]
    (folder / "prompts_and_classes.txt").write_text("\n".join(lines) + "\n")
    return folder
