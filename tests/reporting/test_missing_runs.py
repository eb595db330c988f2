"""The settings of a run that a sweep planned and that does not exist."""

import pytest
import yaml
from commands import ROOT
from hydra import compose, initialize_config_dir
from made_up import made_up_sweep

from dreambooth.reporting.missing_runs import PlacedRun, place_of
from dreambooth.reporting.settings import words
from dreambooth.reporting.study import read_study


def hydra():
    """Hydra is ready, as in the commands."""
    return initialize_config_dir(str(ROOT / "conf"), version_base="1.3")


@pytest.fixture
def rates():
    """Adapter -> its learning rate in conf/."""
    with hydra():
        configs = {name: compose("train", [f"adapter={name}"]) for name in ("none", "lora", "hra")}
    rates = {name: config.method.module.learning_rate for name, config in configs.items()}
    assert len(set(rates.values())) == 3
    return rates


def adapters_sweep(folder, rates, missing):
    subjects = ("biscuit", "comet")
    sweep = made_up_sweep(folder, subjects, axes={"adapter": tuple(rates)}, missing=missing)
    for number in set(range(6)) - set(missing):
        file = sweep / f"{number}/config.yaml"
        config = yaml.safe_load(file.read_text())
        config["method"]["module"]["learning_rate"] = list(rates.values())[number // 2]
        file.write_text(yaml.safe_dump(config))
    return sweep


def rate_note(rates):
    each = [f"{words(rate)} with dreambooth, miniature, {name}" for name, rate in rates.items()]
    note = "method.module.learning_rate depends on method, model and adapter: "
    return note + "; ".join(each)


# Without a plan, an adapter that has no run at all is not known.
@pytest.mark.parametrize(
    ("missing", "has_plan"),
    [([5], True), ([1, 4], True), ([4, 5], True), ([5], False), ([1, 4], False)],
)
def test_a_missing_run_of_an_adapter_has_the_learning_rate_of_its_adapter(
    tmp_path, rates, missing, has_plan
):
    sweep = adapters_sweep(tmp_path / "s", rates, missing)
    if not has_plan:
        (sweep / "multirun.yaml").unlink()
    with hydra():
        study = read_study([sweep])
    assert study.axes == ("adapter",)
    assert [len(cell.trials) for cell in study.cells] == [2, 2, 2]
    assert [cell.settings["adapter"] for cell in study.cells] == ["none", "lora", "hra"]
    assert {trial.subject for trial in study.cells[2].trials} == {"biscuit", "comet"}
    assert sorted(note for note in study.notes if "rate" in note) == [rate_note(rates)]


def test_outside_of_hydra_a_setting_that_may_depend_on_the_adapter_is_left_out(tmp_path, rates):
    study = read_study([adapters_sweep(tmp_path / "s", rates, [4, 5])])
    assert [len(cell.trials) for cell in study.cells] == [2, 2, 2]
    rates.pop("hra")
    assert [note for note in study.notes if "rate" in note] == [rate_note(rates)]


def test_a_subject_without_runs_has_the_same_name_in_all_cells():
    def overrides(adapter, noun):
        return (f"adapter={adapter}", "subject=miniature", "subject.seed=701", noun)

    dog = overrides("none", "subject.class_noun=dog")
    with hydra():
        runs = [PlacedRun(place_of(dog, []), list(dog))]
        cats = [place_of(overrides(a, "subject.class_noun=cat"), runs) for a in ("none", "lora")]
    assert [place["subject"] for place in cats] == ["cat 701", "cat 701"]
    assert [place["adapter"] for place in cats] == ["none", "lora"]
    assert runs[0].place["subject"] == "dog 701"
