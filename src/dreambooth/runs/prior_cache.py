"""The prior cache: images that the frozen model draws for the class prompt, once for each key.

FOLDER/<digest of the key>/manifest.json      the full key, and the sha256 of each image
                           000000.png ...     image i, drawn with a seed from (key, i) only
                           .lock              held while images are checked and drawn
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from itertools import chain
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from dreambooth.distributed.preemption import StoppedError, stop_if_requested, stop_requested
from dreambooth.distributed.ranks import batches, map_over_ranks, num_ranks, on_rank_zero, rank
from dreambooth.runs.files import remove_partial, write_atomically

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class PriorImages:
    """The prior images of a key, and their files."""

    paths: tuple[Path, ...]
    images: Pixels  # (count, H, W, 3)
    made: int  # the number drawn by this call; the others were cached


def key_digest(key: Mapping[str, str | int | float]) -> str:
    """A name for a key: 20 hex digits, the same for equal keys (3 == 3.0, entries in any order).

    The key holds everything that determines the pixels: weights, stage, class prompt, sampler ...
    """
    plain = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in key.items()
    }
    return sha256(json.dumps(plain, sort_keys=True, allow_nan=False).encode()).hexdigest()[:20]


def prior_images(
    folder: Path,
    key: Mapping[str, str | int | float],
    count: int,
    make: Callable[[list[int]], Pixels],
    batch_size: int,
) -> PriorImages:
    """Return images 0..count-1 of a key. Cached images are reused; missing ones are drawn.

    `make(indices)` returns uint8 (n, H, W, 3). It draws image i with a seed from (key, i) only, so
    the result depends neither on `count` nor on the batches. It is called with at most `batch_size`
    indices, and each batch is saved at once. A damaged or lost image is drawn again, with a
    warning.

    Several runs may call this at once: one draws, the others wait. The operating system releases
    the lock of a killed process. All ranks of a run call this together: rank 0 locks, reads and
    writes, and all ranks draw.

    ValueError for a count or batch size below 1.
    """
    for name, value in {"number of prior images": count, "prior batch size": batch_size}.items():
        if value < 1:
            raise ValueError(f"the {name} is {value}: it must be at least 1")
    entry = Path(folder) / key_digest(key)
    entry.mkdir(parents=True, exist_ok=True)
    paths = tuple(entry / f"{i:06d}.png" for i in range(count))
    with _locked(entry / ".lock") if rank() == 0 else nullcontext():

        def read() -> tuple[dict[str, str], dict[int, Pixels]]:
            remove_partial(entry)
            hashes = _read_hashes(entry / "manifest.json", key)
            return hashes, _read_intact(paths, hashes)

        hashes, images = on_rank_zero(read)
        missing = [i for i in range(count) if i not in images]
        lost = [paths[i].name for i in missing if paths[i].name in hashes]
        if lost:
            names = ", ".join(lost[:5]) + (" ..." if len(lost) > 5 else "")
            log.warning(
                "%d prior images in %s are damaged or missing and are generated again (%s)",
                len(lost),
                entry,
                names,
            )
        rounds = batches(batches(missing, batch_size), num_ranks())
        hidden = None if missing and rank() == 0 else True
        for round_ in tqdm(rounds, "prior images", unit="batch", disable=hidden):
            stop_if_requested()
            pixels = np.concatenate(map_over_ranks(make, round_))
            assert pixels.dtype == np.uint8, pixels.dtype
            made = dict(zip(chain.from_iterable(round_), pixels, strict=True))
            images |= made
            if rank() == 0:
                for i, image in made.items():
                    png = BytesIO()
                    Image.fromarray(image).save(png, "PNG")
                    write_atomically(paths[i], png.getvalue())
                    hashes[paths[i].name] = sha256(png.getvalue()).hexdigest()
                manifest = {"key": dict(key), "sha256": dict(sorted(hashes.items()))}
                text = json.dumps(manifest, indent=1)
                write_atomically(entry / "manifest.json", text.encode())
    return PriorImages(paths, np.stack([images[i] for i in range(count)]), len(missing))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("waiting for the process that generates the prior images in %s", path.parent)
        while not lock.is_locked:
            if stop_requested.is_set():
                raise StoppedError("stopped as asked") from None
            with suppress(Timeout):
                lock.acquire(timeout=1)
    try:
        yield
    finally:
        lock.release()


def _read_hashes(manifest: Path, key: Mapping[str, str | int | float]) -> dict[str, str]:
    """File name -> sha256. Warns and returns {} if the manifest is damaged or has another key."""
    if not manifest.exists():
        return {}
    try:
        content = json.loads(manifest.read_bytes())
        if content["key"] == dict(key):
            return dict(content["sha256"])
    except (ValueError, KeyError, TypeError):
        pass
    log.warning("%s is damaged: all images in its folder are generated again", manifest)
    return {}


def _read_intact(paths: Sequence[Path], hashes: Mapping[str, str]) -> dict[int, Pixels]:
    """Index -> pixels (H, W, 3) of the images whose files match their hashes."""
    images = {}
    for i, path in enumerate(paths):
        if path.name in hashes and path.exists():
            png = path.read_bytes()
            if sha256(png).hexdigest() == hashes[path.name]:
                images[i] = np.asarray(Image.open(BytesIO(png)))
    return images
