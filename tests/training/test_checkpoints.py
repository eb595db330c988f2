import random

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.utils.data import DataLoader

from dreambooth.distributed import preemption
from dreambooth.distributed.preemption import StoppedError
from dreambooth.runs.run import Run
from dreambooth.training.checkpoints import (
    AtomicCheckpoints,
    Checkpoints,
    newest_checkpoint,
    read_trained,
    save_trained,
)
from dreambooth.training.draws import Batches
from dreambooth.training.loggers import History

STEPS = 9


class Line(L.LightningModule):
    """The smallest thing that trains, and draws from every global random stream."""

    def __init__(self, dies_at=None):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.dropout = nn.Linear(1, 8), nn.Dropout(0.5)
        self.dies_at = dies_at
        self.seen = []

    def training_step(self, batch, _):
        if self.global_step == self.dies_at:
            raise RuntimeError("killed")
        self.seen.append(batch.flatten().tolist())
        loss = self.dropout(self.layer(batch)).square().mean()
        loss = loss * (1 + random.random()) * (1 + np.random.random())
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(run, dies_at=None, every_n_steps=2, ema=False, stage="base", log_every_n_steps=1):
    """A process's share of a training: from the newest checkpoint to the end, or to its death."""
    module = Line(dies_at)
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(5)
    averages = [EMAWeightAveraging(decay=0.8)] if ema else []
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        max_epochs=1,
        logger=History(run),
        log_every_n_steps=log_every_n_steps,
        callbacks=[Checkpoints(run, stage, every_n_steps), *averages],
        plugins=[AtomicCheckpoints()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    samples = torch.arange(2.0 * STEPS)[:, None]
    batches = Batches(STEPS, 2, lambda: module.global_step)
    loader = DataLoader(samples, batch_sampler=batches)
    path = newest_checkpoint(run, stage)
    try:
        trainer.fit(module, loader, ckpt_path=path, weights_only=True)
    except RuntimeError as error:
        if str(error) != "killed":
            raise
    return module


def new_run(folder):
    return Run.create(folder, {"prior": {"lambda": 1}, "overrides": []})


@pytest.fixture
def run(tmp_path):
    return new_run(tmp_path / "run")


def names(run):
    return sorted(path.name for path in run.checkpoints.iterdir())


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("log_every_n_steps", [1, 3])
def test_a_killed_training_resumes_with_the_same_weights_samples_and_rows(
    run, tmp_path, ema, log_every_n_steps
):
    how = {"ema": ema, "log_every_n_steps": log_every_n_steps}
    undisturbed = new_run(tmp_path / "undisturbed")
    expected = fit(undisturbed, **how)
    first, second = fit(run, dies_at=5, **how), fit(run, dies_at=8, **how)
    last = fit(run, **how)
    assert [first.seen, second.seen, last.seen] == [
        expected.seen[:5],
        expected.seen[4:8],
        expected.seen[8:],
    ]
    assert same_weights(last, expected)
    assert not same_weights(last, first)
    rows = [r.read_history() for r in (run, undisturbed)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == STEPS // log_every_n_steps


def test_the_module_has_the_averaged_weights_after_training(run, tmp_path):
    assert not same_weights(fit(run, ema=True), fit(new_run(tmp_path / "plain")))


def test_the_last_two_checkpoints_are_kept_and_contain_the_run_s_config(run):
    fit(run)
    assert names(run) == ["base-00000006.ckpt", "base-00000008.ckpt"]
    checkpoint = torch.load(run.checkpoints / "base-00000008.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 8
    assert checkpoint["config"] == run.config


@pytest.mark.parametrize("damage", ["short", "flipped", "empty"])
def test_if_the_newest_checkpoint_is_damaged_the_previous_one_is_used_with_a_warning(
    run, tmp_path, caplog, damage
):
    expected = fit(new_run(tmp_path / "undisturbed"))
    fit(run, dies_at=7)
    newest = run.checkpoints / "base-00000006.ckpt"
    whole = newest.read_bytes()
    middle = whole.index(b"PK\x01\x02") // 2  # of the parts, before their directory
    flipped = bytes([whole[middle] ^ 1])
    newest.write_bytes(
        {
            "short": whole[:-100],
            "flipped": whole[:middle] + flipped + whole[middle + 1 :],
            "empty": b"",
        }[damage]
    )
    again = fit(run)
    assert "base-00000006.ckpt is damaged" in caplog.text
    assert again.seen == expected.seen[4:]
    assert same_weights(again, expected)


def test_if_all_checkpoints_are_damaged_they_are_deleted_and_training_starts_again(run):
    fit(run, dies_at=5)
    for path in run.checkpoints.iterdir():
        path.write_bytes(b"")
    assert len(fit(run, dies_at=1).seen) == 1
    assert names(run) == []


def test_a_stop_saves_at_the_end_of_the_step_and_ends_the_training(run, tmp_path, monkeypatch):
    expected = fit(new_run(tmp_path / "undisturbed"))

    def stop_in(module, step):
        if module.global_step == step:
            preemption.stop_requested.set()

    step = Line.training_step
    monkeypatch.setattr(
        Line, "training_step", lambda self, *args: (stop_in(self, 2), step(self, *args))[1]
    )
    with pytest.raises(StoppedError, match="at step 3 of 9"):
        fit(run, every_n_steps=100)
    assert names(run) == ["base-00000003.ckpt"]
    with pytest.raises(StoppedError):  # still asked: nothing is done, nothing is lost
        fit(run, every_n_steps=100)
    preemption.stop_requested.clear()
    again = fit(run, every_n_steps=100)
    assert again.seen == expected.seen[3:]
    assert same_weights(again, expected)


@pytest.fixture(autouse=True)
def nobody_asks():
    yield
    preemption.stop_requested.clear()


def test_each_stage_has_separate_checkpoints(run):
    fit(run, dies_at=5)
    assert newest_checkpoint(run, "sr") is None
    fit(run, stage="sr")
    assert len(names(run)) == 4


def test_the_weights_of_a_trained_stage_are_loaded_unless_damaged(run, caplog):
    assert read_trained(run, "base") is None
    weights = Line().state_dict()
    save_trained(run, "base", weights)
    found = read_trained(run, "base")
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    (path,) = run.checkpoints.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert read_trained(run, "base") is None
    assert "base-trained.pt is damaged" in caplog.text


def test_a_failure_while_writing_leaves_the_previous_checkpoint_intact(run, monkeypatch):
    path = run.checkpoints / "x.ckpt"
    AtomicCheckpoints().save_checkpoint({"x": torch.ones(2)}, path)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dreambooth.runs.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpoints().save_checkpoint({"x": torch.zeros(2)}, path)
    assert names(run) == ["x.ckpt"]
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
