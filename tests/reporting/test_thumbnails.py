import base64
import io
import os

import pytest
from PIL import Image

from dreambooth.reporting import thumbnails as module
from dreambooth.reporting.thumbnails import thumbnails


@pytest.fixture
def pictures(tmp_path):
    paths = [tmp_path / "run" / f"{i}.png" for i in range(3)]
    paths[0].parent.mkdir()
    for i, path in enumerate(paths):
        Image.new("RGB", (300, 200), (80 * i, 0, 0)).save(path)
    return paths


@pytest.fixture
def store(tmp_path):
    return tmp_path / "report" / "thumbnails.json"


def opened(data):
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def test_a_thumbnail_is_the_picture_small(pictures, store):
    found = thumbnails(pictures, 96, store)
    assert list(found) == pictures
    assert [opened(data).size for data in found.values()] == [(96, 64)] * 3
    for i, data in enumerate(found.values()):
        red, green, blue = opened(data).getpixel((40, 30))
        assert abs(red - 80 * i) < 6
        assert max(green, blue) < 6


def test_a_small_picture_keeps_its_size(tmp_path, store):
    Image.new("L", (64, 48), 9).save(tmp_path / "a.png")
    (data,) = thumbnails([tmp_path / "a.png"], 96, store).values()
    assert opened(data).size == (64, 48)


def test_only_a_picture_that_changed_is_made_small_again(pictures, store, monkeypatch):
    first = thumbnails(pictures, 96, store)
    made = []
    small = module.small
    monkeypatch.setattr(module, "small", lambda path, size: made.append(path) or small(path, size))
    written = store.stat().st_mtime_ns
    assert thumbnails(pictures, 96, store) == first
    assert made == []
    assert store.stat().st_mtime_ns == written
    Image.new("RGB", (300, 200), (0, 255, 0)).save(pictures[1])
    os.utime(pictures[1], ns=(1, 1))
    again = thumbnails(pictures, 96, store)
    assert made == [pictures[1]]
    assert opened(again[pictures[1]]).getpixel((9, 9))[1] > 240
    assert thumbnails(pictures, 48, store).keys() == first.keys()
    assert len(made) == 1 + 3  # another size


def test_the_store_forgets_pictures_that_are_gone(pictures, store):
    thumbnails(pictures, 96, store)
    size = store.stat().st_size
    pictures[0].unlink()
    assert list(thumbnails(pictures, 96, store)) == pictures[1:]
    assert store.stat().st_size < size


def test_what_cannot_be_read_is_left_out_and_a_damaged_store_made_again(pictures, store):
    pictures[0].write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    assert list(thumbnails(pictures, 96, store)) == pictures[1:]
    store.write_text('{"cut o')
    assert list(thumbnails(pictures, 96, store)) == pictures[1:]
