"""Hydra's overrides, the words of a command line, as Hydra's own parser reads them."""

from functools import cache
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException


class Assignment(NamedTuple):
    """`prior.lambda=0`, `+key=value` or `~key`, in parts."""

    prefix: str  # "", "+", "++", or "~", which deletes the key
    key: str  # "prior.lambda"; of a group that goes to another package, "group@package"
    value: str  # as it was typed: 1e-4 stays 1e-4; "" of a deletion


@cache
def assignment(override: str) -> Assignment:
    """The parts of an override. ValueError if Hydra cannot read it."""
    try:
        name = OverridesParser.create().parse_override(override).get_key_element()
    except HydraException as error:
        raise ValueError(f"Hydra cannot read the override {override!r}: {error}") from error
    key = name.lstrip("+~")
    return Assignment(name.removesuffix(key), key, override.partition("=")[2])
