"""A quick look at a sweep: the differences between its cells, paired by subject, without a report.

    python src/train.py -m prior.lambda=0,1 class=none,wrong,correct \\
        subject=miniature subject.class_noun=dog,cat,car,clock,fish subject.seed=501
    python benchmarks/claims.py runs/lambda+class+class_noun_0f93683c

Prints the mean difference between two cells over the subjects, with Student's 95 % interval. Only
subjects with all six cells count. For sweeps with one training seed; src/report.py has verdicts.
"""

import sys
from pathlib import Path

import numpy as np
from scipy import stats

from dreambooth.runs.cells import find_runs
from dreambooth.runs.run import Run

Cell = tuple[float, str]  # lambda, class
METRICS = ("identity", "clean", "class_accuracy", "context_accuracy", "drift", "diversity")


def cells(folders: list[Path]) -> dict[str, dict[Cell, dict[str, float]]]:
    """Return subject -> cell -> metric -> value of the finished runs."""
    values: dict[str, dict[Cell, dict[str, float]]] = {}
    for run in (run for folder in folders for run in find_runs(folder)):
        if run.config.get("method") == "external":
            continue
        if run.status().state != "finished":
            print(f"left out: {run.folder} is {run.status().state}")
            continue
        cell = (float(run.config["prior"]["lambda"]), run.config["class"]["choice"])
        metrics = {name: m.value for name, m in run.read_metrics().items()}
        values.setdefault(subject_of(run), {})[cell] = metrics
    return values


def subject_of(run: Run) -> str:
    subject = run.config["subject"]
    return f"{subject['class_noun']}{subject['seed']}"


def difference(values: list[float]) -> str:
    x = np.array(values)
    half = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5
    return (
        f"{x.mean():+.3f} ({x.mean() - half:+.3f}, {x.mean() + half:+.3f}), n = {len(x)} subjects"
    )


def main() -> None:
    values = cells([Path(folder) for folder in sys.argv[1:]])
    complete = {s: c for s, c in values.items() if len(c) == 6}
    print(f"{len(complete)} subjects with all six cells: {', '.join(complete)}\n")
    print("lambda class    " + "".join(f"{name:>18s}" for name in METRICS))
    for cell in sorted({cell for c in complete.values() for cell in c}):
        means = [np.mean([c[cell][name] for c in complete.values()]) for name in METRICS]
        print(f"{cell[0]:6g} {cell[1]:9s}" + "".join(f"{mean:18.3f}" for mean in means))
    print()

    def paired(name: str, a: Cell, b: Cell) -> str:
        return difference([c[a][name] - c[b][name] for c in complete.values()])

    print(
        "(a) drift, lambda 0 - 1, correct noun:   ", paired("drift", (0, "correct"), (1, "correct"))
    )
    for weight in (0.0, 1.0):
        for noun in ("wrong", "none"):
            text = paired("identity", (weight, "correct"), (weight, noun))
            print(f"(b) identity, correct - {noun}, lambda {weight:g}: ", text)


if __name__ == "__main__":
    main()
