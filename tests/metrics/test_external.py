"""Images of any system, as a user lays them out."""

import numpy as np
import pytest
import torch
from PIL import Image

from dreambooth.metrics.external import read_external
from dreambooth.miniature.subjects import drawn_subject

DOG = drawn_subject("dog", 7)


def save(path, value=100, size=(8, 6), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode in ("L", "P") else (value,) * len(mode)).save(path)
    return path


def named(pictures):
    return [(p.path.name, p.prompt, p.index) for p in pictures]


def test_a_subfolder_is_a_prompt_and_the_class_prompts_images_are_a_set_of_their_own(tmp_path):
    for name in ("b.png", "a.jpg", ".hidden.png", "notes.txt"):
        save(tmp_path / "a dog in the snow" / name) if name != "notes.txt" else (
            tmp_path / "a dog in the snow" / name
        ).write_text("text")
    save(tmp_path / "a_red_dog" / "x.png")
    save(tmp_path / "a dog" / "y.png")
    save(tmp_path / "a {} on the beach" / "z.webp")
    prompts, of_class = read_external(tmp_path, DOG)
    assert named(prompts) == [
        ("a.jpg", "a dog in the snow", 0),
        ("b.png", "a dog in the snow", 1),
        ("z.webp", "a dog on the beach", 0),
        ("x.png", "a red dog", 0),
    ]
    assert named(of_class) == [("y.png", "a dog", 0)]
    assert prompts[2].template == "a {} on the beach"


def test_a_table_names_files_from_its_own_folder(tmp_path):
    save(tmp_path / "images" / "0.png")
    save(tmp_path / "images" / "1.png")
    table = tmp_path / "list.csv"
    table.write_text(
        '\ufeffprompt,path,note\n"a {} in the snow",images/1.png,x\na dog,images/0.png,\n'
    )
    prompts, of_class = read_external(table, DOG, "kzn")
    assert named(prompts) == [("1.png", "a kzn dog in the snow", 0)]
    assert named(of_class) == [("0.png", "a dog", 0)]


def test_braces_are_the_subject_and_the_class_prompt_is_known_in_any_case(tmp_path):
    save(tmp_path / "0.png")
    table = tmp_path / "list.csv"
    table.write_text("path,prompt\n0.png,a {}\n0.png,a dog\n0.png,A Dog\n0.png,A {}\n")
    prompts, of_class = read_external(table, DOG)
    assert [(p.prompt, p.template) for p in prompts] == [("a dog", "a {}"), ("A dog", "A {}")]
    assert [p.prompt for p in of_class] == ["a dog", "A Dog"]


def test_pixels_are_read_when_asked_for_of_any_size_and_mode(tmp_path):
    sizes = {"RGB": (8, 6), "L": (6, 8), "RGBA": (4, 4), "P": (5, 5), "CMYK": (7, 3)}
    for mode, size in sizes.items():
        suffix = "tif" if mode == "CMYK" else "png"
        save(tmp_path / "a dog" / f"{mode}.{suffix}", 100, size, mode)
    _, pictures = read_external(tmp_path, DOG)
    shapes = {p.path.stem: tuple(p.pixels.shape) for p in pictures}
    assert shapes == {mode: (3, height, width) for mode, (width, height) in sizes.items()}
    assert all(p.pixels.dtype == torch.uint8 for p in pictures)
    (grey,) = [p for p in pictures if p.path.stem == "L"]
    assert (grey.pixels == 100).all()
    save(grey.path, 30, (2, 2), "L")
    assert np.array_equal(grey.pixels, np.full((3, 2, 2), 30))


def test_an_images_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=f"there is no folder or CSV file {tmp_path / 'nowhere'}"):
        read_external(tmp_path / "nowhere", DOG)


def test_a_folder_without_images(tmp_path):
    (tmp_path / "a dog").mkdir()
    (tmp_path / "readme.md").write_text("none")
    with pytest.raises(ValueError, match=r"no images in .*: give a folder with a subfolder"):
        read_external(tmp_path, DOG)


def test_an_image_beside_the_subfolders_has_no_prompt(tmp_path):
    save(tmp_path / "0.png")
    with pytest.raises(ValueError, match=r"gives no prompt for 0\.png: put each image into"):
        read_external(tmp_path, DOG)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,text\n0.png,a dog\n", r"has no column prompt \(it has path, text\)"),
        ("", r"has no column path and no column prompt \(it has none\)"),
        ("path,prompt\n", "no images in"),
        ("path,prompt\n0.png,a dog\n1.png,a dog\n", "line 3 of .* names .*1.png, which does not"),
        ("path,prompt\n0.png,\n", "line 2 of .* lacks a path or a prompt"),
        ("path,prompt\n0.png\n", "line 2 of .* lacks a path or a prompt"),
        (
            "path,prompt\n0.png,a cat\n",
            "the prompt 'a cat' of .*0.png does not name the subject",
        ),
    ],
)
def test_a_table_that_cannot_be_followed(tmp_path, text, said):
    save(tmp_path / "0.png")
    table = tmp_path / "list.csv"
    table.write_text(text)
    with pytest.raises(ValueError, match=said):
        read_external(table, DOG)


def test_a_prompt_may_name_the_subject_by_its_identifier(tmp_path):
    save(tmp_path / "a kzn in the snow" / "0.png")
    with pytest.raises(ValueError, match=r"write \{\} in its place, or give identifier\.text="):
        read_external(tmp_path, DOG)
    ((picture,), _) = read_external(tmp_path, DOG, "kzn")
    assert picture.prompt == "a kzn in the snow"


def test_a_table_in_another_encoding_and_a_text_named_png(tmp_path):
    table = tmp_path / "list.csv"
    table.write_bytes("path,prompt\n0.png,a dög\n".encode("utf-16"))
    with pytest.raises(ValueError, match="is not a CSV file"):
        read_external(table, DOG)
    (tmp_path / "a dog").mkdir()
    (tmp_path / "a dog" / "0.png").write_text("this is no image")
    with pytest.raises(ValueError, match=r"cannot read the image .*0.png .*: remove it"):
        read_external(tmp_path, DOG)
