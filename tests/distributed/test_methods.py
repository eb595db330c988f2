"""An adapter, a new word and a text encoder are trained by two processes as by one."""

from pathlib import Path

import pytest
import torch
from commands import ROOT, command, in_turn_by_two, same_files, smoke
from safetensors.torch import load_file

from dreambooth.runs.run import Run

pytestmark = pytest.mark.slow

WORDS = {
    "adapter": ("adapter=lora",),
    "textual_inversion": ("method=textual_inversion",),
    "text_encoder": ("method.train_text_encoder=true", "sr=noise_1e-3"),
}
SMALL = ("logger=csv", "metrics=none", "method.max_steps=6", "sr.max_steps=2")


@pytest.fixture(scope="module")
def runs_of_all(tmp_path_factory, tiny):
    """The same run by one process, by two, and by two that are asked to stop at a step."""
    root = tmp_path_factory.mktemp("methods")
    runs = []
    for method, words in WORDS.items():
        folder = root / method
        # The prior images are drawn once: by how many makes no difference.
        own = (*smoke(tiny, root / "prior"), *SMALL, *words)
        told = f"+callbacks.told={{_target_: unlucky.Told, step: 3, once: {root / method}-told}}"
        ended = command("train", *own, f"hydra.run.dir={folder / '1'}")
        assert ended.code == 0, ended.output
        two = (*own, "trainer.devices=2")
        runs += [(0, (*two, f"hydra.run.dir={folder / '2'}"))]
        runs += [(1, (*two, told, f"hydra.run.dir={folder / 'stopped'}"))]
        runs += [(0, (f"run={folder / 'stopped'}",))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{Path(__file__).parent}")
        ended = in_turn_by_two(*runs)
    assert ended.output.count("resuming from") == len(WORDS)
    return root


@pytest.fixture(params=WORDS)
def runs(request, runs_of_all):
    return runs_of_all / request.param


def losses(run):
    names = [f"{stage}loss/{term}" for stage in ("", "sr/") for term in ("subject", "prior")]
    rows = run.read_history()
    return torch.tensor([row[name] for name in names for row in rows if name in row])


def test_two_processes_train_as_one_does(runs):
    one, two = Run.load_finished(runs / "1"), Run.load_finished(runs / "2")
    assert len(losses(one)) >= 6
    torch.testing.assert_close(losses(two), losses(one), rtol=0, atol=1e-4)
    changed = False
    for path in one.weights.rglob("*.safetensors"):
        ours = load_file(two.weights / path.relative_to(one.weights))
        for name, weight in load_file(path).items():
            torch.testing.assert_close(ours[name], weight, rtol=0, atol=1e-3)
            changed = changed or weight.abs().max() > 1e-2
    assert changed


def test_two_processes_that_are_asked_to_stop_go_on_to_the_same_bits(runs):
    for pattern in ("weights/**/*.safetensors", "images/**/*.png"):
        assert same_files(runs / "2", runs / "stopped", pattern)
