"""Pretrain the miniature's models from scratch. If it was killed, the same command goes on.

python src/pretrain.py                    all parts, one after the other
python src/pretrain.py part=base          one part: text, base, sr, oracle, clip or dino
"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from dreambooth.launch.hydra_messages import one_sentence


@one_sentence
@hydra.main(version_base="1.3", config_path="../conf", config_name="pretrain")
def main(cfg: DictConfig) -> None:
    from dreambooth.launch.pretraining import Pretraining
    from dreambooth.launch.start import plain_config
    from dreambooth.runs.settings import read

    try:
        read(Pretraining, plain_config(cfg, [])).check()

        from dreambooth.miniature.pretraining import pretrain  # here, because it is slow to import

        for part in cfg.parts if cfg.part == "all" else [cfg.part]:
            done = pretrain(
                part,
                Path(cfg.weights),
                Path(cfg.work) / part,
                num_scenes=cfg.num_scenes,
                max_minutes=cfg.max_minutes,
                seed=cfg.seed,
                **cfg.parts[part],
            )
            print(f"{part}: " + ("done" if done else "not done yet; the same command goes on"))
    except ValueError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
