"""`kill -9` and Ctrl-C at random moments; `benchmarks/kills.py` does more of them."""

import pytest
from commands import process, smoke

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("signum", "number"), [("SIGKILL", 2), ("SIGINT", 3)])
def test_kills_and_ctrl_c_at_random_moments_change_no_bit(tiny, tmp_path, signum, number):
    own = (
        *smoke(tiny, tmp_path / "prior"),
        "logger=csv",
        "method.max_steps=40",
        "method.checkpoint_every=4",
        "drawing.images_per_prompt=4",
    )
    ended = process("benchmarks/kills.py", signum, number, 0, *own)
    assert ended.code == 0, ended.output
    assert f"{number} kills (" in ended.output
    assert ended.output.strip().endswith("same bits as the uninterrupted one")
