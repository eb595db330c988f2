"""Checkpoints to go on from to the same bits: whole or passed over.

checkpoints/STAGE-STEP.ckpt      all that the training of a stage follows from, before that step
            STAGE-trained.pt     the weights of a stage that is trained, as a later stage's training
                                 and the drawing of pictures find them
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

_KEPT = 2


class Checkpoints(Checkpoint):
    """One every `every_n_steps` steps, and one where a stop is asked for, which then stops with
    StoppedError. The last two of a stage stay.

    Saved as a step begins, when the loggers have all that the step before has said. The run's
    config is inside, and the states of the global random streams of the first process; the draws of
    TrainingDraws are keyed and need none.
    """

    def __init__(self, run: Run, stage: str, every_n_steps: int):
        self.run, self.stage, self.every_n_steps = run, stage, every_n_steps
        self._streams: dict[str, Any] | None = None  # as they are to be found again
        self._first_step = 0

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._streams = checkpoint["random_streams"]
        self._first_step = checkpoint["global_step"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        listen_for(signal.SIGTERM)  # again: Lightning's own handler ends a training unsaved
        if self._streams is not None:  # now, since loading data has drawn from them
            _restore_streams(self._streams)
        if trainer.is_global_zero:
            for path in _checkpoints(self.run, self.stage):
                if path.name > self._name(self._first_step):  # damaged: passed over
                    path.unlink()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        # Processes hear of a stop at different moments, and save together.
        stop = trainer.strategy.reduce_boolean_decision(stop_requested.is_set(), all=False)
        if step > self._first_step and (stop or step % self.every_n_steps == 0):
            for logger in trainer.loggers:
                logger.save()
            trainer.save_checkpoint(self.run.checkpoints / self._name(step))
            if trainer.is_global_zero:
                for old in _checkpoints(self.run, self.stage)[_KEPT:]:
                    old.unlink()
        if stop:
            stop_requested.set()  # in every process
            raise StoppedError(f"stopped as asked, at step {step} of {trainer.max_steps}")

    def _name(self, step: int) -> str:
        return f"{self.stage}-{step:08d}.ckpt"

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["config"] = dict(self.run.config)
        checkpoint["random_streams"] = _streams()
        # Lightning has counted the batch that is about to begin; it is to be done again.
        for count in checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"].values():
            if isinstance(count, dict):
                count["ready"] = count["started"]


class AtomicCheckpoints(TorchCheckpointIO):
    """A full disk or a kill leaves the checkpoint before whole.

    Lightning's own goes through a temporary file in /tmp, and where that is another file system
    than the run folder's it is copied over the checkpoint before.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(Path(path)) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's own, of a full disk too
                raise error.__context__ or error from None


def newest_checkpoint(run: Run, stage: str) -> Path | None:
    """The newest that is whole, if any; a damaged one is said."""
    return next(filter(_is_whole, _checkpoints(run, stage)), None)


def save_trained(run: Run, stage: str, weights: dict[str, torch.Tensor]) -> None:
    """Keep the weights of a stage that is trained."""
    AtomicCheckpoints().save_checkpoint(weights, _trained(run, stage))


def read_trained(run: Run, stage: str) -> dict[str, torch.Tensor] | None:
    """Those weights; None where there are none yet, or a damaged file, which is said."""
    path = _trained(run, stage)
    if not path.exists() or not _is_whole(path):
        return None
    found: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return found


def _trained(run: Run, stage: str) -> Path:
    return run.checkpoints / f"{stage}-trained.pt"


def _checkpoints(run: Run, stage: str) -> list[Path]:
    """Of a stage, the newest first."""
    return sorted(run.checkpoints.glob(f"{stage}-*.ckpt"), reverse=True)


def _is_whole(path: Path) -> bool:
    """What torch saves is a ZIP archive, with a checksum for each part."""
    try:
        with ZipFile(path) as archive:
            damaged = archive.testzip()
    except (BadZipFile, EOFError, NotImplementedError, OSError) as error:
        damaged = str(error)
    if damaged:
        log.warning("%s is damaged (%s): going on from what was saved before it", path, damaged)
    return not damaged


def _streams() -> dict[str, Any]:
    """The states of the global random streams, in types that a weights-only load reads."""
    numpy = np.random.get_state(legacy=False)
    assert isinstance(numpy, dict)
    return {
        "python": random.getstate(),
        "numpy": numpy | {"state": numpy["state"] | {"key": numpy["state"]["key"].tolist()}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _restore_streams(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"].cpu())
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
