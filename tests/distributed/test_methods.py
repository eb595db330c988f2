"""An adapter, a new word and a text encoder are trained by two processes as by one."""

from pathlib import Path

import pytest
import torch
from commands import ROOT, command, process, same_files, smoke
from safetensors.torch import load_file

from dreambooth.runs.run import Run

pytestmark = pytest.mark.slow

WORDS = {
    "adapter": ("adapter=lora",),
    "textual_inversion": ("method=textual_inversion",),
    "text_encoder": ("method.train_text_encoder=true", "sr=noise_1e-3"),
}
SMALL = ("logger=csv", "metrics=none", "method.max_steps=6", "sr.max_steps=2")


@pytest.fixture(scope="module", params=WORDS.values(), ids=WORDS)
def runs(request, tmp_path_factory, tiny):
    """The same run by one process, by two, and by two that are asked to stop at a step."""
    folder = tmp_path_factory.mktemp("methods")
    told = f"+callbacks.told={{_target_: unlucky.Told, step: 3, once: {folder / 'told'}}}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{Path(__file__).parent}")
        for name, words in {"1": [], "2": [], "stopped": [told]}.items():
            prior = folder / "prior"  # drawn once: by how many makes no difference
            own = (*smoke(tiny, prior), *SMALL, *request.param, f"hydra.run.dir={folder / name}")
            if name == "1":  # in this process, which has imported all
                ended = command("train", *own)
            else:
                ended = process("src/train.py", *own, "trainer.devices=2", *words)
            assert ended.code == (0 if name != "stopped" else 1), ended.output
        ended = process("src/train.py", f"run={folder / 'stopped'}")
        assert ended.code == 0, ended.output
        assert "resuming from" in ended.output
    return folder


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
