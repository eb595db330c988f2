"""Write the ablation report of a sweep: the paper's tables beside ours, figures, and a web page.

python src/report.py                                    the latest sweep in runs/
python src/report.py sweep=runs/lambda+class            this sweep
python src/report.py sweep=[DIR1,DIR2] name=both        several sweeps in one report
"""

import sys

import hydra
from omegaconf import DictConfig

from dreambooth.launch.hydra_messages import one_sentence


@one_sentence
@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
def main(cfg: DictConfig) -> None:
    from dreambooth.launch.start import plain_config
    from dreambooth.runs.settings import Report, read

    try:
        given = read(Report, plain_config(cfg, []))

        from dreambooth.reporting.report import report_on  # here, because it is slow to import

        print(report_on(given.folders, given.name))
    except ValueError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
