"""The settings of composed configs, as the report names them."""

import pytest
from adapters_of_conf import NAMES, composed
from kinds import each

from dreambooth.reporting.settings import settings_of


@pytest.mark.parametrize("name", each({name: name for name in ("none", *NAMES)}, "none", "lora"))
def test_an_adapter_has_the_name_of_its_file_and_the_seed_is_no_axis(name):
    one, other = (settings_of(composed(f"adapter={name}", f"seed={seed}")) for seed in (0, 1))
    assert one["adapter"] == name
    assert one == other


def test_a_revision_is_another_model():
    def model(**backbone):
        return settings_of({"model": {"backbone": {"pretrained": "someone/sd", **backbone}}})

    assert model()["model"] == model(revision=None)["model"] == "sd"
    assert model(revision="v1")["model"] == "sd at v1"
