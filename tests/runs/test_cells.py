import pytest

from dreambooth.runs.cells import cell_name, sweep_name

AXES = ["prior.lambda", "class"]


def test_a_cell_is_named_by_what_it_has_of_its_own():
    overrides = ["prior.lambda=0", "class=none", "subject=olive", "seed=1"]
    assert cell_name(overrides, ["subject", "seed"]) == "class-none+lambda-0"
    assert cell_name(overrides[2:], ["subject", "seed"]) == "all"


def test_a_sweep_is_named_by_its_keys_and_by_what_its_cells_share():
    assert sweep_name(AXES, {}) == "class+lambda"
    assert sweep_name(AXES, {"subject": "olive"}) == "class+lambda+subject-olive"


def test_the_order_of_the_words_and_how_it_is_run_change_no_name():
    assert cell_name(["class=none", "prior.lambda=0"]) == cell_name(
        ["prior.lambda=0", "force=true", "class=none", "launcher=slurm", "launcher.jobs=2"]
    )
    assert sweep_name(AXES[::-1], {}) == sweep_name(AXES, {})


def test_keys_are_shortened_where_that_leaves_no_doubt():
    rates = ["method.module.learning_rate=1e-4", "sr.learning_rate=1e-5"]
    assert cell_name(rates) == "method.module.learning_rate-1e-4+sr.learning_rate-1e-5"
    assert cell_name(rates[:1]) == "learning_rate-1e-4"


@pytest.mark.parametrize(
    "value", ["/a/b c", "x" * 300, "Red", "red dog", "red-dog ", "a+b-c", "[1,2]", "..", "", "ä"]
)
def test_any_value_gives_a_name_that_file_systems_and_hydra_take(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    name = cell_name([f"k={value}", "a=1"])
    assert 0 < len(name) <= 100
    assert not set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789._+-")
    assert name[0].isalnum()
    given = OverridesParser.create().parse_override(f"run=runs/{name}")
    assert given.value() == f"runs/{name}"


def test_different_cells_have_different_names_in_any_case():
    values = ["a", "A", "a ", "a b", "a-b", "a+b", "ab/c", "ab-c", "x" * 200, "x" * 201, "1", "1.0"]
    cells = [[f"k={value}"] for value in values] + [["a=1", "b=2"], ["a=1+b-2"], ["a=1+b=2"]]
    assert len({cell_name(cell) for cell in cells}) == len(cells)
