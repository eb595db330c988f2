import json
import logging
import os
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from dreambooth.distributed import preemption
from dreambooth.runs.prior_cache import key_digest, prior_images

KEY = {"model": "abc", "prompt": "a dog", "steps": 50, "guidance_scale": 3.0}


def drawn(index: int) -> np.ndarray:
    return np.random.default_rng([7, index]).integers(0, 256, (6, 5, 3), dtype=np.uint8)


class Maker:
    """Draws image i from seed i, and remembers which batches were asked for."""

    def __init__(self, fails_at: int | None = None):
        self.batches: list[list[int]] = []
        self.fails_at = fails_at

    def __call__(self, indices: list[int]) -> np.ndarray:
        if self.fails_at in indices:
            raise RuntimeError("out of memory")
        self.batches.append(indices)
        return np.stack([drawn(i) for i in indices])


def expected(count: int) -> np.ndarray:
    return np.stack([drawn(i) for i in range(count)])


def test_made_images_come_back_and_lie_as_png_beside_a_manifest(tmp_path):
    prior = prior_images(tmp_path, KEY, 3, Maker(), batch_size=2)
    assert prior.made == 3
    np.testing.assert_array_equal(prior.images, expected(3))
    entry = tmp_path / key_digest(KEY)
    assert prior.paths == tuple(entry / f"{i:06d}.png" for i in range(3))
    for path, image in zip(prior.paths, prior.images, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
    manifest = json.loads((entry / "manifest.json").read_text())
    assert manifest["key"] == KEY
    assert manifest["sha256"] == {p.name: sha256(p.read_bytes()).hexdigest() for p in prior.paths}
    assert {p.name for p in entry.iterdir()} - {".lock"} == {*manifest["sha256"], "manifest.json"}


def test_fewer_images_are_a_prefix_and_more_make_only_what_is_missing(tmp_path):
    maker = Maker()
    prior_images(tmp_path, KEY, 4, maker, batch_size=4)
    fewer = prior_images(tmp_path, KEY, 2, maker, batch_size=4)
    more = prior_images(tmp_path, KEY, 7, maker, batch_size=4)
    again = prior_images(tmp_path, KEY, 7, maker, batch_size=4)
    assert maker.batches == [[0, 1, 2, 3], [4, 5, 6]]
    assert [fewer.made, more.made, again.made] == [0, 3, 0]
    np.testing.assert_array_equal(fewer.images, expected(2))
    np.testing.assert_array_equal(more.images, expected(7))
    np.testing.assert_array_equal(again.images, expected(7))


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_every_image_is_made_once_whatever_the_batch_size(tmp_path, batch_size):
    maker = Maker()
    prior = prior_images(tmp_path, KEY, 7, maker, batch_size)
    np.testing.assert_array_equal(prior.images, expected(7))
    assert [i for batch in maker.batches for i in batch] == list(range(7))
    assert max(map(len, maker.batches)) == min(batch_size, 7)


@pytest.mark.parametrize(
    "other", [{"prompt": "a cat"}, {"steps": 51}, {"steps": "50"}, {"sampler": "ddim"}]
)
def test_another_key_has_another_folder(tmp_path, other):
    first = prior_images(tmp_path, KEY, 1, Maker(), 1)
    second = prior_images(tmp_path, {**KEY, **other}, 1, Maker(), 1)
    assert second.made == 1
    assert first.paths[0].parent != second.paths[0].parent


def test_equal_keys_have_the_same_digest_in_every_python():
    assert key_digest({**dict(reversed(KEY.items())), "guidance_scale": 3}) == key_digest(KEY)
    assert key_digest(KEY) == "69479b2863c4bba0222d"  # else old caches would be lost


def test_a_key_of_no_number_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        key_digest({"guidance_scale": float("nan")})


@pytest.mark.parametrize("position", [0, 20, -1])
def test_a_flipped_byte_is_found_and_that_image_alone_is_made_again(tmp_path, caplog, position):
    path = prior_images(tmp_path, KEY, 4, Maker(), 2).paths[2]
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    maker = Maker()
    prior = prior_images(tmp_path, KEY, 4, maker, 2)
    assert maker.batches == [[2]]
    assert "1 prior images" in caplog.text
    assert "000002.png" in caplog.text
    np.testing.assert_array_equal(prior.images, expected(4))
    caplog.clear()
    assert prior_images(tmp_path, KEY, 4, maker, 2).made == 0
    assert not caplog.records


def test_a_missing_image_is_made_again_and_said(tmp_path, caplog):
    prior_images(tmp_path, KEY, 3, Maker(), 3).paths[1].unlink()
    maker = Maker()
    prior = prior_images(tmp_path, KEY, 3, maker, 3)
    assert maker.batches == [[1]]
    assert "000001.png" in caplog.text
    np.testing.assert_array_equal(prior.images, expected(3))


def test_new_images_are_made_without_a_warning(tmp_path, caplog):
    prior_images(tmp_path, KEY, 2, Maker(), 2)
    prior_images(tmp_path, KEY, 3, Maker(), 2)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"key": {"mod',
        b"\xff\xfe",
        b"[]",
        b'{"sha256": {}}',
        json.dumps({"key": KEY, "sha256": 3}).encode(),
        json.dumps({"key": {"prompt": "a cat"}, "sha256": {}}).encode(),
    ],
)
def test_a_manifest_that_is_not_whole_or_of_another_key_is_not_believed(tmp_path, caplog, content):
    manifest = prior_images(tmp_path, KEY, 3, Maker(), 3).paths[0].parent / "manifest.json"
    manifest.write_bytes(content)
    prior = prior_images(tmp_path, KEY, 3, Maker(), 3)
    assert prior.made == 3
    assert "manifest.json is damaged" in caplog.text
    np.testing.assert_array_equal(prior.images, expected(3))
    assert prior_images(tmp_path, KEY, 3, Maker(), 3).made == 0


def test_an_image_that_no_manifest_lists_is_not_believed(tmp_path):
    entry = prior_images(tmp_path, KEY, 2, Maker(), 2).paths[0].parent
    Image.new("RGB", (5, 6)).save(entry / "000002.png")  # killed before the manifest was written
    (entry / ".000003.png.7.partial").write_bytes(b"half")  # killed while writing
    prior = prior_images(tmp_path, KEY, 4, Maker(), 2)
    assert prior.made == 2
    np.testing.assert_array_equal(prior.images, expected(4))
    assert not list(entry.glob("*.partial"))


def test_what_was_finished_before_an_error_is_kept_and_the_lock_is_free(tmp_path):
    with pytest.raises(RuntimeError, match="out of memory"):
        prior_images(tmp_path, KEY, 6, Maker(fails_at=4), batch_size=2)
    maker = Maker()
    assert prior_images(tmp_path, KEY, 6, maker, batch_size=2).made == 2
    assert maker.batches == [[4, 5]]


@pytest.mark.parametrize("failing_write", [1, 2, 3])  # two images and their manifest
def test_a_full_disk_leaves_every_file_whole(tmp_path, monkeypatch, failing_write):
    entry = prior_images(tmp_path, KEY, 2, Maker(), 2).paths[0].parent
    before = (entry / "manifest.json").read_bytes()
    writes = []

    def filling_disk(file: int) -> None:
        writes.append(file)
        if len(writes) >= failing_write:
            os.truncate(file, os.fstat(file).st_size // 2)
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("dreambooth.runs.files.os.fsync", filling_disk)
    with pytest.raises(OSError, match="No space left"):
        prior_images(tmp_path, KEY, 4, Maker(), 2)
    monkeypatch.undo()
    assert (entry / "manifest.json").read_bytes() == before
    for path in entry.glob("*.png"):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), drawn(int(path.stem)))
    assert not list(entry.glob("*.partial"))
    np.testing.assert_array_equal(prior_images(tmp_path, KEY, 4, Maker(), 2).images, expected(4))


@pytest.mark.parametrize(
    ("count", "batch_size", "said"), [(0, 1, "images is 0"), (-3, 1, "-3"), (1, 0, "size is 0")]
)
def test_counts_below_one_are_refused_before_anything_is_made(tmp_path, count, batch_size, said):
    with pytest.raises(ValueError, match=f"{said}: it must be at least 1"):
        prior_images(tmp_path / "cache", KEY, count, Maker(), batch_size)
    assert not (tmp_path / "cache").exists()


# A process of its own that asks for 6 images in batches of 2, and logs each image as it makes it.
# At index `stop` it dies as by `kill -9`, or waits for ever.
PROCESS = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from dreambooth.runs.prior_cache import prior_images

folder, log, stop, how = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
key = {"model": "abc", "prompt": "a dog", "steps": 50, "guidance_scale": 3.0}

def make(indices):
    time.sleep(0.1)
    begun = Path(log).read_text().split() if Path(log).exists() else []
    with open(log, "a") as file:
        file.write("".join(f"{os.getpid()} {i}\\n" for i in indices))
    if stop in indices and str(stop) not in begun[1::2]:  # once, whoever comes to it
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "exit":
            os._exit(1)
        time.sleep(1000)
    rngs = [np.random.default_rng([7, i]) for i in indices]
    return np.stack([rng.integers(0, 256, (6, 5, 3), dtype=np.uint8) for rng in rngs])

print("ready", flush=True)
sys.stdin.readline()
prior = prior_images(folder, key, 6, make, 2)
print(prior.made, prior.images.tobytes().hex(), flush=True)
"""


def start(folder: Path, log: Path, stop: int = -1, how: str = "-") -> subprocess.Popen[str]:
    """A process that has imported everything and waits for a line to begin."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(folder), str(log), str(stop), how],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def begin(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def result(process: subprocess.Popen[str]) -> int:
    """How many images it made; what it got are the right ones."""
    output, _ = process.communicate(timeout=30)
    made, pixels = output.split()
    assert bytes.fromhex(pixels) == expected(6).tobytes()
    return int(made)


def logged(log: Path) -> list[tuple[int, int]]:
    """(process, image) in the order of making."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(line.split()[0]), int(line.split()[1])) for line in lines]


@pytest.mark.slow
def test_of_several_processes_at_once_one_makes_and_the_others_wait(tmp_path):
    log = tmp_path / "log"
    processes = [start(tmp_path / "cache", log) for _ in range(3)]
    for process in processes:
        begin(process)
    assert sorted(result(process) for process in processes) == [0, 0, 6]
    assert sorted(index for _, index in logged(log)) == [0, 1, 2, 3, 4, 5]


@pytest.mark.slow
def test_of_eight_processes_whose_maker_is_killed_another_makes_the_rest(tmp_path):
    log = tmp_path / "log"
    processes = [start(tmp_path / "cache", log, stop=2, how="kill") for _ in range(8)]
    for process in processes:
        begin(process)
    codes = [process.wait(timeout=180) for process in processes]
    assert sorted(codes) == [-signal.SIGKILL] + [0] * 7
    made = sorted(result(p) for p, code in zip(processes, codes, strict=True) if code == 0)
    assert made == [0] * 6 + [4]
    assert sorted(index for _, index in logged(log)) == [0, 1, 2, 2, 3, 3, 4, 5]


@pytest.mark.parametrize("how", ["kill", "exit"])
def test_a_dead_maker_leaves_its_finished_images_and_no_lock(tmp_path, how):
    log = tmp_path / "log"
    dead = start(tmp_path / "cache", log, stop=4, how=how)
    begin(dead)
    assert dead.wait(timeout=30) != 0
    dead.communicate()
    after = start(tmp_path / "cache", log)
    begin(after)
    assert result(after) == 2
    assert [index for process, index in logged(log) if process == after.pid] == [4, 5]


@pytest.mark.slow
def test_a_process_that_waits_goes_on_when_the_maker_is_killed(tmp_path):
    log = tmp_path / "log"
    maker = start(tmp_path / "cache", log, stop=2, how="wait")
    waiting = start(tmp_path / "cache", log)
    try:
        begin(maker)
        while (maker.pid, 2) not in logged(log):
            assert maker.poll() is None
            time.sleep(0.02)
        begin(waiting)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=0.5)
    finally:
        maker.kill()
        maker.communicate()
    assert result(waiting) == 4


def test_a_process_that_waits_hears_that_it_is_to_stop(tmp_path, monkeypatch):
    entry = tmp_path / key_digest(KEY)
    entry.mkdir()
    monkeypatch.setattr(preemption.stop_requested, "is_set", lambda: True)
    with FileLock(entry / ".lock"), pytest.raises(preemption.StoppedError):
        prior_images(tmp_path, KEY, 2, Maker(), 2)
