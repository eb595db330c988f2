"""A Hydra app of a fraction of a second: `todo` is what a cell does, in Python."""

import os
import sys
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

__all__ = ["os", "sys", "time"]  # for `todo`


@hydra.main(version_base="1.3", config_path=".", config_name="small")
def main(cfg: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    exec(cfg.todo, globals() | {"folder": folder, "cell": cfg.cell})


if __name__ == "__main__":
    main()
