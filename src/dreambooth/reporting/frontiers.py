"""The frontiers of a study's runs: what fidelity costs at each strength of the training.

A run's frontier (frontier.csv, by experiment=frontier) has each image's scores at the strengths g
of W0 + g (W1 - W0). Between two strengths their means are taken as linear. Two numbers follow:

- scores at equal fidelity: at the least strength at which the fidelity reaches a value that every
  run of the table reaches;
- the area: the best score that is reached together with a fidelity of f or more, averaged over f
  from 0 to 1, where it is 0 if no strength reaches f.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from dreambooth.metrics.columns import image_set_of, scores_of
from dreambooth.reporting.notes import remark, share_class_prompt, units_in_words
from dreambooth.reporting.scores import HEADINGS, Part
from dreambooth.reporting.statistics import (
    Difference,
    Estimate,
    difference,
    estimate,
    with_interval,
)
from dreambooth.reporting.study import Cell, Study, Trial
from dreambooth.reporting.tables import Column, Comparison, Entry, Table, TableRow

FIDELITY = ("identity", "dino")  # the first that is measured, here and below
AGAINST = (("drift", "pres"), ("context_accuracy", "clip_t"), ("unrelated_change",))
_NUM_DRAWS = 400  # of the bootstrap
_STEPS = 50  # points between two strengths

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RunFrontier:
    """The scores of one run at each strength, in order."""

    strengths: Floats  # (G,)
    scores: Mapping[str, Floats]  # metric -> (units, G): prompts, or the images of one prompt
    num_images: int

    @classmethod
    def of(cls, trial: Trial) -> RunFrontier | None:
        """The frontier of a run; None if it was not drawn, or has no measure of fidelity."""
        rows = trial.run.read_frontier()
        strengths = sorted({float(row["strength"] or 0) for row in rows})
        at = {g: [row for row in rows if row["strength"] == g] for g in strengths}
        scores = {}
        for metric in (*FIDELITY, *(name for names in AGAINST for name in names)):
            of_strengths = [_by_unit(scores_of(at[g], metric), metric) for g in strengths]
            if any(of_strengths):
                units = [u for u in of_strengths[0] if all(u in other for other in of_strengths)]
                scores[metric] = np.array([[s[u] for s in of_strengths] for u in units])
        if len(strengths) < 2 or not set(FIDELITY) & scores.keys():
            return None
        return cls(np.array(strengths), scores, len(rows))

    @cached_property
    def means(self) -> dict[str, Floats]:
        """Metric -> its mean at each strength."""
        return {metric: of_units.mean(0) for metric, of_units in self.scores.items()}

    def resampled(self, rng: np.random.Generator) -> RunFrontier:
        """A bootstrap sample of the units, the same for all metrics of the same units."""
        drawn: dict[tuple[str, int], NDArray[np.int64]] = {}
        scores = {}
        for metric, of_units in self.scores.items():
            key = image_set_of(metric), len(of_units)
            if key not in drawn:
                drawn[key] = rng.integers(len(of_units), size=len(of_units))
            scores[metric] = of_units[drawn[key]]
        return RunFrontier(self.strengths, scores, self.num_images)

    def dense(self, metric: str) -> Floats:
        """The means of a metric with points between the strengths."""
        return np.interp(self._dense_strengths, self.strengths, self.means[metric])

    @property
    def _dense_strengths(self) -> Floats:
        places = np.arange((len(self.strengths) - 1) * _STEPS + 1) / _STEPS
        return np.interp(places, np.arange(len(self.strengths)), self.strengths)

    def at_fidelity(self, fidelity: str, value: float) -> dict[str, float]:
        """All means, and `strength`, where the fidelity first reaches a value; {} if it never does,
        which happens to bootstrap samples."""
        reached = np.flatnonzero(self.dense(fidelity) >= value)
        if not len(reached):
            return {}
        place = reached[0]
        found = {metric: float(self.dense(metric)[place]) for metric in self.means}
        return found | {"strength": float(self._dense_strengths[place])}

    def area(self, fidelity: str, metric: str) -> float:
        """The area of the frontier of a metric, of 1 - metric if a lower one is better."""
        x, y = self.dense(fidelity), self.dense(metric)
        y = 1 - y if HEADINGS[metric].better == "lower" else y
        levels = (np.arange(100) + 0.5) / 100
        best = [y[x >= level].max(initial=0.0) for level in levels]
        return float(np.mean(best))


def _by_unit(scores: Mapping[tuple[str, int], float], metric: str) -> dict[object, float]:
    """The mean of each prompt; of the class prompt's images, each image."""
    if image_set_of(metric) != "prompts":
        return dict(scores)
    by_prompt: dict[object, list[float]] = {}
    for (template, _), score in scores.items():
        by_prompt.setdefault(template, []).append(score)
    return {template: float(np.mean(values)) for template, values in by_prompt.items()}


@dataclass(frozen=True, eq=False)
class Frontiers:
    """The frontiers of a study's cells, and the fidelity at which they are compared."""

    of_cells: Mapping[str, Mapping[tuple[str, str], RunFrontier]]  # Cell.key -> (subject, seed)
    fidelity: str  # the metric: identity or dino
    against: Sequence[str]  # the metrics that fidelity costs
    level: float  # the fidelity that every run reaches, rounded down to 0.01

    @classmethod
    def of(cls, study: Study) -> Frontiers | None:
        """None if no run of the study has a frontier."""
        of_cells = {}
        for cell in study.cells:
            found = {(t.subject, t.seed): RunFrontier.of(t) for t in cell.finished}
            of_cells[cell.key] = {run: f for run, f in found.items() if f is not None}
        every = [frontier for runs in of_cells.values() for frontier in runs.values()]
        if not every:
            return None
        shared = set.intersection(*(set(frontier.scores) for frontier in every))
        chosen = [next((m for m in names if m in shared), "") for names in (FIDELITY, *AGAINST)]
        fidelity, *against = chosen
        if not fidelity:
            return None
        level = min(float(frontier.means[fidelity].max()) for frontier in every)
        return cls(of_cells, fidelity, list(filter(None, against)), math.floor(level * 100) / 100)

    def values(self, cell: str, number: str) -> dict[tuple[str, str], dict[tuple[str, int], float]]:
        """One number of each run of a cell, in the form in which the statistics take scores.

        `number`: "area METRIC", "at METRIC" or "at strength", as the keys of the table's columns.
        """
        return {
            run: {("", 0): value}
            for run, frontier in self.of_cells[cell].items()
            if (value := self._value(frontier, number)) is not None
        }

    def estimate(self, cell: str, number: str) -> Estimate | None:
        """The mean over subjects or trainings; of a single training with its bootstrap interval."""
        result = estimate(self.values(cell, number), number)
        if result is None:
            return None
        runs = self.of_cells[cell]
        if len(runs) == 1:
            (frontier,) = runs.values()
            rng = np.random.default_rng(0)
            samples = [frontier, *(frontier.resampled(rng) for _ in range(_NUM_DRAWS))]
            drawn = [self._value(sample, number) for sample in samples]
            values = [value for value in drawn if value is not None]
            low, high = np.quantile(values, (0.025, 0.975))
            result = replace(result, low=float(low), high=float(high), unit="prompts")
        return replace(result, num_images=sum(f.num_images for f in runs.values()))

    def compare(self, a: str, b: str, number: str) -> Difference | None:
        return difference(self.values(a, number), self.values(b, number))

    def _value(self, frontier: RunFrontier, number: str) -> float | None:
        kind, _, metric = number.partition(" ")
        if kind == "area":
            return frontier.area(self.fidelity, metric)
        return frontier.at_fidelity(self.fidelity, self.level).get(metric)


def frontier_table(part: Part) -> Table | None:
    """Return the table of areas and of scores at equal fidelity; None without a frontier."""
    frontiers = Frontiers.of(part.study)
    if frontiers is None:
        return None
    columns = _columns(frontiers)
    cells = [cell for cell in part.study.cells if frontiers.of_cells[cell.key]]
    rows = []
    for cell in cells:
        entries = {}
        for column in columns:
            found = frontiers.estimate(cell.key, column.key)
            entries[column.key] = Entry(found, None, remark(cell, _metric_of(column), found))
        rows.append(TableRow(cell.key, cell.label, entries))
    comparisons = []
    for (a, b), column in product(_pairs(cells), columns):
        if not share_class_prompt(a, b, _metric_of(column)):
            continue
        d = frontiers.compare(a.key, b.key, column.key)
        if d is not None and not math.isnan(d.low):
            sentence = f"{a.label} - {b.label}: {column.heading} {with_interval(d)}"
            comparisons.append(Comparison(column.key, a.key, b.key, d, None, "", sentence))
    notes = [
        f"{HEADINGS[frontiers.fidelity].text} {frontiers.level:.2f} is the highest that every run "
        "here reaches at some strength of its training (python src/evaluate.py "
        "run=DIR experiment=frontier). Of a single training, intervals are by a bootstrap of its "
        "prompts and images.",
        *units_in_words(cells, rows),
        *filter(None, [part.note]),
    ]
    title = "Frontiers: methods at equal fidelity"
    title = f"{title} ({part.words})" if part.words else title
    return Table("frontier", title, "", columns, rows, comparisons, notes, part.words)


def _columns(frontiers: Frontiers) -> list[Column]:
    level = f"{HEADINGS[frontiers.fidelity].text} {frontiers.level:.2f}"
    columns = [Column("at strength", f"strength at {level}", "", "least strength that reaches it")]
    for metric in frontiers.against:
        heading = HEADINGS[metric]
        protocol = f"at the least strength that reaches {level}"
        columns.append(
            Column(f"at {metric}", f"{heading.text} at {level}", heading.better, protocol)
        )
    for metric in frontiers.against:
        text = ("1 - " if HEADINGS[metric].better == "lower" else "") + HEADINGS[metric].text
        protocol = f"best {text} at {frontiers.fidelity} of f or more, averaged over f in [0, 1]"
        columns.append(Column(f"area {metric}", f"area of {text}", "higher", protocol))
    return columns


def _metric_of(column: Column) -> str:
    return column.key.partition(" ")[2]


def _pairs(cells: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
    """The pairs of cells that differ in one setting, or in the method."""

    def are_comparable(a: Cell, b: Cell) -> bool:
        differing = [axis for axis in a.settings if a.settings[axis] != b.settings[axis]]
        return len(differing) == 1 or "method" in differing

    return [(a, b) for a, b in combinations(cells, 2) if are_comparable(a, b)]
