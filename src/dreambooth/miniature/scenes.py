"""Scenes as training data: they are drawn once, kept on disk, and captioned anew each time."""

import itertools
import multiprocessing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dreambooth.miniature.drawing import SIZE_PX, draw
from dreambooth.miniature.world import CLASSES, Scene, individual, random_scene

if TYPE_CHECKING:  # the processes that draw do not need torch
    from torch import Tensor


def nth_scene(i: int, seed: int) -> Scene:
    """Return scene i (0 and up) of the endless list of scenes that belongs to a seed (0 and up)."""
    return random_scene(np.random.default_rng([seed, i]))


def drawn_scenes(folder: Path, count: int, seed: int) -> tuple[list[Scene], np.ndarray]:
    """Return scenes 0..count-1 of a seed, and their pixels as a memory map, uint8
    (count, 64, 64, 3).

    The scenes are drawn into `folder` on all cores, unless it already has them. 120,000 scenes take
    1.5 GB; docs/speed.md has the time. Several processes may call this at once: one draws,
    the others wait.
    """
    from filelock import FileLock

    path = folder / f"scenes-{seed}-{count}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():
            partial = path.with_suffix(".partial")
            np.lib.format.open_memmap(partial, "w+", np.uint8, (count, SIZE_PX, SIZE_PX, 3)).flush()
            bounds = np.linspace(0, count, 65).astype(int).tolist()
            jobs = [(partial, seed, first, end) for first, end in itertools.pairwise(bounds)]
            with multiprocessing.get_context("spawn").Pool() as pool:
                pool.map(_draw_range, jobs)
            partial.rename(path)
    scenes = [nth_scene(i, seed) for i in range(count)]
    return scenes, np.load(path, mmap_mode="r")


def _draw_range(job: tuple[Path, int, int, int]) -> None:
    path, seed, first, end = job
    pixels = np.load(path, mmap_mode="r+")
    for i in range(first, end):
        pixels[i] = draw(nth_scene(i, seed))
    pixels.flush()


def to_tensor(pixels: np.ndarray) -> "Tensor":
    """Convert uint8 (..., H, W, 3) to float32 [-1, 1] (..., 3, H, W)."""
    import torch

    from dreambooth.subjects.photos import from_uint8

    return from_uint8(torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, -3))))


def casual_photos(class_noun: str, seed: int, count: int) -> list[Scene]:
    """Return the input photos of a subject: `count` plain scenes of individual `seed` of a class.

    A larger count begins with the same photos. Raises ValueError as `world.individual` does.
    """
    subject = individual(class_noun, seed)
    rng = np.random.default_rng([13, CLASSES.index(class_noun), seed])
    return [random_scene(rng, subject, casual=True) for _ in range(count)]
