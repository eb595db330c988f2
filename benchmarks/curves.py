"""How soon each class noun learns the subject, from runs with `callbacks=score_curves`.

    bash sweeps/class_noun_curves.sh
    python benchmarks/curves.py runs/class+...          the sweep's folder, or several

For each class noun: the first step at which identity reaches 0.8 (of the runs that do), and at the
last step identity, DINO, the share in the prompted context, copies and drift. Then the differences
of correct - wrong and correct - none. Runs are paired by subject and training seed; the 95 %
intervals are Student's t over the subjects, each subject's value being the mean over its seeds.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy import stats

from dreambooth.runs.cells import find_runs
from dreambooth.runs.run import Run

REACHED = 0.8
SCORES = ("identity", "dino", "context_accuracy", "copied", "drift")
Curve = dict[int, dict[str, float]]  # step -> score -> value
Key = tuple[str, int, str]  # subject, training seed, class noun's choice


def curve_of(run: Run) -> Curve:
    """The base stage's points of history.csv."""
    prefix = "curves/"
    points: Curve = {}
    for row in run.read_history():
        found = {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
        if found:
            points[int(row["step"])] = {k: float(v) for k, v in found.items() if v is not None}
    return points


def steps_to(curve: Curve, score: str, value: float) -> float:
    """The first step at which the score reaches the value, linear between points; NaN if never."""
    steps = sorted(step for step in curve if score in curve[step])
    before: int | None = None
    for step in steps:
        here = curve[step][score]
        if here >= value:
            if before is None:
                return float(step)
            there = curve[before][score]
            return before + (step - before) * (value - there) / (here - there)
        before = step
    return float("nan")


def summary(curve: Curve) -> dict[str, float]:
    """`steps` to identity `REACHED`, and the scores at the last step."""
    last = curve[max(curve)]
    found = {name: last.get(name, float("nan")) for name in SCORES}
    return {"steps": steps_to(curve, "identity", REACHED), **found}


def over_subjects(values: Mapping[Key, float]) -> tuple[float, float, int]:
    """Mean, half the width of its 95 % interval (t), and the number of subjects; NaNs left out."""
    by_subject: dict[str, list[float]] = {}
    for (subject, _, _), value in values.items():
        if np.isfinite(value):
            by_subject.setdefault(subject, []).append(value)
    x = np.array([np.mean(group) for group in by_subject.values()])
    if len(x) < 2:
        return (float(x.mean()) if len(x) else float("nan")), float("nan"), len(x)
    half = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5
    return float(x.mean()), float(half), len(x)


def main() -> None:
    found: dict[Key, dict[str, float]] = {}
    for run in (run for folder in sys.argv[1:] for run in find_runs(Path(folder))):
        curve = curve_of(run)
        if run.status().state != "finished" or not curve:
            print(f"left out: {run.folder} has no curve, or is not finished")
            continue
        subject = run.config["subject"]
        name = f"{subject['class_noun']}{subject['seed']}"
        found[name, int(run.config["seed"]), run.config["class"]["choice"]] = summary(curve)
    columns = ("steps", *SCORES)
    print(f"{'class noun':16s}" + "".join(f"{name:>24s}" for name in columns))
    for noun in ("none", "wrong", "correct"):
        of_noun = {key: scores for key, scores in found.items() if key[2] == noun}
        print(row(noun, {c: {k: s[c] for k, s in of_noun.items()} for c in columns}))
    for other in ("wrong", "none"):
        pairs = {
            key: {c: found[key][c] - found[key[0], key[1], other][c] for c in columns}
            for key in found
            if key[2] == "correct" and (key[0], key[1], other) in found
        }
        print(row(f"correct - {other}", {c: {k: s[c] for k, s in pairs.items()} for c in columns}))


def row(name: str, values: dict[str, dict[Key, float]]) -> str:
    cells = []
    for column in values.values():
        mean, half, count = over_subjects(column)
        cells.append(f"{mean:.3f} ± {half:.3f} (n={count})")
    return f"{name:16s}" + "".join(f"{cell:>24s}" for cell in cells)


if __name__ == "__main__":
    main()
