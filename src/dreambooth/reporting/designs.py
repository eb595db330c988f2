"""How many subjects, training seeds and images are enough: designs by their power and their cost.

A pilot tells where the spread of a comparison comes from (variance.py) and what a run costs. A
design is called enough if Student's t over its subjects finds the effect with the power that is
asked for, at a level of 5 % shared among all claims of the report (the strictest step of Holm's
correction, so that the promise holds whichever claim it is).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

from dreambooth.metrics.columns import image_set_of
from dreambooth.reporting.claims import claims_in
from dreambooth.reporting.notes import share_class_prompt
from dreambooth.reporting.scores import ScoreReader
from dreambooth.reporting.statistics import LEAST_PAIRS, paired
from dreambooth.reporting.study import Study, Trial
from dreambooth.reporting.study_tables import tables_of
from dreambooth.reporting.variance import (
    Components,
    components,
    least_effect,
    mean_components,
    power,
)

ALPHA = 0.05
MOST_SUBJECTS, MOST_SEEDS = 60, 5
IMAGES = (1, 2, 4, 8)  # images of each prompt


@dataclass(frozen=True)
class Pilot:
    """What a study tells of one metric."""

    metric: str
    components: Components
    num_settings: int  # cells of the study
    num_comparisons: int  # that the components were estimated from
    num_claims: int  # among which the level is shared
    num_subjects: int
    num_seeds: int
    num_images: float  # images of each prompt
    train_seconds: float  # of a run, with all that does not depend on the number of images
    image_seconds: float  # to draw and score one image of each prompt


@dataclass(frozen=True)
class Design:
    """A study that could be run: every setting on the same subjects and seeds."""

    num_subjects: int
    num_seeds: int
    num_images: int
    power: float
    hours: float


def pilot_of(study: Study, metric: str, num_claims: int) -> Pilot:
    """What the study says of one metric: its components of variance, and what a run costs.

    `num_claims` is that of `count_claims`.

    ValueError where the study has no two settings with the metric, or one subject only.
    """
    finished = [trial for trial in study.trials if trial.status.state == "finished"]
    known = sorted({name for trial in finished for name in trial.metrics})
    if not known:
        raise ValueError(f"{study.name} has no scores: give a sweep whose runs are scored")
    if metric not in known:
        raise ValueError(
            f"metric={metric} is not among the scores of {study.name}: give one of "
            f"{', '.join(known)}"
        )
    measured = ScoreReader()
    cells = [cell for cell in study.cells if cell.finished]
    several = []
    for a, b in combinations(cells, 2):
        if not share_class_prompt(a, b, metric):
            continue
        differences = paired(*(measured.scores(cell.finished, metric) for cell in (a, b)))
        found = components(differences)
        if found is not None:
            several.append(found)
    if not several:
        raise ValueError(
            f"{study.name} cannot be a pilot for {metric}: no two of its settings can be compared "
            "in it on two subjects; run at least two subjects, better five, with the same settings"
        )
    runs = {(trial.subject, trial.seed) for trial in finished}
    subjects = {subject for subject, _ in runs}
    scores = [
        pictures for cell in cells for pictures in measured.scores(cell.finished, metric).values()
    ]
    prompts = {template for pictures in scores for template, _ in pictures}
    images = sum(map(len, scores)) / (len(scores) * max(1, len(prompts)))
    train, draw = _seconds(finished)
    return Pilot(
        metric=metric,
        components=mean_components(several),
        num_settings=len(cells),
        num_comparisons=len(several),
        num_claims=num_claims,
        num_subjects=len(subjects),
        num_seeds=round(len(runs) / len(subjects)),
        num_images=images,
        train_seconds=train,
        image_seconds=draw / images if image_set_of(metric) == "prompts" else draw,
    )


def _seconds(trials: Sequence[Trial]) -> tuple[float, float]:
    """Mean seconds of a run: of all but generating and scoring images, and of these two."""
    seconds = [trial.provenance.get("seconds", {}) for trial in trials]
    known = [each for each in seconds if each]
    if not known:
        return math.nan, math.nan
    drawing = [each.get("draw", 0.0) + each.get("score", 0.0) for each in known]
    whole = [sum(each.values()) for each in known]
    drawn = sum(drawing) / len(known)
    return sum(whole) / len(known) - drawn, drawn


def count_claims(study: Study) -> int:
    """The claims of the paper that the study's report judges; 1 if there are none."""
    return max(1, claims_in(tables_of(study)))


def designs(pilot: Pilot, effect: float) -> list[Design]:
    """All designs whose power the pilot can predict, the cheapest first.

    More than one seed only where the pilot has several, else their gain is not known; likewise
    images.
    """
    parts = pilot.components
    seeds = range(1, MOST_SEEDS + 1) if parts.seed is not None else (pilot.num_seeds,)
    images = IMAGES if parts.image is not None else (max(1, round(pilot.num_images)),)
    found = []
    for n, k, m in product(range(2, MOST_SUBJECTS + 1), seeds, images):
        if n * k < LEAST_PAIRS:
            continue
        variance = parts.of_subject(k, m)
        found.append(
            Design(
                n,
                k,
                m,
                power(effect, variance, n, ALPHA / pilot.num_claims),
                pilot.num_settings * n * k * (pilot.train_seconds + m * pilot.image_seconds) / 3600,
            )
        )
    return sorted(found, key=lambda one: (_cost(one), -one.power))


def _cost(design: Design) -> float:
    """Hours, or where they are not known the number of runs."""
    known = not math.isnan(design.hours)
    return design.hours if known else float(design.num_subjects * design.num_seeds)


def cheapest(found: Sequence[Design], wanted: float) -> Design | None:
    """The first of designs in the order of their cost that has the power `wanted`."""
    return next((design for design in found if design.power >= wanted), None)


def cheapest_by_power(found: Sequence[Design]) -> list[Design]:
    """The designs, in the order of their cost, whose power no cheaper design reaches."""
    best: list[Design] = []
    for design in found:
        if not best or design.power > best[-1].power:
            best.append(design)
    return best


def detectable_effect(pilot: Pilot, wanted: float) -> float:
    """The smallest difference that the pilot study finds with the power `wanted`."""
    variance = pilot.components.of_subject(pilot.num_seeds, pilot.num_images)
    return least_effect(variance, pilot.num_subjects, ALPHA / pilot.num_claims, wanted)
