"""Generate images with the model of a finished run.

    python src/generate.py run=DIR 'prompts=["a {} on the beach", "a {} wearing a hat"]'
    python src/generate.py run=DIR prompts_file=prompts.txt num_steps=50 guidance_scale=5 seed=1

{} stands for the run's subject; a prompt without {} is used as it is.
"""

import sys

import hydra
from omegaconf import DictConfig

from dreambooth.launch.hydra_messages import one_sentence


@one_sentence
@hydra.main(version_base="1.3", config_path="../conf", config_name="generate")
def main(cfg: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig

    from dreambooth.launch.generating import draw_more
    from dreambooth.launch.start import plain_config

    try:
        draw_more(plain_config(cfg, list(HydraConfig.get().overrides.task)))
    except ValueError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
