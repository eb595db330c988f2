"""Checkpoints that say what they are of."""

import io
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from dreambooth.files import write_atomically
from dreambooth.run import Run


class Checkpoints(ModelCheckpoint):
    """checkpoints/last.ckpt every `every_n_steps` steps, the run's config inside."""

    def __init__(self, run: Run, every_n_steps: int):
        super().__init__(
            dirpath=run.checkpoints,
            filename="last",
            every_n_train_steps=every_n_steps,
            enable_version_counter=False,
            save_top_k=1,
        )
        self.run = run

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["config"] = dict(self.run.config)


class AtomicCheckpoints(TorchCheckpointIO):
    """A full disk or a kill leaves the checkpoint before whole.

    Lightning's own goes through a temporary file in /tmp, and where that is another file system
    than the run folder's it is copied over the checkpoint before.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), content.getvalue())
