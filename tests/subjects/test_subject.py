import pytest
import torch
from PIL import Image

from dreambooth.miniature.subjects import drawn_subject
from dreambooth.miniature.world import CLASSES, LIVE
from dreambooth.subjects.photos import load_photos
from dreambooth.subjects.prompt_sets import DREAMBENCH, MINIBENCH, PROMPT_SETS
from dreambooth.subjects.prompts import DREAMBENCH_CLASSES, kind_of_noun
from dreambooth.subjects.subject import other_class, subject_from_folder


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        Image.effect_noise((20, 12), 10 * i + 5).save(tmp_path / f"{i}.png")
    return tmp_path


def test_a_folder_is_a_subject_evaluated_on_dreambench(folder):
    subject = subject_from_folder(str(folder), "dog", kind="live")
    assert (subject.name, subject.class_noun, subject.truth) == (folder.name, "dog", None)
    assert subject.prompts == DREAMBENCH["live"]
    assert torch.equal(subject.photos(16), load_photos(folder, 16).images)
    assert subject_from_folder(str(folder), "toy").prompts == DREAMBENCH["object"]


@pytest.mark.parametrize("noun", [*DREAMBENCH_CLASSES, "axolotl"])
def test_the_wrong_class_is_another_of_dreambench_and_always_the_same(folder, noun):
    wrong = other_class(noun, DREAMBENCH_CLASSES)
    assert wrong in DREAMBENCH_CLASSES
    assert wrong != noun
    assert wrong == other_class(noun, DREAMBENCH_CLASSES)
    assert subject_from_folder(str(folder), noun, "live").wrong_class_noun == wrong


def test_wrong_classes_are_spread_over_the_classes():
    assert len({other_class(noun, DREAMBENCH_CLASSES) for noun in DREAMBENCH_CLASSES}) > 5


def test_the_kind_follows_from_the_class_noun(folder):
    for noun in CLASSES:
        assert subject_from_folder(str(folder), noun).kind == drawn_subject(noun, 0).kind
    live = [noun for noun in DREAMBENCH_CLASSES if kind_of_noun(noun) == "live"]
    assert live == ["cat", "dog"]  # of prompts_and_classes.txt of DreamBench
    assert all(map(kind_of_noun, DREAMBENCH_CLASSES))
    with pytest.raises(ValueError, match=r"=hamster is in no list .*: give subject\.kind"):
        subject_from_folder(str(folder), "hamster")
    assert subject_from_folder(str(folder), "hamster", kind="live").kind == "live"


def test_a_wrong_class_of_ones_own_is_kept(folder):
    assert subject_from_folder(str(folder), "dog", wrong_class_noun="can").wrong_class_noun == "can"


@pytest.mark.parametrize("noun", ["", " "])
def test_an_empty_class_noun_is_refused(folder, noun):
    with pytest.raises(ValueError, match=r"subject\.class_noun is empty"):
        subject_from_folder(str(folder), noun)


def test_the_true_class_is_no_wrong_class(folder):
    with pytest.raises(ValueError, match="'dog' is the subject's true class"):
        subject_from_folder(str(folder), "dog", wrong_class_noun="dog")
    with pytest.raises(ValueError, match="'dog' is the subject's true class"):
        subject_from_folder(str(folder), "Dog", wrong_class_noun="dog")
    assert other_class("Dog", [*["dog"] * 99, "cat"]) == "cat"
    with pytest.raises(ValueError, match="'cat' is the subject's true class"):
        drawn_subject("cat", 0, wrong_class_noun="cat")


def test_a_broken_photo_is_found_when_the_subject_is_made(folder):
    (folder / "2.png").write_text("no photo")
    with pytest.raises(ValueError, match=r"cannot read the photo .*2\.png"):
        subject_from_folder(str(folder), "dog")


def test_a_single_photo_is_warned_of_once(folder, caplog):
    for i in (1, 2, 3):
        (folder / f"{i}.png").unlink()
    subject = subject_from_folder(str(folder), "dog")
    assert subject.photos(8).shape == (1, 3, 8, 8)
    assert [r.getMessage()[:14] for r in caplog.records] == ["only one photo"]


@pytest.mark.parametrize("noun", CLASSES)
def test_a_drawn_individual_is_a_subject_with_its_truth(noun):
    subject = drawn_subject(noun, 3, num_photos=2)
    kind = "live" if noun in LIVE else "object"
    assert (subject.kind, subject.prompts) == (kind, MINIBENCH[kind])
    assert subject.truth.class_noun == noun
    assert noun in subject.description
    assert subject.wrong_class_noun in set(CLASSES) - {noun}


def test_drawn_photos_are_the_same_each_time_and_averaged_to_a_stages_resolution():
    subject = drawn_subject("dog", 3)
    photos = subject.photos(64)
    assert photos.shape == (5, 3, 64, 64)
    assert torch.equal(photos, drawn_subject("dog", 3).photos(64))
    means = photos.unflatten(2, (32, 2)).unflatten(4, (32, 2)).mean((3, 5))
    torch.testing.assert_close(subject.photos(32), means)
    assert photos.min() >= -1
    assert photos.max() <= 1
    assert torch.pdist(photos.flatten(1)).min() > 1, "different scenes"
    assert not torch.equal(photos, drawn_subject("dog", 4).photos(64))


def test_more_photos_begin_with_the_same_ones():
    assert torch.equal(
        drawn_subject("cat", 1, num_photos=2).photos(64),
        drawn_subject("cat", 1, num_photos=4).photos(64)[:2],
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"class_noun": "horse"}, "no class 'horse'"),
        ({"seed": -1}, "subject.seed=-1"),
        ({"seed": "x"}, "subject.seed=x"),
        ({"num_photos": 0}, "subject.num_photos=0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        drawn_subject(**({"class_noun": "dog", "seed": 0} | arguments))


def test_a_folders_prompts_are_dreambenchs_or_the_miniatures(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    Image.new("RGB", (16, 16)).save(tmp_path / "b.png")
    told = {name: subject_from_folder(str(tmp_path), "dog", prompts=name) for name in PROMPT_SETS}
    assert told["dreambench"].prompts == DREAMBENCH["live"]
    assert told["minibench"].prompts == MINIBENCH["live"]
    with pytest.raises(ValueError, match="prompts=mine is not known: choose dreambench, "):
        subject_from_folder(str(tmp_path), "dog", prompts="mine")
