"""Score a finished run again or at other strengths, or any images, or run MetricBench.

python src/evaluate.py run=DIR metrics=paper
python src/evaluate.py images=their_images subject=folder photos=my_dog class_noun=dog metrics=paper
python src/evaluate.py run=DIR experiment=frontier
python src/evaluate.py experiment=metric_validity
"""

import sys
from typing import Any

import hydra
from omegaconf import DictConfig

from dreambooth.launch.hydra_messages import one_sentence


@one_sentence
@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig

    from dreambooth.launch.checks import check_evaluation
    from dreambooth.launch.start import plain_config

    try:
        config: dict[str, Any] = plain_config(cfg, list(HydraConfig.get().overrides.task))
        scored = check_evaluation(config)

        # Here, because these are slow to import.
        from dreambooth.assemble import quieten_libraries
        from dreambooth.launch.frontier import draw_frontier
        from dreambooth.launch.rescoring import score_again, score_external

        quieten_libraries()
        if scored == "run":
            score_again(config)
        elif scored == "frontier":
            draw_frontier(config)
        elif scored == "images":
            score_external(config)
        else:
            from dreambooth.metrics.loading import checked_scorers, load_scorers
            from dreambooth.miniature.metricbench import bench, report

            loaded = load_scorers(config["metrics"])
            scorers = checked_scorers(loaded, None, by_choice=True)
            print(report(bench(scorers, **config["bench"])))
    except ValueError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
