import pytest

from dreambooth.runs.overrides import assignment


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("prior.lambda=1e-5", ("", "prior.lambda", "1e-5")),
        ("+c='x=y'", ("+", "c", "'x=y'")),
        ("++d=", ("++", "d", "")),
        ("~e", ("~", "e", "")),
        ("class@other=none", ("", "class@other", "none")),
        ("hydra/launcher=a b ", ("", "hydra/launcher", "a b ")),
    ],
)
def test_an_override_is_read_in_parts_and_its_value_as_it_was_typed(override, parts):
    assert assignment(override) == parts


def test_what_hydra_cannot_read_is_named():
    with pytest.raises(ValueError, match="Hydra cannot read the override 'a b'"):
        assignment("a b")
