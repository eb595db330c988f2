"""The A/A floor: how far trainings of one setting differ by their seed alone.

A difference between settings means nothing until it is larger than that between two seeds of one
setting. The floor is a standard deviation. `python benchmarks/floor.py SWEEP COMMAND` measures that
of a model from a study with several seeds and writes floors/MODEL.json; without that file no floor
is known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreambooth.reporting.scores import HEADINGS, ScoreReader, shared_protocol
from dreambooth.reporting.statistics import StudyScores, difference
from dreambooth.reporting.study import Cell, Study

FLOORS = Path(__file__).parent / "floors"


@dataclass(frozen=True)
class Floor:
    """The standard deviation of a run's mean between seeds of one setting and subject."""

    sd: float
    num_trainings: int  # that it was measured on


def between_seeds(cells: Sequence[Cell], metric: str, reader: ScoreReader) -> Floor | None:
    """Pooled over settings and subjects; None if no setting has two seeds of a subject."""
    squares, freedom, trainings = 0.0, 0, 0
    for cell in cells:
        by_subject: dict[str, list[float]] = {}
        for (subject, _), pictures in reader.scores(cell.finished, metric).items():
            by_subject.setdefault(subject, []).append(sum(pictures.values()) / len(pictures))
        for means in by_subject.values():
            if len(means) > 1:
                squares += float(np.var(means)) * len(means)
                freedom += len(means) - 1
                trainings += len(means)
    return Floor(math.sqrt(squares / freedom), trainings) if freedom else None


def tests_below(
    cells: Sequence[Cell], metrics: Sequence[str], reader: ScoreReader
) -> tuple[int, int]:
    """Of all A/A tests of the cells, how many have p < 0.05, and how many there are.

    An A/A test is the report's own test between two halves of the seeds of one setting. There is
    one for each cell and metric with enough pairs of seeds.
    """
    found = []
    for cell in cells:
        for metric in metrics:
            result = difference(*halves(reader.scores(cell.finished, metric)))
            if result is not None and not math.isnan(result.p):
                found.append(result.p)
    return sum(p < 0.05 for p in found), len(found)


def halves(scores: StudyScores) -> tuple[StudyScores, StudyScores]:
    """The first and the second of each two seeds of a subject, named alike so that they pair."""
    seeds: dict[str, list[str]] = {}
    for subject, seed in sorted(scores):
        seeds.setdefault(subject, []).append(seed)
    pairs = [
        (subject, each[i], each[i + 1])
        for subject, each in seeds.items()
        for i in range(0, len(each) - 1, 2)
    ]
    return (
        {(subject, first): scores[subject, first] for subject, first, _ in pairs},
        {(subject, first): scores[subject, second] for subject, first, second in pairs},
    )


def shipped_floor(model: str, metric: str, protocol: str) -> Floor | None:
    """The floor measured for a model by the same protocol; None if there is none."""
    known = shipped(model).get("metrics", {}).get(metric)
    if known is None or known["protocol"] != shared_protocol(protocol):
        return None
    return Floor(known["sd"], known["num_trainings"])


def shipped(model: str) -> dict[str, Any]:
    """What floors/MODEL.json has: `command` and `metrics`; {} if there is none."""
    path = FLOORS / f"{model}.json"
    return dict(json.loads(path.read_bytes())) if path.is_file() else {}


def measure(study: Study) -> dict[str, Any]:
    """The content of floors/MODEL.json but its command. ValueError without two seeds."""
    reader, metrics = ScoreReader(), {}
    for metric in HEADINGS:
        floor = between_seeds(study.cells, metric, reader)
        recorded = [t.metrics[metric] for t in study.trials if metric in t.metrics]
        if floor is not None and floor.sd > 0 and recorded:  # 0: of a stage that is not trained
            metrics[metric] = {
                "sd": floor.sd,
                "num_trainings": floor.num_trainings,
                "protocol": shared_protocol(recorded[0].protocol),
            }
    if not metrics:
        raise ValueError(
            f"{study.name} cannot tell how far seeds differ: no setting has two seeds of a "
            "subject; train several, as in seed=0,1,2"
        )
    return {"settings": [cell.label for cell in study.cells], "metrics": metrics}
