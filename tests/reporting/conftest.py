"""No floor that was measured before, unless a test writes one."""

import pytest

FLOORS = "dreambooth.reporting.floor.FLOORS"


@pytest.fixture(scope="module", autouse=True)
def without_floor(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FLOORS, tmp_path_factory.mktemp("floors"))
        yield


@pytest.fixture
def no_floor(tmp_path, monkeypatch):
    """The folder of floors, which does not exist yet."""
    monkeypatch.setattr(FLOORS, tmp_path / "floors")
    return tmp_path / "floors"
