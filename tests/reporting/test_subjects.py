"""Which runs of a study have the same subject, and what it is called."""

import json

import yaml
from made_up import made_up_sweep

from dreambooth.reporting.study import read_study


def rewrite(folder, subject):
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"subject": subject}))


def rename(folder, name):
    subject = yaml.safe_load((folder / "config.yaml").read_text())["subject"]
    rewrite(folder, subject | {"name": name})


def test_a_drawn_subject_has_one_name(tmp_path):
    sweep = made_up_sweep(tmp_path / "s")
    rename(sweep / "2", None)
    assert read_study([sweep]).subjects == ("biscuit",)
    for number in range(6):
        rename(sweep / str(number), None)
    assert read_study([sweep]).subjects == ("dog 7",)


def test_photos_in_folders_of_one_name_are_two_subjects(tmp_path):
    sweep = made_up_sweep(tmp_path / "s", axes={"photos": ("a/dog", "b/dog", "c/dog", "dog")})
    for number, photos in enumerate(("a/dog", "b/dog", "~/c/dog/", "a/cat")):
        rewrite(sweep / str(number), {"photos": photos, "class_noun": "dog", "name": None})
        content = "moved" if photos in ("b/dog", "~/c/dog/") else photos
        (sweep / f"{number}/inputs.json").write_text(json.dumps({"photos/0.jpg": content}))
    study = read_study([sweep])
    assert study.subjects == ("a/dog", "b/dog", "cat"), "the same photos are one subject"
    assert len(study.cells) == 1
    for number in range(4):
        (sweep / f"{number}/inputs.json").unlink()
    assert read_study([sweep]).subjects == ("a/dog", "b/dog", "c/dog", "cat")
    for number in (1, 2):
        rename(sweep / str(number), "rex")
    assert read_study([sweep]).subjects == ("dog", "rex", "cat")
