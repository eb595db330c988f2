"""How many subjects, seeds and images are enough, from the runs of a pilot.

python src/plan.py sweep=PILOT metric=dino effect=0.03     the cheapest study that finds this effect
python src/plan.py sweep=DONE                              the least differences that it finds
"""

import sys

import hydra
from omegaconf import DictConfig

from dreambooth.launch.hydra_messages import one_sentence


@one_sentence
@hydra.main(version_base="1.3", config_path="../conf", config_name="plan")
def main(cfg: DictConfig) -> None:
    from dreambooth.launch.start import plain_config
    from dreambooth.runs.settings import Plan, read

    try:
        given = read(Plan, plain_config(cfg, []))

        # Here, because these are slow to import.
        from dreambooth.reporting.plan import detectable_effects, plan_study
        from dreambooth.reporting.report import study_of

        study = study_of(given.folders)
        if given.effect is None:
            print(detectable_effects(study, given.power, given.metric))
        else:
            print(plan_study(study, given.metric, given.effect, given.power))
    except ValueError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
