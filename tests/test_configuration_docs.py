"""docs/configuration.md is what docs/configuration.py writes, and leaves nothing of conf/ out."""

import runpy

import pytest
from commands import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

PAGE = ROOT / "docs/configuration.md"


def keys_of(config, prefix=""):
    """The keys of a config that hold a value, but for Hydra's `_partial_`."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from keys_of(value, f"{prefix}{key}.")
        elif key != "_partial_":
            yield f"{prefix}{key}"


def test_the_page_is_what_the_script_writes_from_conf():
    written = runpy.run_path(str(ROOT / "docs/configuration.py"))["page"]()
    assert PAGE.read_text() == written, "run: python docs/configuration.py"


@pytest.mark.parametrize(
    ("script", "choices"),
    [
        ("train", []),
        ("train", ["subject=folder", "model=sd15", "metrics=paper", "launcher=slurm"]),
        ("train", ["callbacks=score_curves", "trainer=gpu", "sr=off", "class=none"]),
        ("evaluate", ["subject=tick"]),
        ("generate", []),
        ("report", []),
        ("plan", []),
        ("check", ["model=sdxl"]),
    ],
)
def test_every_key_of_a_composed_config_is_on_the_page(script, choices):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = OmegaConf.to_container(compose(script, choices))
    text = PAGE.read_text()
    keys = list(keys_of(config))
    assert keys
    assert [key for key in keys if f"| `{key}` |" not in text] == []


def test_the_allowed_values_stand_beside_a_key_in_the_words_of_its_type():
    (row,) = [line for line in PAGE.read_text().splitlines() if line.startswith("| `method.max_s")]
    assert row.split(" | ")[-2] == "a whole number from 1 up"
