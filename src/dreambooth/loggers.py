"""Where losses, pictures and scores go: Weights & Biases, or a CSV file."""

import csv
import logging
import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from dreambooth.files import Score, csv_of, write_atomically
from dreambooth.parallel import first
from dreambooth.run import Metric, Picture, read_cells

log = logging.getLogger(__name__)

_LONGEST_NAME = 128  # of W&B
_SECONDS_TO_CONNECT = 30.0
_MOST_PICTURES = 500


def wandb_logger(
    folder: Path,
    config: dict[str, Any],
    project: str,
    group: str | None = None,
    name: str | None = None,
) -> WandbLogger:
    """A W&B run of its own, in its sweep's group; offline unless the user is logged in, and where
    W&B cannot be reached or refuses the user's key, which is said.

    The sweep's folder names the group. The name is the run's overrides.

    Offline files are in `folder`/wandb; `wandb sync` uploads them later. A run that goes on has the
    same id, kept in `folder`/wandb/id: steps that it does again are logged again, to equal values.
    """
    import wandb

    # Pictures of tables wait there for their upload; W&B's own place is in the home directory.
    os.environ["WANDB_DATA_DIR"] = str(folder.resolve() / "wandb")
    mode = os.environ.get("WANDB_MODE") or (
        "online" if wandb.login(prompt=False, verify=False) else "offline"
    )
    make = partial(
        WandbLogger,
        id=first(lambda: _wandb_id(folder / "wandb" / "id")),
        resume="allow",
        project=project,
        group=group or (folder.parent.name if read_cells(folder.parent) else None),
        name=name or ",".join(config["overrides"])[:_LONGEST_NAME] or None,
        save_dir=folder,
        config=config,
    )
    # `mode` itself, and not Lightning's `offline=True`: that sets an environment variable for good.
    if mode != "offline":
        logger = make(mode=mode, settings=wandb.Settings(init_timeout=_SECONDS_TO_CONNECT))
        try:
            _ = logger.experiment  # connects
        except wandb.errors.Error as error:
            reason = str(error).partition("\n")[0]
            log.warning("W&B: %s. The run goes on offline: `wandb sync` uploads it later", reason)
            wandb.teardown()  # else the id is taken, by the attempt
        else:
            return logger
    return make(mode="offline", settings=wandb.Settings(silent=True))


def _wandb_id(path: Path) -> str:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # `wandb agent` gives its own.
        write_atomically(path, (os.environ.get("WANDB_RUN_ID") or token_hex(4)).encode())
    return path.read_text()


def csv_logger(folder: Path, config: dict[str, Any]) -> "Rows":
    """`folder`/logs/metrics.csv."""
    return Rows(folder / "logs" / "metrics.csv")


class Rows(Logger):
    """Numbers in a CSV file, a row for each call. A run that goes on adds to what is there; where a
    step is done again, its row replaces the earlier one of the same step and columns."""

    name, version = "rows", ""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self._rows: dict[tuple[str, ...], dict[str, Score]] = {}
        if path.exists():
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    self._add({key: value for key, value in row.items() if value != ""})

    def _add(self, row: Mapping[str, Any]) -> None:
        columns = sorted(key for key in row if key != "step")
        self._rows[str(row.get("step", "")), *columns] = {k: float(row[k]) for k in columns}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self._add(metrics if step is None else {**metrics, "step": step})

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The run folder has its config.yaml."""

    @rank_zero_only
    def save(self) -> None:
        if self._rows:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            rows = [
                {"step": int(key[0]) if key[0] else None} | row for key, row in self._rows.items()
            ]
            write_atomically(self.path, csv_of(rows).encode())

    def finalize(self, status: str) -> None:
        self.save()


def publish(
    logger: Logger,
    metrics: Mapping[str, Metric],
    rows: Sequence[Mapping[str, Score]],
    pictures: Sequence[Picture],
) -> None:
    """Final numbers; in W&B also a grid of the pictures, one for each prompt, a table of pictures
    and their scores (the first 500), and each number's count, interval and protocol in its summary.

    `rows`: the scores of `pictures`, one to one.
    """
    numbers = {name: m.value for name, m in metrics.items() if math.isfinite(m.value)}
    logger.log_metrics({f"score/{name}": value for name, value in numbers.items()})
    if isinstance(logger, WandbLogger):
        scored = list(zip(pictures, rows, strict=True))[:_MOST_PICTURES]
        firsts = [p for p, row in scored if p.index == 0 and row["set"] == "prompts"]
        if len({p.pixels.shape for p in firsts}) == 1:  # pictures of other systems may differ
            captions = ["; ".join(p.prompt for p in firsts)]
            logger.log_image("pictures", [grid(firsts)], caption=captions)
        _log_table(logger, scored)
        logger.experiment.summary.update(_summary(metrics))
    logger.save()


def _log_table(logger: WandbLogger, scored: Sequence[tuple[Picture, Mapping[str, Score]]]) -> None:
    import wandb

    columns = list(dict.fromkeys(key for _, row in scored for key in row))
    table = wandb.Table(columns=["picture", *columns])
    for picture, row in scored:
        image = wandb.Image(picture.pixels.permute(1, 2, 0).numpy())
        table.add_data(image, *(row.get(column) for column in columns))
    logger.log_metrics({"scores": table})


def _summary(metrics: Mapping[str, Metric]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, metric in metrics.items():
        low, high = metric.ci95 or (None, None)
        found |= {f"score/{name}_count": metric.count, f"score/{name}_protocol": metric.protocol}
        found |= {f"score/{name}_low": low, f"score/{name}_high": high}
    return found


def grid(pictures: Sequence[Picture], columns: int = 5) -> Any:
    """Pictures side by side, as uint8 (H, W, 3)."""
    import torch
    from torchvision.utils import make_grid

    tiles = make_grid(torch.stack([p.pixels for p in pictures]), nrow=columns, padding=1)
    return tiles.permute(1, 2, 0).numpy()
