"""How soon a run learns the subject under each class noun, from runs with `callbacks=score_curves`.

    bash sweeps/class_noun_curves.sh
    python benchmarks/curves.py runs/class+...          one or more sweep folders

Prints for each class noun the first step at which identity reaches 0.8 (of the runs that reach it)
and the scores at the last step: identity, DINO, the share in the prompted context, copies and
drift. Then it prints the differences correct - wrong and correct - none, with runs paired by
subject and training seed. A subject's value is the mean over its seeds; the 95 % intervals are
Student's t over the subjects.
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
Key = tuple[str, int, str]  # subject, training seed, choice of class noun


def curve_of(run: Run) -> Curve:
    """Return the scores of the base stage in history.csv."""
    prefix = "curves/"
    points: Curve = {}
    for row in run.read_history():
        scores = {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
        if scores:
            points[int(row["step"])] = {k: float(v) for k, v in scores.items() if v is not None}
    return points


def steps_to(curve: Curve, score: str, value: float) -> float:
    """Return the first step at which the score reaches the value, by linear interpolation between
    points; NaN if it never does."""
    steps = sorted(step for step in curve if score in curve[step])
    previous: int | None = None
    for step in steps:
        after = curve[step][score]
        if after >= value:
            if previous is None:
                return float(step)
            before = curve[previous][score]
            return previous + (step - previous) * (value - before) / (after - before)
        previous = step
    return float("nan")


def summary(curve: Curve) -> dict[str, float]:
    """Return `steps`, where identity reaches `REACHED`, and the scores at the last step."""
    last = curve[max(curve)]
    scores = {name: last.get(name, float("nan")) for name in SCORES}
    return {"steps": steps_to(curve, "identity", REACHED), **scores}


def over_subjects(values: Mapping[Key, float]) -> tuple[float, float, int]:
    """Return the mean over subjects, half the width of its 95 % interval (Student's t), and the
    number of subjects. NaNs are left out."""
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
    summaries: dict[Key, dict[str, float]] = {}
    for run in (run for folder in sys.argv[1:] for run in find_runs(Path(folder))):
        curve = curve_of(run)
        if run.status().state != "finished" or not curve:
            print(f"left out: {run.folder} has no curves or is not finished")
            continue
        subject = run.config["subject"]
        name = f"{subject['class_noun']}{subject['seed']}"
        summaries[name, int(run.config["seed"]), run.config["class"]["choice"]] = summary(curve)
    columns = ("steps", *SCORES)
    print(f"{'class noun':16s}" + "".join(f"{name:>24s}" for name in columns))
    for noun in ("none", "wrong", "correct"):
        of_noun = {key: scores for key, scores in summaries.items() if key[2] == noun}
        print(row(noun, {c: {k: s[c] for k, s in of_noun.items()} for c in columns}))
    for other in ("wrong", "none"):
        pairs = {
            key: {c: summaries[key][c] - summaries[key[0], key[1], other][c] for c in columns}
            for key in summaries
            if key[2] == "correct" and (key[0], key[1], other) in summaries
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
