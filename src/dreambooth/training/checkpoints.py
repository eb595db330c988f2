"""Checkpoints. A resumed run ends with the same bits as an uninterrupted one.

checkpoints/STAGE-STEP.ckpt      the full state of a stage's training, before that step
            STAGE-trained.pt     the weights of a stage whose training is complete
"""

import logging
import random
import signal
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from dreambooth.distributed.preemption import StoppedError, listen_for, stop_requested
from dreambooth.runs.files import atomic_file
from dreambooth.runs.run import Run

log = logging.getLogger(__name__)

_NUM_KEPT = 2  # checkpoints of a stage


class Checkpoints(Checkpoint):
    """Saves a checkpoint every `every_n_steps` steps, and when the run is asked to stop.

    When asked to stop, it raises StoppedError after saving. The last two checkpoints are kept.

    A checkpoint is saved as a step begins, because then the loggers have all values of the step
    before. It contains the run's config and the states of the global random generators of rank 0.
    The draws of TrainingDraws are keyed and need no state.
    """

    def __init__(self, run: Run, stage: str, every_n_steps: int):
        self.run, self.stage, self.every_n_steps = run, stage, every_n_steps
        self._random_states: dict[str, Any] | None = None  # of the checkpoint that was loaded
        self._first_step = 0

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._random_states = checkpoint["random_streams"]
        self._first_step = checkpoint["global_step"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Again, since Lightning's own handlers would end the training unsaved.
        listen_for(signal.SIGTERM, signal.SIGINT)
        if self._random_states is not None:  # not earlier, since loading data changes the states
            _restore_random_states(self._random_states)
        if trainer.is_global_zero:
            for path in _checkpoints(self.run, self.stage):
                # A checkpoint after the one that was loaded is damaged.
                if path.name > self._name(self._first_step):
                    path.unlink()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        # The ranks receive a signal at different moments, and must agree to save together.
        stop = trainer.strategy.reduce_boolean_decision(stop_requested.is_set(), all=False)
        if step > self._first_step and (stop or step % self.every_n_steps == 0):
            for logger in trainer.loggers:
                logger.save()
            trainer.save_checkpoint(self.run.checkpoints / self._name(step))
            if trainer.is_global_zero:
                for old in _checkpoints(self.run, self.stage)[_NUM_KEPT:]:
                    old.unlink()
        if stop:
            stop_requested.set()  # on every rank
            raise StoppedError(f"stopped as asked, at step {step} of {trainer.max_steps}")

    def _name(self, step: int) -> str:
        return f"{self.stage}-{step:08d}.ckpt"

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["config"] = dict(self.run.config)
        checkpoint["random_streams"] = _random_states()
        # Lightning has already counted the batch that is about to begin. A resume must repeat it.
        for count in checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"].values():
            if isinstance(count, dict):
                count["ready"] = count["started"]


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints atomically: a full disk or a kill leaves the previous file intact.

    Lightning's own class writes to /tmp first. If this is another file system than the run
    folder's, the file is then copied over the previous one, which is not atomic.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(Path(path)) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's error hides that of a full disk
                raise error.__context__ or error from None


def newest_checkpoint(run: Run, stage: str) -> Path | None:
    """The newest intact checkpoint of a stage, if any. Logs a warning for each damaged one."""
    return next(filter(_is_intact, _checkpoints(run, stage)), None)


def save_trained(run: Run, stage: str, weights: dict[str, torch.Tensor]) -> None:
    """Save the weights of a stage whose training is complete."""
    AtomicCheckpoints().save_checkpoint(weights, _trained_path(run, stage))


def read_trained(run: Run, stage: str) -> dict[str, torch.Tensor] | None:
    """Read the weights that `save_trained` saved; None if there are none, or if they are damaged.

    Logs a warning if they are damaged.
    """
    path = _trained_path(run, stage)
    if not path.exists() or not _is_intact(path):
        return None
    weights: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def _trained_path(run: Run, stage: str) -> Path:
    return run.checkpoints / f"{stage}-trained.pt"


def _checkpoints(run: Run, stage: str) -> list[Path]:
    """The checkpoints of a stage, newest first."""
    return sorted(run.checkpoints.glob(f"{stage}-*.ckpt"), reverse=True)


def _is_intact(path: Path) -> bool:
    """Whether a file saved by torch is undamaged: it is a ZIP archive with checksums."""
    try:
        with ZipFile(path) as archive:
            damage = archive.testzip()
    except (BadZipFile, EOFError, NotImplementedError, OSError) as error:
        damage = str(error)
    if damage:
        log.warning("%s is damaged (%s): resuming from what was saved before it", path, damage)
    return not damage


def _random_states() -> dict[str, Any]:
    """The states of the global random generators, in types that a weights-only load can read."""
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    mt19937 = numpy_state["state"]
    return {
        "python": random.getstate(),
        "numpy": numpy_state | {"state": mt19937 | {"key": mt19937["key"].tolist()}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _restore_random_states(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"].cpu())
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
