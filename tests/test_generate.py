"""Images from a finished run, with nothing but its path."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import command, same_files, train

from dreambooth.assemble import load_finished_model
from dreambooth.backbones.drawing import draw_pictures
from dreambooth.backbones.stage import Sampling
from dreambooth.runs.records import read_rows
from dreambooth.runs.run import Run
from dreambooth.runs.settings import Sampler
from dreambooth.subjects.prompt_sets import APPLICATIONS

pytestmark = pytest.mark.slow

SAMPLING = Sampling({"base": Sampler("dpm", 2, 3.0), "sr": Sampler("dpm", 2, 1.0)})


@pytest.fixture
def moved(finished, tmp_path):
    """The finished run, alone in another place."""
    return shutil.copytree(finished, tmp_path / "elsewhere" / "run")


@pytest.fixture(scope="module")
def backbone(finished):
    return load_finished_model(Run.load_finished(finished)).backbone


def generated(folder):
    return {(p.prompt, p.index): p for p in Run.load_finished(folder).images.read("generated")}


def test_a_moved_run_draws_its_subject_and_other_prompts(moved):
    prompts = "prompts=['a {} wearing a hat','a red cat in the snow','a {}']"
    ended = command("generate", f"run={moved}", prompts, "images_per_prompt=2")
    assert ended.code == 0, ended.output
    pictures = generated(moved)
    names = ["a kzn dog", "a kzn dog wearing a hat", "a red cat in the snow"]
    assert sorted(pictures) == [(name, i) for name in names for i in (0, 1)]
    assert pictures["a kzn dog", 0].template == "a {}"
    assert all(p.pixels.shape == (3, 64, 64) for p in pictures.values())
    *paths, sheet = [line for line in ended.output.splitlines() if line.endswith(".png")]
    assert sheet == f"contact sheet: {moved / 'images' / 'generated.png'}"
    assert (moved / "images" / "generated.png").is_file()
    assert sorted(paths) == sorted(map(str, Run.load_finished(moved).images.paths("generated")))


@pytest.mark.bits
def test_the_same_pictures_are_drawn_twice_and_as_the_run_itself_drew_them(moved):
    arguments = (f"run={moved}", "prompts=['a {} in the snow']", "images_per_prompt=1")
    assert command("generate", *arguments, "image_set=one").code == 0
    assert command("generate", *arguments, "image_set=two").code == 0
    assert same_files(moved / "images" / "one", moved / "images" / "two", "*.png")
    (again,) = Run.load_finished(moved).images.read("one")
    scored = Run.load_finished(moved).images.read("prompts")
    (first,) = [p for p in scored if p.prompt == again.prompt]
    assert (again.pixels.int() - first.pixels.int()).abs().max() <= 1


def test_first_index_continues_the_numbering_of_pictures(moved):
    arguments = (f"run={moved}", "prompts='a {}'")
    assert command("generate", *arguments, "images_per_prompt=3").code == 0
    three = generated(moved)
    more = ("first_index=2", "images_per_prompt=1", "image_set=more")
    assert command("generate", *arguments, *more).code == 0
    (third,) = Run.load_finished(moved).images.read("more")
    assert (third.pixels.int() - three["a kzn dog", 2].pixels.int()).abs().max() <= 1


def test_a_repeated_prompt_is_drawn_once_and_braces_are_plain_text(moved):
    prompts = "prompts=['a {}','a {}','a kzn dog']"
    ended = command("generate", f"run={moved}", prompts, "images_per_prompt=1")
    assert ended.code == 0, ended.output
    assert len(generated(moved)) == 1
    said = command("generate", f"run={moved}", "prompts=['a <x> {}']").sentence
    assert "the word '<x>' of 'a <x> kzn dog' is outside the vocabulary" in said  # though one [UNK]


def test_one_picture_costs_one_picture(moved, monkeypatch):
    from dreambooth.backbones.cascade import CascadeBackbone

    drawn, generate = [], CascadeBackbone.generate

    def counted(self, prompts, *arguments):
        drawn.extend(prompts)
        return generate(self, prompts, *arguments)

    monkeypatch.setattr(CascadeBackbone, "generate", counted)
    assert command("generate", f"run={moved}", "images_per_prompt=1").code == 0
    assert drawn == ["a kzn dog"]


def test_each_option_changes_the_picture_and_prompts_come_from_a_file(moved, tmp_path):
    (tmp_path / "prompts.txt").write_text("a {} in the snow\n\n")
    arguments = (f"run={moved}", f"prompts_file={tmp_path / 'prompts.txt'}", "images_per_prompt=1")
    options = (
        "seed=1",
        "sampler=ancestral",
        "num_steps=3",
        "guidance_scale=7",
        "negative_prompt=dog",
    )
    drawn = set()
    for number, option in enumerate(("", *options)):
        ended = command("generate", *arguments, f"image_set=set{number}", *filter(None, [option]))
        assert ended.code == 0, ended.output
        assert "plain diffusers" not in ended.output  # it has no pipeline for this model
        (picture,) = Run.load_finished(moved).images.read(f"set{number}")
        assert picture.prompt == "a kzn dog in the snow"
        drawn.add(picture.pixels.numpy().tobytes())
    assert len(drawn) == 1 + len(options)
    ended = command("generate", *arguments, "image_set=set0", "seed=2")
    assert "1 of these replaced earlier images of the same prompt and index" in ended.output


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("size_px=96",), "size_px=96: this run's model has one size: leave size_px out"),
        (("model.backbone.batch_size=1",), "model.backbone.batch_size=1: this run's model"),
        (("size_px=9",), "size_px=9: give a multiple of 8, as 512, or null"),
        (("num_steps=0",), "num_steps=0: give a whole number from 1 to 1000, or null"),
        (("num_steps=1001",), "num_steps=1001: give a whole number from 1 to 1000, or null"),
        (("sampler=heun",), "sampler=heun: give ancestral, ddim, dpm or euler, or null"),
        (("guidance_scale=-1",), "guidance_scale=-1: give a number of 0 or more, 1 for no guid"),
        (("seed=x",), "seed=x: give a whole number from 0 up, or null for the run's own noise"),
        (("first_index=-1",), "first_index=-1: give a whole number from 0 up"),
        (("negative_prompt=dog", "guidance_scale=1"), "negative_prompt=dog changes nothing with"),
        (("prompts_file=nowhere",), "prompts_file=nowhere cannot be read"),
        (("application=cooking",), "application=cooking: give all or one of recontextualization"),
        (("application=all", "prompts=[a]"), "application=all has its own prompts and image sets"),
        (("application=all", "image_set=a"), "application=all has its own prompts and image sets"),
        (("prompts_file=nowhere", "prompts=[a]"), "prompts and prompts_file are both given"),
    ],
)
def test_what_the_model_cannot_honour_is_refused_before_it_is_loaded(
    finished, monkeypatch, overrides, said
):
    def loaded(*_):
        raise AssertionError

    monkeypatch.setattr("dreambooth.miniature.load_backbone", loaded)
    assert command("generate", f"run={finished}", *overrides).sentence.startswith(said)


def test_a_sampler_that_the_model_lacks_is_refused(finished):
    said = "sampler 'euler' is for flow-matching models, and this model is none"
    assert command("generate", f"run={finished}", "sampler=euler").sentence.startswith(said)


def test_an_application_is_drawn_judged_and_shown_on_a_contact_sheet(moved):
    """With the weights of the tiny cascade, and the oracle that ships."""
    config = yaml.safe_load((moved / "config.yaml").read_text())
    config["metrics"] = {"oracle": {"_target_": "dreambooth.miniature.scoring.OracleScorer"}}
    (moved / "config.yaml").write_text(yaml.safe_dump(config))
    ended = command("generate", f"run={moved}", "application=expression", "images_per_prompt=2")
    assert ended.code == 0, ended.output
    run = Run.load_finished(moved)
    pictures = run.images.read("expression")
    assert {p.template for p in pictures} == {"a happy {}", "an angry {}", "a sleeping {}"}
    assert (moved / "images/expression.png").is_file()
    rows = read_rows(moved / "images/expression.csv")
    assert len(rows) == len(pictures) == 6
    for row in rows:
        assert row["kept"] == (row["identity"] >= 0.5)
        assert row["asked"] == row["expression_right"]
        assert row["both"] == row["asked"] * row["kept"]
    (line,) = [line for line in ended.output.splitlines() if line.startswith("expression  ")]
    means = [f"{np.mean([row[name] for row in rows]):.2f}" for name in ("asked", "kept", "both")]
    assert re.sub(r"\(.*?\)", "", line).split() == ["expression", "3", "6", *means]


def test_all_applications_of_an_unscored_object_are_drawn(tmp_path, tiny):
    ended = train(tiny, tmp_path / "run", "subject=comet", "metrics=none", "prior=off", "sr=off")
    assert ended.code == 0, ended.output
    arguments = (f"run={tmp_path / 'run'}", "images_per_prompt=1")
    ended = command("generate", *arguments, "application=all")
    assert ended.code == 0, ended.output
    sheets = [line for line in ended.output.splitlines() if line.startswith("contact sheet: ")]
    names = ("recontextualization", "art_rendition", "novel_view", "property_modification")
    assert [Path(line).stem for line in sheets] == list(names)
    assert not list((tmp_path / "run/images").glob("*.csv"))
    said = command("generate", *arguments, "application=expression").sentence
    assert said.startswith("application=expression is for live subjects, and comet is an object")


def test_photos_have_the_applications_as_the_paper_shows_them(tmp_path):
    from PIL import Image

    from dreambooth.launch.applications import Applications

    for i in range(3):
        Image.effect_noise((64, 64), 30 + i).save(tmp_path / f"{i}.png")
    target = "dreambooth.subjects.subject.subject_from_folder"
    about = {"_target_": target, "photos": str(tmp_path), "class_noun": "dog", "prompts": ["a {}"]}
    run = Run(tmp_path, {"subject": about, "metrics": {}})
    prompts = Applications.of(run, "all").prompts
    assert list(prompts) == list(APPLICATIONS)
    assert "a {} wearing a police outfit" in prompts["accessorization"]
    assert "a cross of a {} and a panda" in prompts["property_modification"]


def test_a_run_on_photos_reloads_without_them(tmp_path, tiny, stable_diffusion):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for i in range(3):
        image = Image.effect_noise((70, 64), 30 + i).convert("RGB")
        image.save(tmp_path / "photos" / f"{i}.png")
    from_folder = ("subject=folder", f"photos={tmp_path / 'photos'}", "class_noun=toy")
    ended = train(tiny, tmp_path / "run", *from_folder, *stable_diffusion, "prior=off")
    assert ended.code == 0, ended.output
    shutil.rmtree(tmp_path / "photos")
    (tmp_path / "run").rename(tmp_path / "moved")
    arguments = ("prompts=['a {} in the jungle']", "images_per_prompt=1")
    ended = command("generate", f"run={tmp_path / 'moved'}", *arguments)
    assert ended.code == 0, ended.output
    ((prompt, _), again) = next(iter(generated(tmp_path / "moved").items()))
    pictures = Run.load_finished(tmp_path / "moved").images.read("prompts")
    (first,) = [p for p in pictures if p.prompt == prompt]
    assert (again.pixels.int() - first.pixels.int()).abs().max() <= 1
    plain = ("seed=3", "num_steps=4", "sampler=ddim", "negative_prompt=cat", "size_px=48")
    one = "model.backbone.batch_size=1"
    ended = command("generate", f"run={tmp_path / 'moved'}", *plain, one, "image_set=plain")
    assert ended.code == 0, ended.output
    recipe = ended.output.partition("float32):\n\n")[2].partition("\n\nThe others")[0]
    made: dict = {}
    exec(recipe, made)
    ours = Run.load_finished(tmp_path / "moved").images.read("plain")
    theirs = torch.from_numpy(np.array(made["image"])).permute(2, 0, 1)
    assert ours[0].pixels.shape == (3, 48, 48)
    assert (ours[0].pixels.int() - theirs.int()).abs().max() <= 1
    lines = [line for line in ended.output.splitlines() if ", number " in line]
    start = f"  {ours[0].prompt!r}, number"
    assert [line.split(":")[0] for line in lines] == [f"{start} {i}" for i in (1, 2, 3)]


def initial_noise(backbone, jobs, monkeypatch):
    """z_T of the base stage for each job, in order."""
    seen = []
    predict = backbone.stages["base"].predict

    def watched(z_t, t, condition):
        if int(t[0]) == 999:
            seen.append(z_t[: len(z_t) // 2].clone())  # guidance doubles the batch
        return predict(z_t, t, condition)

    with monkeypatch.context() as patch:
        patch.setattr(backbone.stages["base"], "predict", watched)
        draw_pictures(backbone, jobs, SAMPLING)
    return torch.cat(seen)


def test_the_initial_noise_depends_on_template_and_index_only(backbone, monkeypatch):
    templates = ["a {}", "a {} in the snow", "a red {}"]
    jobs = [(t, t.replace("{}", "kzn dog"), i) for t in templates for i in (0, 1)]
    noise = initial_noise(backbone, jobs, monkeypatch)
    assert len({tuple(z.flatten()[:8].tolist()) for z in noise}) == len(jobs)
    other_words = [(t, t.replace("{}", "sks"), i) for t, _, i in jobs]
    assert torch.equal(initial_noise(backbone, other_words, monkeypatch), noise)
    assert torch.equal(initial_noise(backbone, jobs[::-1], monkeypatch), noise.flip(0))
    monkeypatch.setattr(backbone, "batch_size", 4)
    assert torch.equal(initial_noise(backbone, jobs, monkeypatch), noise)
    assert torch.equal(initial_noise(backbone, jobs[3:4], monkeypatch), noise[3:4])


@pytest.mark.parametrize("name", ["ancestral", "dpm"])
def test_a_picture_does_not_depend_on_the_others_drawn_with_it(backbone, name):
    sampling = Sampling({"base": Sampler(name, 3, 3.0), "sr": Sampler(name, 2, 1.0)})
    jobs = [("a {}", "a kzn dog", 0), ("a red {}", "a red kzn dog", 0), ("a {}", "a kzn dog", 1)]
    together = draw_pictures(backbone, jobs, sampling)
    for job, picture in zip(jobs, together, strict=True):
        (alone,) = draw_pictures(backbone, [job], sampling)
        assert (alone.prompt, alone.index, alone.template) == (job[1], job[2], job[0])
        assert (alone.pixels.int() - picture.pixels.int()).abs().max() <= 1
    assert not torch.equal(together[0].pixels, together[2].pixels)
