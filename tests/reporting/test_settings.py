"""The settings of composed configs, as the report names them."""

import pytest
from adapters_of_conf import NAMES
from commands import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dreambooth.reporting.settings import settings_of


def composed(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return OmegaConf.to_container(compose("train", [*overrides]), resolve=True)


@pytest.mark.parametrize("name", ["none", *NAMES])
def test_an_adapter_has_the_name_of_its_file_and_the_seed_is_no_axis(name):
    one, other = (settings_of(composed(f"adapter={name}", f"seed={seed}")) for seed in (0, 1))
    assert one["adapter"] == name
    assert one == other
