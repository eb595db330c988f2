"""How many subjects, seeds and pictures are enough, from the runs of a pilot.

python src/plan.py sweep=PILOT metric=dino effect=0.03     the cheapest study that finds this effect
python src/plan.py sweep=DONE                              the effects that a study could have seen
"""

import sys

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="../conf", config_name="plan")
def main(cfg: DictConfig) -> None:
    from pathlib import Path

    from omegaconf import ListConfig

    from dreambooth.reporting.plan import plan_study, what_it_could_see
    from dreambooth.reporting.report import study_of

    try:
        given = [] if cfg.sweep is None else cfg.sweep
        sweeps = list(given) if isinstance(given, ListConfig | list) else [given]
        study = study_of([Path(str(sweep)).expanduser() for sweep in sweeps])
        if cfg.effect is None:
            print(what_it_could_see(study, cfg.power, cfg.metric))
        else:
            print(plan_study(study, cfg.metric, cfg.effect, cfg.power))
    except ValueError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
