"""Tests of many kinds of one thing, of which -m "not slow" has some."""

from collections.abc import Mapping
from typing import Any

import pytest


def each(kinds: Mapping[str, Any], *quick: str) -> list[Any]:
    """A parameter of each kind, with its name as id; all but `quick` are slow."""
    assert {*quick} <= kinds.keys()
    slow = pytest.mark.slow
    return [
        pytest.param(kind, id=name, marks=() if name in quick else slow)
        for name, kind in kinds.items()
    ]
