"""Log losses, images and scores to the run folder's history.csv and to Weights & Biases."""

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

from dreambooth.distributed.ranks import on_rank_zero
from dreambooth.runs.cells import read_cells
from dreambooth.runs.files import Score, write_atomically
from dreambooth.runs.pictures import Picture
from dreambooth.runs.records import Metric
from dreambooth.runs.run import Run

log = logging.getLogger(__name__)

_MAX_NAME_LENGTH = 128  # W&B's limit
_CONNECTION_TIMEOUT_S = 30.0
_MAX_TABLE_ROWS = 500
_STAGES = ("sr",)  # besides the base stage


class _WandbLogger(WandbLogger):
    """Without the argument `anonymous`, which Lightning passes and W&B warns of as removed."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._wandb_init.pop("anonymous", None)


def wandb_logger(
    folder: Path,
    config: dict[str, Any],
    project: str,
    group: str | None = None,
    name: str | None = None,
) -> WandbLogger:
    """Make the logger of one W&B run.

    By default the group is the name of the sweep's folder, and the name lists the run's overrides.

    The run is offline if the user is not logged in. It is offline too, with a warning, if W&B
    cannot be reached or refuses the user's key. Offline files are in `folder`/wandb; `wandb sync`
    uploads them later.

    A resumed run has the same W&B id, from `folder`/wandb/id. Steps that it repeats are logged
    again, with equal values.
    """
    import wandb

    # W&B stages the images of tables here before their upload; its default is the home directory.
    os.environ["WANDB_DATA_DIR"] = str(folder.resolve() / "wandb")
    mode = os.environ.get("WANDB_MODE") or (
        "online" if wandb.login(prompt=False, verify=False) else "offline"
    )
    make_logger = partial(
        _WandbLogger,
        id=on_rank_zero(lambda: _wandb_id(folder / "wandb" / "id")),
        resume="allow",
        project=project,
        group=group or (folder.parent.name if read_cells(folder.parent) else None),
        name=name or ",".join(config["overrides"])[:_MAX_NAME_LENGTH] or None,
        save_dir=folder,
        config=config,
    )
    # `mode` is used because Lightning's `offline=True` sets an environment variable permanently.
    if mode != "offline":
        logger = make_logger(mode=mode, settings=wandb.Settings(init_timeout=_CONNECTION_TIMEOUT_S))
        try:
            _ = logger.experiment  # connects
        except wandb.errors.Error as error:
            reason = str(error).partition("\n")[0]
            log.warning("W&B: %s. The run continues offline: `wandb sync` uploads it later", reason)
            wandb.teardown()  # the failed attempt would otherwise keep the id in use
        else:
            return logger
    return make_logger(mode="offline", settings=wandb.Settings(silent=True))


def _wandb_id(path: Path) -> str:
    """The W&B id of the run, written to `path` when it is first needed."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # `wandb agent` sets the id in the environment.
        write_atomically(path, (os.environ.get("WANDB_RUN_ID") or token_hex(4)).encode())
    return path.read_text()


class History(Logger):
    """Writes history.csv in the run folder; every run has this logger.

    A row has all values that one stage logged at one step. The columns of the SR stage have the
    prefix "sr/" ("sr/loss/subject"). The file is written at checkpoints and when training ends or
    fails. A resumed run appends to it; a repeated step replaces its row.
    """

    def __init__(self, run: Run):
        super().__init__()
        self.run = run
        self.rows: dict[tuple[str, int], dict[str, Score]] = {}
        for row in run.read_history():
            self.log_metrics({k: v for k, v in row.items() if k != "step"}, int(row["step"]))

    name = "history"
    version = 0

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        prefix = _stage_prefix(metrics)
        row = self.rows.setdefault((prefix, step or 0), {"step": step or 0})
        for key, value in metrics.items():
            if key != "epoch" and math.isfinite(value):
                row[key if key.startswith(prefix) else prefix + key] = float(value)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Does nothing: config.yaml has the hyperparameters."""

    @rank_zero_only
    def save(self) -> None:
        if self.rows:
            self.run.write_history(list(self.rows.values()))

    def finalize(self, _: str) -> None:
        self.save()


def _stage_prefix(metrics: Mapping[str, float]) -> str:
    """The prefix of the stage that has logged `metrics`: "sr/", or "" for the base stage."""
    for stage in _STAGES:
        if any(key.startswith(f"{stage}/") for key in metrics):
            return f"{stage}/"
    return ""


def log_image(loggers: Sequence[Logger], name: str, path: Path) -> None:
    """Log an image file to W&B, if it is among the loggers."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)])


def publish(
    loggers: Sequence[Logger],
    metrics: Mapping[str, Metric],
    rows: Sequence[Mapping[str, Score]],
    pictures: Sequence[Picture],
) -> None:
    """Log the final results to W&B, if it is among the loggers.

    These are the metrics; a grid with one image for each prompt; a table of the first 500
    images with their scores; and, in the run's summary, the count, interval and protocol of each
    metric. `rows`: the scores of `pictures`, one row for each.
    """
    values = {f"score/{name}": m.value for name, m in metrics.items() if math.isfinite(m.value)}
    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            continue
        logger.log_metrics(values)
        scored = list(zip(pictures, rows, strict=True))[:_MAX_TABLE_ROWS]
        tiles = [p for p, row in scored if p.index == 0 and row["set"] == "prompts"]
        if len({p.pixels.shape for p in tiles}) == 1:  # images of other systems may differ in size
            captions = ["; ".join(p.prompt for p in tiles)]
            logger.log_image("images", [grid(tiles)], caption=captions)
        _log_table(logger, scored)
        logger.experiment.summary.update(_summary(metrics))
        logger.save()


def _log_table(logger: WandbLogger, scored: Sequence[tuple[Picture, Mapping[str, Score]]]) -> None:
    import wandb

    columns = list(dict.fromkeys(key for _, row in scored for key in row))
    table = wandb.Table(columns=["image", *columns])
    for picture, row in scored:
        image = wandb.Image(picture.pixels.permute(1, 2, 0).numpy())
        table.add_data(image, *(row.get(column) for column in columns))
    logger.log_metrics({"scores": table})


def _summary(metrics: Mapping[str, Metric]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for name, metric in metrics.items():
        low, high = metric.ci95 or (None, None)
        summary |= {f"score/{name}_count": metric.count, f"score/{name}_protocol": metric.protocol}
        summary |= {f"score/{name}_low": low, f"score/{name}_high": high}
    return summary


def grid(pictures: Sequence[Picture], columns: int = 5) -> Any:
    """Arrange images in a grid, an array uint8 (H, W, 3)."""
    import torch
    from torchvision.utils import make_grid

    tiles = make_grid(torch.stack([p.pixels for p in pictures]), nrow=columns, padding=1)
    return tiles.permute(1, 2, 0).numpy()
