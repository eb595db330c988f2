import logging
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dreambooth.subjects.photos import from_uint8, load_photos, to_uint8

RNG = np.random.default_rng(5)


def noise(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def levels(images: torch.Tensor) -> np.ndarray:
    """[-1, 1] (N, 3, H, W) to 0..255 (N, H, W, 3)."""
    return ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def load_one(folder: Path, size_px: int = 8) -> np.ndarray:
    return levels(load_photos(folder, size_px).images)[0]


# Each orientation's rule of the EXIF standard, turned around: how a camera stores an upright scene.
STORED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_a_photo_is_turned_upright_by_its_exif_orientation(tmp_path, orientation):
    upright = noise(8, 8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(STORED[orientation](upright)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load_one(tmp_path), upright)


def test_a_photo_already_square_and_of_the_resolution_is_not_resampled(tmp_path):
    pixels = noise(16, 16)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    photos = load_photos(tmp_path, 16)
    assert photos.images.shape == (1, 3, 16, 16)
    assert photos.images.dtype == torch.float32
    expected = torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1
    torch.testing.assert_close(photos.images[0], expected)


def test_every_byte_comes_back_and_what_is_between_goes_to_the_nearest():
    pixels = torch.arange(256, dtype=torch.uint8)
    images = from_uint8(pixels)
    assert (images.dtype, images[0], images[-1]) == (torch.float32, -1, 1)
    assert torch.equal(to_uint8(images), pixels)
    between = torch.tensor([-1.1, -0.998, -0.994, 0.998, 1.1])
    assert to_uint8(between).tolist() == [0, 0, 1, 255, 255]


@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (48, 48), (12, 10), (45, 64)])
def test_the_centre_square_is_resized_as_torch_does_with_antialiasing(tmp_path, shape):
    pixels = noise(*shape) // 2 + 64  # no overshoot, which Pillow cuts off between its two passes
    Image.fromarray(pixels).save(tmp_path / "a.png")
    side, top, left = min(shape), (shape[0] - min(shape)) // 2, (shape[1] - min(shape)) // 2
    square = torch.from_numpy(pixels[top : top + side, left : left + side]).permute(2, 0, 1)
    expected = torch.nn.functional.interpolate(
        square[None].float(), (16, 16), mode="bicubic", antialias=True
    )
    ours = (load_photos(tmp_path, 16).images + 1) * 127.5
    torch.testing.assert_close(ours, expected, atol=1.5, rtol=0)  # Pillow rounds twice


@pytest.mark.parametrize("size", [(64, 32), (32, 64)])
def test_padding_keeps_the_whole_photo_on_the_colour_of_its_border(tmp_path, size):
    image = Image.new("RGB", size, (200, 100, 50))
    image.paste((0, 0, 255), (8, 8, size[0] - 8, size[1] - 8))
    image.save(tmp_path / "a.png")
    padded = levels(load_photos(tmp_path, 64, "pad").images)[0]
    left, top = (64 - size[0]) // 2, (64 - size[1]) // 2
    np.testing.assert_array_equal(padded[top : 64 - top, left : 64 - left], np.array(image))
    np.testing.assert_array_equal(padded[0, 0], (200, 100, 50))
    np.testing.assert_array_equal(padded[-1, -1], (200, 100, 50))


def test_without_a_crop_photos_must_be_square(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    assert load_photos(tmp_path, 8, "none").images.shape == (1, 3, 8, 8)
    Image.new("RGB", (16, 12)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png has 16x12 px: make it square"):
        load_photos(tmp_path, 8, "none")


def bilevel() -> Image.Image:
    return Image.fromarray(np.tile(np.array([0, 255], dtype=np.uint8), (8, 4))).convert("1")


def palette(alpha: bool) -> Image.Image:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    if alpha:
        image.info["transparency"] = bytes([255, 0])
    return image


def keyed_rgb() -> Image.Image:
    image = Image.new("RGB", (8, 8), (9, 8, 7))
    image.info["transparency"] = (9, 8, 7)
    return image


WHITE, GREY = (255, 255, 255), (128, 128, 128)


@pytest.mark.parametrize(
    ("image", "name", "expected"),
    [
        (Image.new("L", (8, 8), 128), "grey.png", GREY),
        (Image.new("LA", (8, 8), (0, 0)), "grey-alpha.png", WHITE),
        (Image.new("I;16", (8, 8), 128 * 257), "grey-16.png", GREY),
        (Image.new("I;16", (8, 8), 65535), "white-16.png", WHITE),
        (Image.new("I;16B", (8, 8), 128 * 257), "grey-16-big-endian.tif", GREY),
        (Image.new("I", (8, 8), 128 * 257), "grey-32.tif", GREY),
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "cmyk.tif", (255, 0, 0)),
        (Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "cmyk.jpg", (0, 0, 0)),
        (palette(alpha=False), "palette.png", (200, 100, 50)),
        (palette(alpha=True), "palette-alpha.png", WHITE),
        (keyed_rgb(), "colour-key.png", WHITE),
        (Image.new("RGBA", (8, 8), (200, 100, 50, 255)), "opaque.png", (200, 100, 50)),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 51)), "a-fifth-black.png", (204, 204, 204)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_any_mode_becomes_rgb_on_white(tmp_path, image, name, expected):
    image.save(tmp_path / name)
    assert Image.open(tmp_path / name).mode == image.mode
    np.testing.assert_array_equal(load_one(tmp_path), np.full((8, 8, 3), expected))


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bits_of_colour_are_scaled_to_8(tmp_path, channels):
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64, 1).astype(np.uint16)
    pixels = np.concatenate([np.roll(ramp, i, axis=0) for i in range(channels)], axis=2)
    if channels != 3:
        pixels[..., -1] = 65535  # opaque
    png_of_16_bits(tmp_path / "a.png", pixels)
    colours = pixels[..., : 3 if channels > 2 else 1] / 257
    np.testing.assert_allclose(load_one(tmp_path, 64) + 0 * colours, colours + np.zeros(3), atol=1)


def png_of_16_bits(path: Path, pixels: np.ndarray) -> None:
    """Pillow writes 16 bits of grey only."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks))


def test_a_one_bit_photo_keeps_its_black_and_white(tmp_path):
    bilevel().save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "1"
    np.testing.assert_array_equal(load_one(tmp_path)[0, :, 0], [0, 255] * 4)


def test_colours_hidden_under_transparency_do_not_bleed_into_the_resized_photo(tmp_path):
    pixels = np.full((32, 32, 4), 255, dtype=np.uint8)
    pixels[:, 16:] = (255, 0, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (load_one(tmp_path) == 255).all()


def test_photos_are_sorted_by_name_and_only_images_count(tmp_path, caplog):
    for value, name in [(30, "b.png"), (20, "a10.JPG"), (10, "C.jpeg"), (40, "c.webp")]:
        Image.new("L", (8, 8), value).convert("RGB").save(tmp_path / name)
    for name in [".DS_Store", "._b.png", "Thumbs.db", "notes.md"]:
        (tmp_path / name).write_text("no image")
    (tmp_path / "nested").mkdir()
    (tmp_path / "folder.jpg").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "nested" / "z.png")
    photos = load_photos(tmp_path, 8)
    assert [p.name for p in photos.paths] == ["C.jpeg", "a10.JPG", "b.png", "c.webp"]
    np.testing.assert_allclose(levels(photos.images)[:, 0, 0, 0], [10, 20, 30, 40], atol=2)
    assert "Thumbs.db, folder.jpg, nested, notes.md" in caplog.text
    assert "DS_Store" not in caplog.text


def test_one_photo_is_taken_with_a_warning_and_two_without(tmp_path, caplog):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with caplog.at_level(logging.WARNING):
        assert len(load_photos(tmp_path, 8).images) == 1
    assert "only one photo" in caplog.text
    caplog.clear()
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    assert len(load_photos(tmp_path, 8).images) == 2
    assert not caplog.records


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*nowhere: give one that holds 3-5 photos"):
        load_photos(tmp_path / "nowhere", 8)


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is a file: give the folder"):
        load_photos(tmp_path / "a.png", 8)


@pytest.mark.parametrize(("names", "said"), [([], "nothing"), (["a.heic", ".b.png"], "a.heic")])
def test_a_folder_without_photos_says_what_it_holds_and_what_is_read(tmp_path, names, said):
    for name in names:
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=rf"no photos in .* \(it holds {said}\).*\.jpg"):
        load_photos(tmp_path, 8)


def broken(folder: Path, kind: str) -> None:
    path = folder / "broken.jpg"
    if kind == "text":
        path.write_text("not a photo")
    elif kind == "empty":
        path.touch()
    elif kind == "floating point":
        Image.fromarray(np.zeros((8, 8), np.float32)).save(path, "TIFF")
    else:
        suffix = "PNG" if kind == "truncated png" else "JPEG"
        Image.fromarray(noise(64, 64)).save(path, suffix)
        path.write_bytes(path.read_bytes()[:1500])


@pytest.mark.parametrize(
    "kind", ["text", "empty", "truncated jpeg", "truncated png", "floating point"]
)
def test_a_broken_photo_among_good_ones_names_itself(tmp_path, kind):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    broken(tmp_path, kind)
    with pytest.raises(ValueError, match=r"cannot read the photo .*broken\.jpg"):
        load_photos(tmp_path, 8)


@pytest.mark.skipif("DREAMBENCH_DIR" not in os.environ, reason="DREAMBENCH_DIR is not set")
def test_the_photos_of_dreambench_load():
    folders = [p for p in Path(os.environ["DREAMBENCH_DIR"]).iterdir() if p.is_dir()]
    assert folders
    for folder in folders[:3]:
        photos = load_photos(folder, 64)
        assert 4 <= len(photos.paths) == len(photos.images) <= 6
        assert photos.images.abs().max() <= 1
        assert photos.images.std() > 0.1
