"""Fine-tune a text-to-image model on a subject, draw it, and score the pictures.

python src/train.py                                                  one run on the miniature
python src/train.py -m prior.lambda=0,1 class=none,wrong,correct     six, and their table
"""

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(cfg: DictConfig) -> None:
    from dreambooth.assemble import assemble, start_run  # late: --cfg and --help stay fast
    from dreambooth.launching import done_by_ranks
    from dreambooth.sweep import recorded, tell_errors

    with tell_errors():
        if done_by_ranks(cfg):
            return
        run = start_run(cfg)
        with recorded(run):
            experiment = assemble(run)
            experiment.train()
            experiment.draw()
            experiment.score()


if __name__ == "__main__":
    main()
