import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from dreambooth.callbacks.checkpoints import AtomicCheckpoints, Checkpoints
from dreambooth.run import Run


class Line(L.LightningModule):
    """The smallest thing that trains."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch, _):
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(run, max_steps, every_n_steps):
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        logger=False,
        callbacks=[Checkpoints(run, every_n_steps)],
        plugins=[AtomicCheckpoints()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Line(), DataLoader(torch.ones(max_steps, 1)))


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", {"prior": {"lambda": 1}, "overrides": []})


def test_the_last_checkpoint_stays_alone_with_the_runs_config_inside(run):
    fit(run, max_steps=5, every_n_steps=2)
    (path,) = run.checkpoints.iterdir()
    assert path.name == "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["global_step"] == 4
    assert checkpoint["config"] == run.config


def test_a_failure_half_way_leaves_the_checkpoint_before_whole(run, monkeypatch):
    fit(run, max_steps=1, every_n_steps=1)
    before = (run.checkpoints / "last.ckpt").read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dreambooth.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fit(run, max_steps=1, every_n_steps=1)
    (path,) = run.checkpoints.iterdir()
    assert path.read_bytes() == before


def test_a_checkpoint_is_renamed_within_its_own_folder(run, monkeypatch):
    """A temporary file elsewhere may be on another device, from where it is copied, not renamed."""
    from pathlib import Path

    renamed, replace = [], Path.replace

    def watched(source, target):
        renamed.append((source.parent, Path(target).parent))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", watched)
    AtomicCheckpoints().save_checkpoint({"x": torch.ones(2)}, run.checkpoints / "last.ckpt")
    assert renamed == [(run.checkpoints, run.checkpoints)]
    loaded = AtomicCheckpoints().load_checkpoint(run.checkpoints / "last.ckpt")
    assert torch.equal(loaded["x"], torch.ones(2))
