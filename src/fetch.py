"""Download a model, the encoders of the scores, or DreamBench, for jobs that have no network.

python src/fetch.py model=sdxl                   the model, and the encoders that score its images
python src/fetch.py metrics=paper                the encoders alone
python src/fetch.py dreambench=FOLDER            the photos and prompts of DreamBench

It prints the sizes first. Models and encoders go to the caches of their libraries (HF_HOME,
TORCH_HOME), where runs find them.
"""

import sys

import hydra
from omegaconf import DictConfig

from dreambooth.launch.hydra_messages import one_sentence


@one_sentence
@hydra.main(version_base="1.3", config_path="../conf", config_name="fetch")
def main(cfg: DictConfig) -> None:
    from dreambooth.launch.fetching import fetch
    from dreambooth.launch.start import plain_config

    try:
        fetch(plain_config(cfg, []))
    except ValueError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
