"""Does training see what inference sees? Compares a model's training with its own pipeline.

python src/check.py model=sdxl model.backbone.pretrained=FOLDER

It prints a line for each check, and exits with 1 if one fails.
"""

import sys

import hydra
from omegaconf import DictConfig

from dreambooth.launch.hydra_messages import one_sentence


@one_sentence
@hydra.main(version_base="1.3", config_path="../conf", config_name="check")
def main(cfg: DictConfig) -> None:
    from dreambooth.launch.parity import all_pass
    from dreambooth.launch.start import plain_config

    try:
        passed = all_pass(plain_config(cfg, []))
    except ValueError as error:
        sys.exit(f"{error}")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
