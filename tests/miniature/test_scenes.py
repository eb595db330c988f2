"""Scenes as training data."""

import numpy as np
import pytest
import torch

from dreambooth.miniature import scenes
from dreambooth.miniature.drawing import draw
from dreambooth.miniature.scenes import casual_photos, drawn_scenes, nth_scene, to_tensor
from dreambooth.miniature.world import CLASSES, individual

COUNT = 20


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    # A killed process can leave such a file.
    (folder / f"scenes-3-{COUNT}.partial").write_bytes(b"half a file")
    return folder, *drawn_scenes(folder, COUNT, seed=3)


def test_drawn_scenes_equal_scenes_drawn_one_by_one(drawn):
    _, scenes_drawn, pixels = drawn
    assert scenes_drawn == [nth_scene(i, 3) for i in range(COUNT)]
    assert (pixels.shape, pixels.dtype) == ((COUNT, 64, 64, 3), np.uint8)
    np.testing.assert_array_equal(pixels, np.stack([draw(s) for s in scenes_drawn]))


def test_the_pixels_are_a_read_only_memory_map(drawn):
    assert isinstance(drawn[2], np.memmap)
    assert not drawn[2].flags.writeable


def test_scenes_are_drawn_once_and_then_read(drawn, monkeypatch):
    folder, first, pixels = drawn

    def forbidden(*_):
        raise AssertionError("drawn again")

    monkeypatch.setattr(scenes.multiprocessing, "get_context", forbidden)
    path = folder / f"scenes-3-{COUNT}.npy"
    before = path.stat().st_mtime_ns
    again, same = drawn_scenes(folder, COUNT, seed=3)
    assert again == first
    assert path.stat().st_mtime_ns == before
    np.testing.assert_array_equal(same, pixels)
    with pytest.raises(AssertionError, match="drawn again"):  # another seed needs new drawings
        drawn_scenes(folder, COUNT, seed=4)


def test_scene_i_does_not_depend_on_earlier_calls():
    backwards = [nth_scene(i, 3) for i in reversed(range(30))][::-1]
    assert backwards == [nth_scene(i, 3) for i in range(30)]
    assert nth_scene(0, 3) != nth_scene(0, 4)


def test_tensors_are_channels_first_from_minus_one_to_one():
    pixels = np.zeros((2, 4, 5, 3), np.uint8)
    pixels[1, 2, 3] = (0, 51, 255)
    images = to_tensor(pixels)
    assert (images.shape, images.dtype) == ((2, 3, 4, 5), torch.float32)
    torch.testing.assert_close(images[1, :, 2, 3], torch.tensor([-1.0, -0.6, 1.0]))
    assert images.is_contiguous()
    assert to_tensor(pixels[0]).shape == (3, 4, 5)


@pytest.mark.parametrize("class_noun", CLASSES)
def test_casual_photos_are_plain_photos_of_one_individual(class_noun):
    photos = casual_photos(class_noun, 5, 5)
    assert {p.individual for p in photos} == {individual(class_noun, 5)}
    assert {(p.accessory, p.expression, p.style) for p in photos} == {(None, None, None)}
    assert "behind" not in {p.view for p in photos}
    assert len(set(photos)) == 5


def test_more_casual_photos_begin_with_the_same_ones():
    assert casual_photos("cat", 9, 6)[:3] == casual_photos("cat", 9, 3)
