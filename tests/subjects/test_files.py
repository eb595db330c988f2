"""What a folder of photos may hold beside them: captions, masks, subject.yaml."""

import logging

import numpy as np
import pytest
import torch
from commands import command
from made_up_photos import mask_file, photos_folder
from PIL import Image
from test_docs import composed

from dreambooth.launch.inputs import inputs_of
from dreambooth.subjects.masks import load_masks
from dreambooth.subjects.subject import subject_from_folder


@pytest.fixture
def folder(tmp_path):
    return photos_folder(tmp_path / "my_dog", size=(60, 40))


def made(folder, **settings):
    return subject_from_folder(str(folder), "dog", **settings)


def test_captions_and_masks_are_of_the_photos_that_they_are_named_as(folder, caplog):
    (folder / "1.txt").write_text("  a {} on a sofa\n\n")
    mask_file(folder / "2.jpg", (20, 0, 40, 40))
    subject = made(folder)
    assert subject.captions == (None, "a {} on a sofa", None)
    assert not caplog.records, "neither is a skipped file"
    masks = subject.masks(40)
    assert masks.shape == (3, 1, 40, 40)
    assert (masks[:2] == 1).all()
    assert torch.equal(masks[2, 0, 0], torch.tensor([0.0] * 10 + [1.0] * 20 + [0.0] * 10))
    assert len(subject.photos(8)) == len(subject.originals()) == 3, "a mask is no photo"
    kept = inputs_of({"subject": {"photos": str(folder)}})
    assert sorted(kept) == [
        f"photos/{n}" for n in ("0.jpg", "1.jpg", "1.txt", "2.jpg", "2.mask.png")
    ]


def test_a_folder_without_them_has_neither(folder):
    assert (made(folder).captions, made(folder).masks) == ((), None)


def test_a_mask_is_averaged_over_areas_and_the_border_of_pad_is_black(folder):
    mask_file(folder / "0.jpg", (0, 0, 60, 40))
    padded = load_masks([folder / "0.jpg"], 6, "pad")[0, 0]
    assert torch.equal(padded[:, 0], torch.tensor([0.0, 1, 1, 1, 1, 0]))
    mask_file(folder / "0.jpg", (15, 0, 60, 40))
    coarse = load_masks([folder / "0.jpg"], 4, "centre")[0, 0]
    torch.testing.assert_close(coarse[0], torch.tensor([0.5, 1, 1, 1]))
    assert load_masks([folder / "1.jpg"], 4, "pad").min() == 1, "a photo without a mask"


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "RGB", "P"])
def test_a_white_mask_of_any_mode_is_one_everywhere(folder, mode):
    white = Image.new("I;16", (60, 40), 65535) if mode == "I;16" else None
    mask = white or Image.new("L", (60, 40), 255).convert(mode)
    mask.save(folder / "0.mask.png")
    for size_px in (8, 23, 40, 64):
        assert (load_masks([folder / "0.jpg"], size_px) == 1).all()


def spoilt(folder, kind):
    mask = folder / "1.mask.png"
    if kind == "size":
        Image.new("L", (40, 60), 255).save(mask)
    elif kind == "black":
        mask_file(folder / "1.jpg", (0, 0, 0, 0))
    elif kind == "cut":
        mask_file(folder / "1.jpg", (0, 0, 10, 40))
    elif kind == "transparent":
        Image.new("LA", (60, 40), (255, 0)).save(mask)
    elif kind == "broken mask":
        mask.write_text("no image")
    elif kind == "lonely mask":
        Image.new("L", (60, 40), 255).save(folder / "9.mask.png")
    elif kind == "jpeg mask":
        Image.new("L", (60, 40), 255).save(folder / "1.mask.jpg")
    else:
        name = "9.txt" if kind == "lonely caption" else "1.txt"
        text = {"two lines": "a {}\nb {}", "empty": " \n", "braces": "a {name}"}
        (folder / name).write_bytes(text.get(kind, "a {}").encode())
        if kind == "bytes":
            (folder / name).write_bytes(b"\xff\xfe")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("size", r"1\.mask\.png has 40x60 px and its photo 60x40: save it at the size"),
        ("black", r"1\.mask\.png is all black: make the subject white, or remove it"),
        ("cut", r"is black within the centre of its photo, .*: give subject\.crop=pad"),
        ("transparent", r"1\.mask\.png has transparent areas: save it as white"),
        ("broken mask", r"cannot read the mask .*1\.mask\.png \("),
        ("lonely mask", r"9\.mask\.png is the mask of no photo: name it .*, such as 0\.mask\.png"),
        ("jpeg mask", r"1\.mask\.jpg is the mask of no photo: .* such as 0\.mask\.png for 0\.jpg"),
        ("lonely caption", r"9\.txt is the caption of no photo: name it .* such as 0\.txt for"),
        ("two lines", r"the caption .*1\.txt has 2 lines of text: write one, as 'a \{\} on a sof"),
        ("empty", r"the caption .*1\.txt has 0 lines of text: write one"),
        ("braces", r"the caption .*1\.txt has other braces than \{\}, the subject: a \{name\}"),
        ("bytes", r"cannot read the caption .*1\.txt"),
    ],
)
def test_a_caption_or_mask_that_does_not_fit_is_one_sentence(folder, kind, said):
    spoilt(folder, kind)
    with pytest.raises(ValueError, match=said) as raised:
        made(folder)
    assert "\n" not in str(raised.value)


def test_transparent_areas_become_white_with_a_note(folder, caplog):
    Image.new("RGBA", (60, 40), (0, 0, 0, 0)).save(folder / "a.png")
    Image.new("RGBA", (60, 40), (0, 0, 0, 255)).save(folder / "b.png")
    subject = made(folder)
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert said == [f"{folder}: 1 of 5 photos have transparent areas, which training sees as white"]
    assert subject.photos(8)[3].min() == 1
    assert subject.photos(8)[4].max() == -1


def test_a_mask_follows_the_exif_orientation_of_its_photo(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / "0.jpg", exif=exif)
    Image.new("L", (40, 60), 255).save(folder / "0.mask.png")  # as the upright photo
    assert made(folder).masks is not None


def test_what_subject_yaml_says_is_the_default_of_the_settings(folder):
    path = folder / "subject.yaml"
    path.write_text(
        "class_noun: hamster\nkind: live\nname: Hammy\ndescription: brown hamster\n"
        "prompts: ['a {} in the snow', 'a red {}']\ncrop: pad\n"
    )
    for key in ("photos", "subject.photos"):
        config = composed("train", ("subject=folder", f"{key}={folder}"))["subject"]
        assert {k: config[k] for k in ("class_noun", "kind", "name", "description", "crop")} == {
            "class_noun": "hamster",
            "kind": "live",
            "name": "Hammy",
            "description": "brown hamster",
            "crop": "pad",
        }
        assert config["prompts"] == ["a {} in the snow", "a red {}"]
    words = ("subject=folder", f"photos={folder}", "class_noun=rat", "subject.name=x")
    config = composed("train", words)["subject"]
    assert (config["class_noun"], config["name"], config["kind"]) == ("rat", "x", "live")
    path.unlink()
    config = composed("train", ("subject=folder", f"photos={folder}", "class_noun=dog"))["subject"]
    assert (config["prompts"], config["crop"], config["kind"]) == ("dreambench", "centre", None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("breed: lab", "subject.yaml has no setting breed: give class_noun, wrong_class_noun"),
        ("class_nuon: dog", "subject.yaml has no setting class_nuon: did you mean class_noun?"),
        ("dog", "subject.yaml has no settings: write lines such as class_noun: dog"),
        ("a: [", "cannot read "),
        ("kind: live", "class_noun has no default: give class_noun=... on the command line, or"),
        ("{class_noun: dog, kind: alive}", "subject.kind='alive' is not known; choose live or obj"),
        ("{class_noun: dog, kind: object}", "subject.kind=object contradicts class_noun=dog"),
        ("class_noun: 5", "subject.class_noun=5: give a noun, such as dog"),
    ],
)
def test_a_subject_yaml_that_cannot_be_is_one_sentence(folder, text, said):
    (folder / "subject.yaml").write_text(text)
    assert said in command("train", "subject=folder", f"photos={folder}", "model=sd15").sentence


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        (["a dog"], "subject.prompts has 'a dog': give texts with one {}"),
        (["a {} and a {}"], "give texts with one {}"),
        ([5], "subject.prompts has 5: give texts"),
        ([], "subject.prompts has no prompt"),
        (["a {}", "a {}"], "subject.prompts has a prompt twice"),
    ],
)
def test_prompts_that_cannot_be_are_one_sentence(folder, prompts, said):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        made(folder, prompts=prompts)
    assert said in str(raised.value)


def test_folders_of_a_sweep_have_a_class_noun_each(folder, tmp_path):
    other = photos_folder(tmp_path / "my_cup")
    (folder / "subject.yaml").write_text("class_noun: dog")
    (other / "subject.yaml").write_text("class_noun: cup\nkind: object")
    sweep = ("-m", "subject=folder", f"hydra.sweep.dir={tmp_path / 'sweep'}", "seed=x")
    for key in ("photos", "subject.photos"):
        said = command("train", *sweep, f"{key}={folder},{other}").sentence
        assert f"{key}={folder} cannot run: seed=x" in said, "all else is in order"
    (other / "subject.yaml").unlink()
    said = command("train", *sweep[:-1], f"subject.photos={folder},{other}").sentence
    assert f"subject.photos={other} cannot run: class_noun has no default" in said
