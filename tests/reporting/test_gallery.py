import shlex
import shutil

import numpy as np
import pytest
from commands import command
from hydra.core.override_parser.overrides_parser import OverridesParser
from made_up import made_up_sweep
from PIL import Image

from dreambooth.reporting.gallery import gallery_of, redraw_command
from dreambooth.reporting.pictures import Sample, samples_of, spread
from dreambooth.reporting.study import read_study


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery") / "sweep"
    return made_up_sweep(
        folder,
        subjects=("biscuit", "comet"),
        axes={"class": ("none", "wrong", "correct")},
        images_per_prompt=1,
        num_class_images=4,
    )


@pytest.fixture
def study(sweep):
    return read_study([sweep])


def test_every_picture_is_there_and_photos_once_for_each_subject(study, tmp_path):
    gallery = gallery_of(study, tmp_path / "report")
    shown = [p["link"] for p in gallery.data["pictures"]]
    assert len(shown) == len(set(shown)) == gallery.num_shown == gallery.num_pictures
    of_a_run = 25 + 4 + 16  # prompts, class, restored
    before = 2 * 4 * 2  # of two class prompts (one is the wrong noun's) of two subjects
    assert len(shown) == 6 * of_a_run + 2 * (5 + 16) + before
    assert all((tmp_path / "report" / link).is_file() for link in shown)
    assert all(p["small"] for p in gallery.data["pictures"])


def test_a_picture_has_its_run_its_prompt_and_its_scores(study, tmp_path):
    data = gallery_of(study, tmp_path).data
    of_prompts = [p for p in data["pictures"] if "/images/prompts/" in p["link"]]
    assert len(of_prompts) == 6 * 25
    for picture in of_prompts:
        run = data["runs"][picture["run"]]
        cell = study.cells[run["cell"]]
        (trial,) = (t for t in cell.trials if t.subject == data["subjects"][run["subject"]])
        assert picture["link"].startswith(run["link"] + "/")
        (row,) = (
            row
            for row in trial.rows
            if (row["set"], row["prompt"], row["index"]) == ("prompts", picture["prompt"], 0)
        )
        assert picture["scores"]["DINO"] == pytest.approx(row["dino"], rel=1e-3)
        assert data["groups"][picture["group"]]["name"] == row["template"].replace("{}", "[V]")


def test_of_too_many_every_run_shows_the_same_prompts_and_numbers(study, tmp_path):
    gallery = gallery_of(study, tmp_path, most=60)
    assert gallery.num_shown < gallery.num_pictures
    data, shown = gallery.data, {}
    of_runs = [p for p in data["pictures"] if "/photos/" not in p["link"]]
    assert len(of_runs) <= 60
    for p in of_runs:
        if "/prompts/" in p["link"] and data["runs"][p["run"]]["subject"] == 0:
            shown.setdefault(p["run"], []).append((p["group"], p["index"]))
    first, *others = shown.values()
    assert len(first) >= 4
    assert len(others) == 2
    assert all(found == first for found in others)
    left = sum(run["more"] for run in gallery.data["runs"])
    assert gallery.num_shown + left == gallery.num_pictures


@pytest.mark.parametrize(
    "prompt",
    [
        'a {} on the "beach"',
        "a {}, that's it",
        "${oops} {}",
        "a \\{} \\",
        "[a: {}] = <b> $HOME `x`",
    ],
)
def test_any_prompt_survives_shell_and_hydra(study, tmp_path, prompt):
    trial = study.cells[0].trials[0]
    trial.run.weights.mkdir(exist_ok=True)
    sample = Sample(tmp_path / "x.png", "prompts", prompt.replace("{}", "kzn"), prompt, 3, {})
    words = shlex.split(redraw_command(trial, sample))
    assert words[:2] == ["python", "src/generate.py"]
    parsed = {
        o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(words[2:])
    }
    said = [str(text).replace("\\${", "${") for text in parsed["prompts"]]  # OmegaConf's own escape
    assert said == [prompt]
    assert parsed["run"] == str(trial.run.folder)
    assert (parsed["first_index"], parsed["images_per_prompt"]) == (3, 1)


def test_no_command_is_given_that_could_not_work(study):
    trial = study.cells[0].trials[0]
    trial.run.weights.mkdir(exist_ok=True)
    assert redraw_command(trial, samples_of(trial, "class")[0])
    for image_set in ("photos", "before", "restored", "originals"):
        assert redraw_command(trial, samples_of(trial, image_set)[0]) == ""
    trial.run.weights.rmdir()
    assert redraw_command(trial, samples_of(trial, "class")[0]) == ""


@pytest.mark.slow
@pytest.mark.bits
def test_the_command_draws_the_same_picture_to_1_of_255(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "of a run" / "0")
    (cell,) = read_study([folder.parent]).cells
    (trial,) = cell.trials
    samples = [samples_of(trial, "prompts")[0], samples_of(trial, "class")[-1]]
    assert samples[1].index > 0
    for sample in samples:
        words = shlex.split(redraw_command(trial, sample))
        ended = command("generate", *words[2:])
        assert ended.code == 0, ended.output
        again = folder / "images" / "again" / sample.path.name
        assert np.abs(_pixels(again) - _pixels(sample.path)).max() <= 1


def _pixels(path):
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_what_a_picture_was_made_from_is_read_from_its_file_where_no_scores_are(sweep, tmp_path):
    folder = shutil.copytree(sweep / "0", tmp_path / "0")
    (folder / "scores.csv").write_text("")
    (trial,) = read_study([tmp_path]).cells[0].trials
    samples = samples_of(trial, "prompts")
    assert len(samples) == 25
    assert {s.template for s in samples} >= {"a {} in the snow", "a {} on the beach"}
    assert all(not s.scores for s in samples)


def test_spread_takes_evenly_and_never_twice():
    assert spread(range(3), 5) == [0, 1, 2]
    assert spread(range(10), 5) == [0, 2, 4, 6, 8]
    assert len(spread(range(25), 7)) == 7
    assert spread(range(25), 7) == sorted(set(spread(range(25), 7)))
