import copy

import pytest
from adapters_of_conf import composed

from dreambooth.runs.earlier import changed_groups


@pytest.fixture(scope="module")
def config():
    return composed()


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


@pytest.mark.parametrize(
    ("words", "group"),
    [
        ("prior.lambda=0", "prior"),
        ("prior=output", "prior"),
        ("seed=1", "seed"),
        ("method.train_text_encoder=true", "method"),
        ("adapter=lora", "method"),
        ("subject.name=other", "subject"),
    ],
)
def test_another_setting_is_found(config, words, group):
    other = composed(words)
    assert group in changed_groups(config, other)
    assert group in changed_groups(other, config)
