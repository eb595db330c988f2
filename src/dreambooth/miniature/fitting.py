"""How each model of the miniature is trained: optimizer, resuming, averaging of the weights."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from dreambooth.methods.two_terms import learning_rate_factor
from dreambooth.miniature.muon import HAS_FAST_BF16


def decaying_adamw(
    parameters: Any,
    lr: float,
    num_steps: int,
    warmup_steps: int = 200,
    cooldown_fraction: float = 0.3,
) -> dict[str, Any]:
    """Return AdamW and its schedule for Lightning: the learning rate warms up, stays constant, and
    falls to 0 over the last `cooldown_fraction` of the steps."""
    optimizer = torch.optim.AdamW(
        parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )

    def factor(step: int) -> float:
        return min(
            (step + 1) / warmup_steps, learning_rate_factor(step, num_steps, cooldown_fraction)
        )

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class StepsFrom(Sampler):
    """Yields the step numbers from `start` on.

    Its length is that of all steps, because Lightning also counts the steps before `start`.
    """

    def __init__(self, start: int, num_steps: int):
        self.start, self.num_steps = start, num_steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.num_steps))

    def __len__(self) -> int:
        return self.num_steps


def fit(
    module: L.LightningModule,
    batches: Dataset,
    num_steps: int,
    folder: Path,
    ema_decay: float,
    save_every: int = 500,
    max_minutes: float | None = None,
) -> bool:
    """Train the module up to `num_steps` and leave the averaged weights in it.

    Resumes from the checkpoint in `folder`, if there is one. Stops early after `max_minutes`; the
    same call then goes on. Returns whether all steps are done.
    """
    from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
    from torch.optim.swa_utils import get_ema_multi_avg_fn

    last, done = folder / "last.ckpt", 0
    if last.is_file():
        checkpoint = torch.load(last, map_location="cpu", mmap=True, weights_only=False)
        done = checkpoint["global_step"]
        if done >= num_steps:  # `state_dict` holds the averaged weights
            module.load_state_dict(checkpoint["state_dict"])
            return True
    trainer = L.Trainer(
        max_steps=num_steps,
        max_time=None if max_minutes is None else timedelta(minutes=max_minutes),
        accelerator="auto",
        devices=1,
        precision="bf16-mixed" if HAS_FAST_BF16 else "32-true",
        logger=False,
        callbacks=[
            ModelCheckpoint(
                folder,
                filename="last",
                every_n_train_steps=save_every,
                enable_version_counter=False,
            ),
            WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(ema_decay)),
        ],
        enable_model_summary=False,
    )
    loader = DataLoader(batches, batch_size=None, sampler=StepsFrom(done, num_steps))
    trainer.fit(module, loader, ckpt_path=last if done else None, weights_only=False)
    return trainer.global_step >= num_steps
