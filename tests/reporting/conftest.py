"""No floor that was measured before, unless a test writes one."""

import pytest


@pytest.fixture(autouse=True)
def no_floor(tmp_path, monkeypatch):
    monkeypatch.setattr("dreambooth.reporting.floor.FLOORS", tmp_path / "floors")
    return tmp_path / "floors"
