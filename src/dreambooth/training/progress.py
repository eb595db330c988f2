"""Report the progress of a run while it trains."""

import time
from typing import Any

import lightning as L

from dreambooth.runs.run import Run

_SECONDS_BETWEEN_WRITES = 5.0


class Progress(L.Callback):
    """Logs `time/step_ms`, and writes the fraction of completed steps to status.json."""

    def __init__(self, run: Run):
        self.run = run

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._last_step = self._last_write = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        now = time.monotonic()
        pl_module.log("time/step_ms", 1e3 * (now - self._last_step), batch_size=1)
        self._last_step = now
        if now - self._last_write > _SECONDS_BETWEEN_WRITES and trainer.is_global_zero:
            self._last_write = now
            before = getattr(pl_module, "fraction_before", 0.0)
            here = getattr(pl_module, "fraction_here", 1.0)
            done = before + here * trainer.global_step / trainer.max_steps
            self.run.set_status("running", progress=done)
