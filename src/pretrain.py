"""Pretrain the miniature's models from nothing, one part at a time; a killed one goes on.

for part in text base sr oracle clip dino; do python src/pretrain.py part=$part; done
"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from dreambooth.launch.hydra_messages import one_sentence


@one_sentence
@hydra.main(version_base="1.3", config_path="../conf", config_name="pretrain")
def main(cfg: DictConfig) -> None:
    from dreambooth.miniature.pretraining import pretrain

    if cfg.part not in cfg.parts:
        sys.exit(f"part={cfg.part} is not known; choose one of {', '.join(cfg.parts)}")
    done = pretrain(
        cfg.part,
        Path(cfg.weights),
        Path(cfg.work) / cfg.part,
        num_scenes=cfg.num_scenes,
        max_minutes=cfg.max_minutes,
        seed=cfg.seed,
        **cfg.parts[cfg.part],
    )
    print("done" if done else "not done yet: run the same command again to go on")


if __name__ == "__main__":
    main()
