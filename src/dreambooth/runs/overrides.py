"""Command-line overrides, parsed by Hydra's own parser."""

from functools import cache
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException


class Assignment(NamedTuple):
    """The parts of an override: `prior.lambda=0`, `+key=value` or `~key`."""

    prefix: str  # "", "+" or "++"; "~" deletes the key
    key: str  # "prior.lambda", or "group@package" for a group in another package
    value: str  # as typed: 1e-4 stays "1e-4"; "" for a deletion


@cache
def assignment(override: str) -> Assignment:
    """Split an override into its parts. ValueError if Hydra cannot read it."""
    try:
        name = OverridesParser.create().parse_override(override).get_key_element()
    except HydraException as error:
        raise ValueError(f"Hydra cannot read the override {override!r}: {error}") from error
    key = name.lstrip("+~")
    return Assignment(name.removesuffix(key), key, override.partition("=")[2])
