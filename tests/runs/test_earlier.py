import copy

import pytest
from adapters_of_conf import composed

from dreambooth.runs.earlier import changed_groups


@pytest.fixture(scope="module")
def config():
    return run_of()


def run_of(*overrides):
    return {**composed(*overrides), "overrides": [*overrides]}


def test_the_run_of_an_older_version_is_the_same_without_what_it_lacked(config):
    older = copy.deepcopy(config)
    del older["prior"]["kind"]
    del older["method"]["train_text_encoder"], older["method"]["text_encoder_learning_rate"]
    older["method"]["tuning"] = {
        "_target_": "dreambooth.methods.dreambooth.DreamBooth",
        "train": "all",
        "train_sr": "all",
    }
    older["prior"]["cache"] = "elsewhere"
    assert changed_groups(older, config) == []
    assert changed_groups(older, run_of("prior.cache=null")) == []
    assert changed_groups(older, run_of("prior.kind=output")) == ["prior"]
    assert changed_groups(older, run_of("method.train_text_encoder=true")) == ["method"]


@pytest.mark.parametrize(
    ("words", "group"),
    [
        ("prior.lambda=0", "prior"),
        ("prior=output", "prior"),
        ("seed=1", "seed"),
        ("method.train_text_encoder=true", "method"),
        ("adapter=lora", "method"),
        ("subject.name=other", "subject"),
        ("subject.seed=8", "subject"),
    ],
)
def test_another_setting_is_found(config, words, group):
    other = run_of(words)
    assert group in changed_groups(config, other)
    assert group in changed_groups(other, config)
