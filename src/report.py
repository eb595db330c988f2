"""Write the ablation report of a sweep: the paper's tables beside ours, figures, and a web page.

python src/report.py                                    the latest sweep in runs/
python src/report.py sweep=runs/class+lambda            this sweep
python src/report.py sweep=[DIR1,DIR2] name=both        several sweeps in one report
"""

import sys

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
def main(cfg: DictConfig) -> None:
    from pathlib import Path

    from omegaconf import ListConfig

    from dreambooth.reporting.report import report_on

    try:
        sweep = [] if cfg.sweep is None else cfg.sweep
        sweeps = list(sweep) if isinstance(sweep, ListConfig | list) else [sweep]
        name = None if cfg.name is None else str(cfg.name)
        print(report_on([Path(str(folder)).expanduser() for folder in sweeps], name))
    except ValueError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
