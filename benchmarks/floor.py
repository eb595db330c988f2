"""The A/A floor of a model: how far trainings of one setting differ by their seed alone.

    python src/train.py -m SETTINGS seed=0,1,2,3,4
    python benchmarks/floor.py runs/SWEEP "python src/train.py -m SETTINGS seed=0,1,2,3,4"

Writes src/dreambooth/reporting/floors/MODEL.json, which reports of studies with one seed of each
setting show beside their numbers. The second argument is kept in it: the command of the sweep.
"""

import json
import sys
from pathlib import Path

from dreambooth.reporting.floor import FLOORS, measure
from dreambooth.reporting.study import read_study


def main(sweep: str, command: str) -> None:
    study = read_study([Path(sweep)])
    model = study.fixed.get("model")
    if model is None:
        raise SystemExit(f"{sweep} has several models: give a sweep of one")
    content = {"command": command, **measure(study)}
    for name, floor in content["metrics"].items():
        print(f"{name:18s} {floor['sd']:.4f}  ({floor['num_trainings']} trainings)")
    FLOORS.mkdir(exist_ok=True)
    path = FLOORS / f"{model}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
