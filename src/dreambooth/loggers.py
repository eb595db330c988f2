"""Where losses, pictures and scores go: Weights & Biases, or a CSV file."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from dreambooth.run import Metric, Picture

_LONGEST_NAME = 128  # of W&B


def wandb_logger(
    folder: Path,
    config: dict[str, Any],
    project: str,
    group: str | None = None,
    name: str | None = None,
) -> WandbLogger:
    """A W&B run of its own, in its sweep's group; offline unless the user is logged in.

    A sweep's run folders are numbers in one folder, which names the group. The name is the run's
    overrides.

    Offline files are in `folder`/wandb; `wandb sync` uploads them later.
    """
    import wandb

    mode = os.environ.get("WANDB_MODE") or (
        "online" if wandb.login(prompt=False, verify=False) else "offline"
    )
    settings = wandb.Settings(silent=True) if mode == "offline" else None
    # `mode` itself, and not Lightning's `offline=True`: that sets an environment variable for good.
    return WandbLogger(
        project=project,
        group=group or (folder.parent.name if folder.name.isdecimal() else None),
        name=name or ",".join(config["overrides"])[:_LONGEST_NAME] or None,
        save_dir=folder,
        mode=mode,
        config=config,
        settings=settings,
    )


def csv_logger(folder: Path, config: dict[str, Any]) -> CSVLogger:
    """`folder`/logs/metrics.csv."""
    return CSVLogger(folder, name="", version="logs")


def publish(logger: Logger, metrics: Mapping[str, Metric], pictures: Sequence[Picture]) -> None:
    """A run's final numbers, and a grid of its pictures, one for each prompt."""
    logger.log_metrics({f"score/{name}": metric.value for name, metric in metrics.items()})
    if isinstance(logger, WandbLogger):
        firsts = [picture for picture in pictures if picture.index == 0]
        logger.log_image("pictures", [grid(firsts)], caption=["; ".join(p.prompt for p in firsts)])
    logger.save()


def grid(pictures: Sequence[Picture], columns: int = 5) -> Any:
    """Pictures side by side, as uint8 (H, W, 3)."""
    import torch
    from torchvision.utils import make_grid

    tiles = make_grid(torch.stack([p.pixels for p in pictures]), nrow=columns, padding=1)
    return tiles.permute(1, 2, 0).numpy()
