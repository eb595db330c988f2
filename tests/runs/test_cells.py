import re

import pytest

from dreambooth.runs.cells import (
    cell_name,
    find_runs,
    order_in,
    sweep_folder,
    sweep_name,
    write_cells,
)
from dreambooth.runs.run import Run

CONFIG = {"prior": {"lambda": 1.0}, "overrides": ["prior.lambda=1"]}
AXES = ["prior.lambda", "class"]


def test_a_cell_is_named_by_what_it_has_of_its_own_in_the_order_of_the_command():
    overrides = ["prior.lambda=0", "class=none", "subject=olive", "seed=1"]
    assert cell_name(overrides, ["subject", "seed"]) == "lambda-0+class-none"
    assert cell_name(overrides[2:], ["subject", "seed"]) == "all"


def test_a_sweep_is_named_by_its_keys_and_a_hash_of_what_its_cells_share():
    assert sweep_name(AXES, {}) == "lambda+class"
    name = sweep_name(AXES, {"subject": "olive", "seed": "1"})
    assert re.fullmatch("lambda[+]class_[0-9a-f]{8}", name)
    assert name == sweep_name(AXES, {"seed": "1", "subject": "olive"})
    others = [{"subject": "olive"}, {"subject": "olive", "seed": "2"}, {"seed": "olive"}]
    assert len({name, *(sweep_name(AXES, fixed) for fixed in others)}) == 4
    assert re.fullmatch("all_[0-9a-f]{8}", sweep_name([], {"seed": "1"}))


def test_a_sweep_of_many_keys_has_a_name_of_its_own():
    keys = [f"{letter * 12}" for letter in "abcdefghij"]
    names = {sweep_name(keys[:n], fixed) for n in (8, 9, 10) for fixed in ({}, {"seed": "1"})}
    assert len(names) == 6
    assert max(map(len, names)) <= 100


def test_how_it_is_run_changes_no_name():
    assert cell_name(["class=none", "prior.lambda=0"]) == cell_name(
        ["class=none", "force=true", "prior.lambda=0", "launcher=slurm", "launcher.jobs=2"]
    )


def test_a_sweep_in_another_order_is_found_with_the_order_of_its_names(tmp_path):
    axes, fixed = ["class", "class_noun", "prior.lambda"], {"seed": "1"}
    assert sweep_folder(tmp_path, axes, fixed).name.startswith("class+class_noun+lambda_")
    for made in (["class_noun", "prior.lambda", "class"], ["class_noun", "prior.lambda", "seed"]):
        (tmp_path / sweep_name(made, fixed)).mkdir()
    found = sweep_folder(tmp_path, axes, fixed)
    assert found.name == sweep_name(["class_noun", "prior.lambda", "class"], fixed)
    assert order_in(found.name, axes) == ["class_noun", "prior.lambda", "class"]
    assert not sweep_folder(tmp_path, axes, {"seed": "2"}).exists()
    assert not sweep_folder(tmp_path, axes[:2], fixed).exists()
    assert order_in("class-none+class_noun-dog+lambda-0", axes) == axes
    assert order_in("class_noun-dog+lambda-0", axes) == []


def test_keys_are_shortened_where_that_leaves_no_doubt():
    rates = ["method.module.learning_rate=1e-4", "sr.learning_rate=1e-5"]
    assert cell_name(rates) == "method.module.learning_rate-1e-4+sr.learning_rate-1e-5"
    assert cell_name(rates[:1]) == "learning_rate-1e-4"


@pytest.mark.parametrize(
    "value", ["/a/b c", "x" * 300, "Red", "red dog", "red-dog ", "a+b-c", "[1,2]", "..", "", "'ä'"]
)
def test_any_value_gives_a_name_that_file_systems_and_hydra_take(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    name = cell_name(["a=1", f"k={value}"])
    assert 0 < len(name) <= 100
    assert not set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789._+-")
    assert name[0].isalnum()
    given = OverridesParser.create().parse_override(f"run=runs/{name}")
    assert given.value() == f"runs/{name}"


def test_different_cells_have_different_names_in_any_case():
    values = ["a", "A", "a ", "a b", "a-b", "a+b", "ab/c", "ab-c", "x" * 200, "x" * 201, "1", "1.0"]
    cells = [[f"k={value}"] for value in values] + [["a=1", "b=2"], ["a=1+b-2"], ["a='1+b=2'"]]
    assert len({cell_name(cell) for cell in cells}) == len(cells)


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", CONFIG)


def test_runs_of_a_sweep_are_found_in_its_order_with_missing_and_damaged_ones(tmp_path):
    write_cells(tmp_path, {f"seed-{seed}": [f"seed={seed}"] for seed in (0, 1)})
    write_cells(tmp_path, {f"seed-{seed}": [f"seed={seed}"] for seed in (9, 2, 0)})  # extended
    for number in (0, 2, 10):
        Run.create(tmp_path / f"seed-{number}", CONFIG | {"seed": number})
    Run.create(tmp_path / "external", CONFIG)
    (tmp_path / "external" / "status.json").write_text("{")
    (tmp_path / "seed-9" / ".hydra").mkdir(parents=True)  # died before its first line
    (tmp_path / "wandb").mkdir()
    (tmp_path / "5").write_text("a file")
    runs = find_runs(tmp_path)
    assert {run.folder.name: run.status().state for run in runs} == {
        "seed-9": "missing",
        "seed-2": "running",
        "seed-0": "running",
        "seed-1": "missing",
        "external": "damaged",
        "seed-10": "running",
    }
    assert [run.folder.name for run in runs][:4] == ["seed-9", "seed-2", "seed-0", "seed-1"]
    assert runs[1].config["seed"] == 2
    assert runs[4].config == CONFIG
    assert "status.json is damaged" in runs[4].status().reason


def test_a_run_whose_status_is_about_to_be_written_has_not_begun(run, tmp_path):
    (run.folder / "status.json").unlink()
    (found,) = find_runs(tmp_path)
    assert (found.status().state, found.config) == ("missing", run.config)
    assert Run.create(run.folder, run.config).status().state == "running"
    run.weights.mkdir()
    (run.folder / "status.json").unlink()
    (found,) = find_runs(tmp_path)
    assert found.status().state == "damaged"


def test_a_run_that_was_being_set_aside_when_it_was_killed_is_missing(run, tmp_path):
    """Its config and status are moved first."""
    write_cells(tmp_path, {"run": []})
    run.weights.mkdir()
    for name in ("config.yaml", "status.json"):
        (run.folder / name).unlink()
    (found,) = find_runs(tmp_path)
    assert found.status().state == "missing"
    assert Run.create(run.folder, run.config, force=True).status().state == "running"


def test_runs_of_a_numbered_sweep_are_in_order_of_their_numbers(tmp_path):
    for number in (10, 2, 0):
        Run.create(tmp_path / str(number), CONFIG)
    assert [run.folder.name for run in find_runs(tmp_path)] == ["0", "2", "10"]


def test_a_damaged_list_of_cells_is_named(tmp_path):
    (tmp_path / "sweep.json").write_text("[]")
    with pytest.raises(ValueError, match=r"sweep\.json is damaged"):
        find_runs(tmp_path)


def test_a_sweep_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="no sweep folder"):
        find_runs(tmp_path / "nowhere")
