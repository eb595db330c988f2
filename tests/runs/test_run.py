import json
import math
import resource
from contextlib import contextmanager

import pytest
import torch
import yaml
from PIL import Image

from dreambooth.runs.files import claimed, csv_of, slug, write_atomically
from dreambooth.runs.pictures import Picture
from dreambooth.runs.records import Metric
from dreambooth.runs.run import FinishedRunError, Run
from dreambooth.runs.status import Status, describe, this_host

CONFIG = {
    "prior": {"lambda": 1.0},
    "class": {"noun": None},
    "optimizer": {"lr": 1e-5, "betas": [0.9, 0.999]},
    "overrides": ["prior.lambda=1"],
}


def picture(prompt="a red dog", index=0, **kwargs):
    pixels = torch.randint(256, (3, 8, 6), dtype=torch.uint8)
    return Picture(pixels, prompt, index, **kwargs)


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", CONFIG)


@pytest.fixture
def finished(run):
    run.weights.mkdir()
    run.set_status("finished")
    return run


@contextmanager
def full_disk(size):
    """The kernel refuses to let a file grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_finished_run_reloads_from_its_path_alone(finished):
    again = Run.load_finished(finished.folder)
    assert again.config == CONFIG
    assert again.status().state == "finished"
    assert again.status().progress == 1


def test_the_config_is_plain_yaml_in_its_own_order(run):
    text = (run.folder / "config.yaml").read_text()
    assert yaml.safe_load(text) == CONFIG
    assert list(yaml.safe_load(text)) == list(CONFIG)
    assert "!!" not in text


def test_status_keeps_the_start_and_the_progress_until_the_end(run):
    started = run.status().started
    assert started
    run.set_status("running", progress=0.4)
    run.set_status("running")
    assert run.status() == Status("running", progress=0.4, started=started, host=this_host())
    run.set_status("failed", "the loss is NaN at step 12")
    status = run.status()
    assert (status.reason, status.progress) == ("the loss is NaN at step 12", 0.4)
    assert status.started == started <= status.ended
    assert describe(status) == "failed: the loss is NaN at step 12"


def test_an_unfinished_run_goes_on_and_keeps_its_start(run):
    run.set_status("failed", "killed", progress=0.5)
    again = Run.create(run.folder, CONFIG)
    status = again.status()
    assert (status.state, status.progress) == ("running", 0.5)
    assert (status.started, status.ended) == (run.status().started, "")


def test_other_overrides_of_the_same_config_are_the_same_run(run):
    assert Run.create(run.folder, CONFIG | {"overrides": []}).config == run.config


def test_a_finished_run_is_not_started_again(finished):
    with pytest.raises(FinishedRunError, match=f"finished, in {finished.folder}"):
        Run.create(finished.folder, CONFIG)
    assert finished.status().state == "finished"


def test_a_folder_of_another_experiment_is_refused_and_the_keys_named(run):
    run.write_names({})
    other = CONFIG | {"prior": {"lambda": 0.0}, "class": {"noun": "cat"}}
    with pytest.raises(ValueError, match="another experiment") as caught:
        Run.create(run.folder, other)
    assert "prior.lambda is 1.0 there and 0.0 here" in str(caught.value)
    assert "class.noun is None there and cat here" in str(caught.value)
    assert yaml.safe_load((run.folder / "config.yaml").read_text()) == CONFIG


def test_a_run_that_was_refused_makes_room_for_another(run):
    run.set_status("failed", "prior.lambda=-1 is not a weight", progress=0.1)
    other = Run.create(run.folder, CONFIG | {"seed": 1})
    assert other.config["seed"] == 1
    assert (other.status().state, other.status().progress) == ("running", 0)


def test_a_run_that_replaces_one_sets_it_aside_until_it_is_finished(finished):
    finished.write_names({"identifier": "kzn"})
    (finished.folder / "train.log").write_text("a launcher's")
    old = {p.name: p.read_bytes() for p in finished.folder.glob("*.*")}
    again = Run.create(finished.folder, CONFIG, force=True)
    assert again.status().state == "running"
    assert not again.weights.exists()
    aside = finished.folder / "replaced"
    for name in ("config.yaml", "status.json", "names.json"):
        assert (aside / name).read_bytes() == old[name]
    again.write_names({})
    again.set_status("failed", "killed")
    assert Run.create(finished.folder, CONFIG, force=True).read_names() == {}  # goes on
    other = Run.create(finished.folder, CONFIG | {"seed": 1}, force=True)
    assert (aside / "names.json").read_bytes() == old["names.json"]  # not the unfinished one's
    other.set_status("finished")
    other.tidy()
    assert sorted(p.name for p in finished.folder.iterdir()) == [
        ".dreambooth-run",
        "config.yaml",
        "status.json",
        "train.log",
    ]


def test_a_run_may_wait_before_it_begins(tmp_path):
    run = Run.create(tmp_path, CONFIG, state="queued")
    assert describe(run.status()) == "queued"
    assert Run.create(tmp_path, CONFIG).status().state == "running"


def test_a_folder_is_one_process_own(tmp_path):
    second = pytest.raises(ValueError, match="another process is using the run in")
    with claimed(tmp_path), second, claimed(tmp_path):
        pass
    with claimed(tmp_path):
        pass


def test_what_a_killed_process_was_writing_is_swept_away(tmp_path):
    marker = Run.create(tmp_path, CONFIG).folder / ".dreambooth-run"
    for name in ("config.yaml", "status.json"):
        (tmp_path / name).unlink()
    whole = tmp_path / "images" / "a.png"
    whole.parent.mkdir()
    whole.write_bytes(b"whole")
    (tmp_path / "images" / ".a.png.123.partial").write_bytes(b"wh")
    (tmp_path / ".weights.123.partial").mkdir()
    with claimed(tmp_path):
        left = {p for p in tmp_path.rglob("*") if p.name != ".lock"}
        assert left == {marker, whole.parent, whole}


def test_a_key_that_only_one_config_has_is_a_difference(run):
    run.write_names({})
    with pytest.raises(ValueError, match="seed is absent there and None here"):
        Run.create(run.folder, CONFIG | {"seed": None})


def test_many_differences_are_counted(tmp_path):
    Run.create(tmp_path, {str(i): 0 for i in range(5)}).write_names({})
    with pytest.raises(ValueError, match=r"2 is 0 there and 1 here; and 2 more\)"):
        Run.create(tmp_path, {str(i): 1 for i in range(5)})


def test_a_config_with_nan_equals_itself(tmp_path):
    Run.create(tmp_path, {"threshold": math.nan})
    assert Run.create(tmp_path, {"threshold": math.nan}).status().state == "running"


def test_a_run_starts_in_a_folder_with_a_launchers_files(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("other: 1")
    assert Run.create(tmp_path, CONFIG).status().state == "running"


def test_a_run_does_not_start_in_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        Run.create(tmp_path / "run", CONFIG)


def test_what_is_no_run_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no run folder"):
        Run.load_finished(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is not a run folder"):
        Run.load_finished(tmp_path)


@pytest.mark.parametrize("state", ["running", "failed"])
def test_an_unfinished_run_does_not_open(run, state):
    run.set_status(state, "out of memory" if state == "failed" else "", progress=0.25)
    words = {"running": "running, 25 %", "failed": "failed: out of memory"}[state]
    with pytest.raises(ValueError, match=rf"not finished \({words}\)"):
        Run.load_finished(run.folder)


@pytest.mark.parametrize("name", ["config.yaml", "status.json"])
def test_a_missing_file_is_named(finished, name):
    (finished.folder / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        Run.load_finished(finished.folder)


def test_missing_weights_are_named(finished):
    finished.weights.rmdir()
    with pytest.raises(ValueError, match="weights/ is missing"):
        Run.load_finished(finished.folder)


@pytest.mark.parametrize("name", ["config.yaml", "status.json"])
@pytest.mark.parametrize("content", [b"{", b"[1]", b"", b"\xff\xfe\x00"])
def test_a_damaged_file_is_named(finished, name, content):
    (finished.folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        Run.load_finished(finished.folder)


@pytest.mark.parametrize("content", ['{"state": "asleep"}', '{"mood": "fine"}'])
def test_an_unknown_status_is_damage(finished, content):
    (finished.folder / "status.json").write_text(content)
    with pytest.raises(ValueError, match=r"status\.json is damaged"):
        Run.load_finished(finished.folder)


def test_pictures_come_back_with_what_they_were_made_from(run):
    pictures = [
        picture("a red dog", 1, template="a red {}, 模糊"),
        picture("a red dog", 0),
        picture("Ein roter Hund — größer", 12),
    ]
    paths = run.images.save("scored", pictures)
    assert [p.parent for p in paths] == [run.folder / "images" / "scored"] * 3
    read = {(p.prompt, p.index): p for p in run.images.read("scored")}
    assert len(read) == 3
    for made in pictures:
        found = read[made.prompt, made.index]
        assert torch.equal(found.pixels, made.pixels)
        assert found.template == made.template


def test_pictures_are_png_files_that_other_programs_understand(run):
    (path,) = run.images.save("scored", [picture(index=3, template="a {}")])
    assert path.name == "a-red-dog-003.png"
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (6, 8))
        assert image.info["prompt"] == "a red dog"
        assert image.info["index"] == "3"


def test_a_picture_of_the_same_prompt_and_index_is_replaced(run):
    run.images.save("scored", [picture()])
    second = picture()
    run.images.save("scored", [second])
    (read,) = run.images.read("scored")
    assert torch.equal(read.pixels, second.pixels)


def test_sets_of_pictures_are_apart(run):
    run.images.save("scored", [picture()])
    run.images.save("class", [picture(), picture(index=1)])
    assert (len(run.images.read("scored")), len(run.images.read("class"))) == (1, 2)


def test_a_set_name_does_not_leave_the_run_folder(run):
    for name in ("../x", "a/b", "", ".hidden"):
        with pytest.raises(ValueError, match="cannot name a set"):
            run.images.save(name, [picture()])


def test_an_absent_set_is_named(run):
    with pytest.raises(ValueError, match="no images/scored"):
        run.images.read("scored")


def test_a_damaged_and_a_foreign_picture_name_themselves(run):
    (path,) = run.images.save("scored", [picture()])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a-red-dog-000\.png is damaged"):
        run.images.read("scored")
    Image.new("RGB", (4, 4)).save(path)
    with pytest.raises(ValueError, match="metadata has no 'prompt'"):
        run.images.read("scored")


def test_different_prompts_have_different_slugs_in_any_case():
    prompts = ["a red dog", "a-red-dog", "A red dog", "a red dog!", " a red dog", "a  red dog"]
    prompts += ["", "狗", "猫", "x" * 200, "x" * 201, "a red dog 1", "a red dog-1", "a red dog_1"]
    slugs = [slug(p).lower() for p in prompts]
    assert len(set(slugs)) == len(prompts)
    assert slugs[0] == "a-red-dog"
    assert all(
        len(s) < 100 and set(s) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_") for s in slugs
    )


def test_scores_come_back_as_text_numbers_and_gaps(run):
    rows = [
        {"image": 'a, "b"\nc.png', "index": 3, "identity": 0.1 + 0.2, "same": True},
        {"image": "007", "index": 4, "identity": math.nan},
        {"image": "x", "index": 5, "identity": 1e-30, "note": "größer"},
    ]
    run.write_scores(rows)
    read = run.read_scores()
    assert list(read[0]) == ["image", "index", "identity", "same", "note"]
    assert read[0] == rows[0] | {"note": None}
    assert (read[1]["image"], read[1]["same"], read[1]["note"]) == ("007", None, None)
    assert math.isnan(read[1]["identity"])
    assert read[2] == rows[2] | {"same": None}


def test_scores_of_no_images_are_no_rows(run):
    run.write_scores([])
    assert run.read_scores() == []


@pytest.mark.parametrize("keep", ['"a"\n"x', '"a","b"\n"x"\n', '"a"\nx\n', '"a"\n"x",1\n'])
def test_damaged_scores_are_named(run, keep):
    (run.folder / "scores.csv").write_text(keep)
    with pytest.raises(ValueError, match=r"scores\.csv is damaged"):
        run.read_scores()


def test_metrics_come_back_with_count_and_protocol(run):
    metrics = {
        "identity": Metric(0.5, 100, "cosine, ours", (0.45, 0.55)),
        "class": Metric(1.0, 20, "oracle's argmax"),
    }
    run.write_metrics(metrics)
    assert run.read_metrics() == metrics
    run.write_metrics({"diversity": Metric(math.nan, 0, "of no images")})
    assert math.isnan(run.read_metrics()["diversity"].value)
    assert json.loads((run.folder / "metrics.json").read_text())["diversity"]["value"] is None


def test_missing_and_damaged_metrics_are_named(run):
    with pytest.raises(ValueError, match=r"metrics\.json is missing"):
        run.read_metrics()
    for content in ("{", '{"identity": 0.5}', '{"identity": {"value": 0.5}}'):
        (run.folder / "metrics.json").write_text(content)
        with pytest.raises(ValueError, match=r"metrics\.json is damaged"):
            run.read_metrics()


def test_a_full_disk_leaves_the_previous_file_whole(run):
    run.write_metrics({"identity": Metric(0.5, 100, "short")})
    run.images.save("scored", [picture()])
    before = {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()}
    with full_disk(1000):
        with pytest.raises(OSError, match=r"too large: '.*/metrics\.json'"):
            run.write_metrics({"identity": Metric(0.6, 100, "long" * 1000)})
        with pytest.raises(OSError, match="too large"):
            run.images.save("scored", [picture(template="long" * 1000)])
    assert {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()} == before


def test_a_kill_while_writing_leaves_the_previous_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dreambooth.runs.files.os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_csv_keeps_texts_of_digits_apart_from_numbers():
    assert csv_of([{"a": "1", "b": 1}, {"a": None, "c": 0.5}]) == (
        '"a","b","c"\n"1",1,""\n"",""' + ",0.5\n"
    )
