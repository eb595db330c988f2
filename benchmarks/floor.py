"""The noise between seeds of a model: how far trainings of one setting differ by their seed alone.

    python src/train.py -m SETTINGS seed=0,1,2,3,4
    python benchmarks/floor.py runs/SWEEP "python src/train.py -m SETTINGS seed=0,1,2,3,4"

Writes the standard deviations to src/dreambooth/reporting/floors/MODEL.json. Reports of studies
with one seed of each setting show them. The second argument, the command of the sweep, is saved in
that file.

Also prints the share of A/A tests with p < 0.05: the report's test between two halves of the seeds
of one setting, for each setting and score. The seeds of each subject are assigned to the halves at
random, 100 times. The share should be near 5 %.
"""

import json
import math
import random
import sys
from pathlib import Path

from dreambooth.reporting.floor import FLOORS, halves, measure
from dreambooth.reporting.scores import ScoreReader
from dreambooth.reporting.statistics import difference
from dreambooth.reporting.study import Study, read_study

NUM_CHOICES = 100


def false_alarms(study: Study, metrics: list[str]) -> dict[str, float]:
    """For each score the share of A/A tests with p < 0.05."""
    reader, rng, shares = ScoreReader(), random.Random(0), {}
    for metric in metrics:
        found = []
        for cell in study.cells:
            first, second = halves(reader.scores(cell.finished, metric))
            for _ in range(NUM_CHOICES):
                swapped = {key for key in first if rng.random() < 0.5}
                a = {key: (second if key in swapped else first)[key] for key in first}
                b = {key: (first if key in swapped else second)[key] for key in first}
                result = difference(a, b)
                if result is not None and not math.isnan(result.p):
                    found.append(result.p < 0.05)
        if found:
            shares[metric] = sum(found) / len(found)
    return shares


def main(sweep: str, command: str) -> None:
    study = read_study([Path(sweep)])
    model = study.fixed.get("model")
    if model is None:
        raise SystemExit(f"{sweep} has several models: give a sweep of one")
    content = {"command": command, **measure(study)}
    shares = false_alarms(study, list(content["metrics"]))
    for name, floor in content["metrics"].items():
        share = f", {shares[name]:.1%} of A/A tests below 0.05" if name in shares else ""
        print(f"{name:18s} {floor['sd']:.4f}  ({floor['num_trainings']} trainings{share})")
    if shares:
        print(
            f"A/A tests below 0.05, mean over the scores: {sum(shares.values()) / len(shares):.1%}"
        )
    FLOORS.mkdir(exist_ok=True)
    path = FLOORS / f"{model}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
