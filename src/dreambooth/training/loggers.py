"""Where losses, pictures and scores go: the run folder's history.csv and Weights & Biases."""

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

_LONGEST_NAME = 128  # of W&B
_SECONDS_TO_CONNECT = 30.0
_MOST_PICTURES = 500
_STAGES = ("sr",)  # besides the base


class _Logger(WandbLogger):
    """Lightning gives `anonymous` to W&B, which warns that this is gone."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self._wandb_init.pop("anonymous", None)


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
        _Logger,
        id=on_rank_zero(lambda: _wandb_id(folder / "wandb" / "id")),
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


class History(Logger):
    """history.csv in the run folder, whatever else is logged to.

    A row holds everything that one stage logged at one step; all columns of a stage but the base
    have its prefix ("sr/loss/subject"). Written at checkpoints and when training ends or fails. A
    run that goes on adds to what is there; a step that is done again replaces its row.
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
        prefix = next((f"{stage}/" for stage in _STAGES if _of_stage(stage, metrics)), "")
        row = self.rows.setdefault((prefix, step or 0), {"step": step or 0})
        for key, value in metrics.items():
            if key != "epoch" and math.isfinite(value):
                row[key if key.startswith(prefix) else prefix + key] = float(value)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """They are in config.yaml."""

    @rank_zero_only
    def save(self) -> None:
        if self.rows:
            self.run.write_history(list(self.rows.values()))

    def finalize(self, _: str) -> None:
        self.save()


def _of_stage(stage: str, metrics: Mapping[str, float]) -> bool:
    return any(key.startswith(f"{stage}/") for key in metrics)


def publish(
    loggers: Sequence[Logger],
    metrics: Mapping[str, Metric],
    rows: Sequence[Mapping[str, Score]],
    pictures: Sequence[Picture],
) -> None:
    """Final numbers to W&B, if it is among the loggers: also a grid of the pictures, one for each
    prompt, a table of pictures and their scores (the first 500), and each number's count, interval
    and protocol in its summary.

    `rows`: the scores of `pictures`, one to one.
    """
    numbers = {f"score/{name}": m.value for name, m in metrics.items() if math.isfinite(m.value)}
    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            continue
        logger.log_metrics(numbers)
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
