"""MetricBench: how well a metric ranks pictures whose relation to a subject is known.

With photos, people must be asked which pictures are better; with drawings, it is known. A *series*
has several *levels* of pictures, the best level first. A metric is judged by how well its values
follow the order of the levels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from dreambooth.metrics.evaluation import PictureSets, Scorer, evaluate
from dreambooth.miniature.damage import damage_and_label
from dreambooth.miniature.drawing import draw
from dreambooth.miniature.scenes import casual_photos
from dreambooth.miniature.subjects import drawn_subject, look_alike, random_individual
from dreambooth.miniature.world import CLASSES, CONTEXTS, Individual, Scene, random_scene
from dreambooth.runs.pictures import Picture
from dreambooth.runs.settings import check_count

HUMAN_STUDY = "The paper's study of people's choices: Pearson 0.32 with DINO, 0.27 with CLIP-I."
NUM_PHOTOS = 5
SEED = 977
# The fields of an individual besides class and main colour, in four groups.
UNCAPTIONED = (
    ("second",),
    ("pattern", "pattern_seed", "pattern_angle", "pattern_period"),
    ("emblem", "emblem_colour"),
    ("width", "head", "extras"),
)
Choose = Callable[[np.random.Generator, Individual], Individual]
Degrade = Callable[[np.random.Generator, np.ndarray], np.ndarray]  # uint8 (H, W, 3)


@dataclass(frozen=True)
class Level:
    """One kind of pictures in a series. By default, fresh scenes of the subject."""

    name: str
    choose: Choose = lambda _, subject: subject  # the individual that a picture shows
    degrade: Degrade = lambda _, pixels: pixels
    is_photo: bool = False  # one of the subject's photos, instead of a fresh scene

    def sample(self, rng: np.random.Generator, photos: Sequence[Scene]) -> tuple[Scene, np.ndarray]:
        """Return a random scene of this level and its pixels; `photos` are those of the subject."""
        if self.is_photo:
            scene = photos[int(rng.integers(len(photos)))]
        else:
            scene = random_scene(rng, self.choose(rng, photos[0].individual))
        return scene, self.degrade(rng, draw(scene))


def same_class_and_colour(rng: np.random.Generator, subject: Individual) -> Individual:
    return look_alike(rng, subject, both_colours=False)


def same_class_other_colour(rng: np.random.Generator, subject: Individual) -> Individual:
    other = random_individual(rng, subject.class_noun)
    return other if other.main != subject.main else same_class_other_colour(rng, subject)


def another_class(rng: np.random.Generator, subject: Individual) -> Individual:
    return random_individual(
        rng, str(rng.choice([noun for noun in CLASSES if noun != subject.class_noun]))
    )


def change_parts(count: int) -> Choose:
    """Replace `count` (0..4) of the groups in `UNCAPTIONED` by those of another individual, which
    differs from the subject in all four."""

    def choose(rng: np.random.Generator, subject: Individual) -> Individual:
        while True:
            other = same_class_and_colour(rng, subject)
            body_colours = {subject.main, subject.second, other.second}
            emblem_colours = {subject.emblem_colour, other.emblem_colour}
            differs = all(getattr(other, k) != getattr(subject, k) for k, *_ in UNCAPTIONED)
            if differs and not body_colours & emblem_colours:  # else an emblem may be invisible
                break
        parts = [UNCAPTIONED[i] for i in rng.permutation(len(UNCAPTIONED))[:count]]
        return replace(subject, **{name: getattr(other, name) for part in parts for name in part})

    return choose


def blur(sigma_px: float) -> Degrade:
    return lambda _, pixels: np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma_px))


def noise(std: float) -> Degrade:
    """Add Gaussian noise of standard deviation `std`, in grey levels of 255."""

    def degrade(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
        noisy = pixels + std * rng.standard_normal(pixels.shape)
        return noisy.round().clip(0, 255).astype(np.uint8)

    return degrade


def damage(times: int) -> Degrade:
    """Apply damage of a random kind (damage.py) `times` times."""

    def degrade(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
        for _ in range(times):
            pixels, _ = damage_and_label(pixels, draw(random_scene(rng)), rng)
        return pixels

    return degrade


SAME = Level("same individual")
SERIES: dict[str, tuple[Level, ...]] = {
    "relation": (
        SAME,
        Level("same class and colour", same_class_and_colour),
        Level("same class", same_class_other_colour),
        Level("another class", another_class),
    ),
    "parts changed": (SAME, *(Level(f"{k} of 4", change_parts(k)) for k in (1, 2, 3, 4))),
    "blur": (SAME, *(Level(f"{s:g} px", degrade=blur(s)) for s in (0.7, 1.4, 2.8))),
    "noise": (SAME, *(Level(f"{s:g} of 255", degrade=noise(s)) for s in (10, 25, 60))),
    "damaged": (SAME, *(Level(f"{k} damages", degrade=damage(k)) for k in (1, 2, 4))),
    "copies": (Level("photos, noise 5 of 255", degrade=noise(5), is_photo=True), SAME),
}


@dataclass(frozen=True)
class SeriesResult:
    """How one metric ranks the pictures of a series.

    The AUC of a level is the probability that a picture of the first level has a higher value than
    one of this level; 0.5 is chance. The correlations are those of a picture's value with the place
    of its level; they are NaN if all values are equal.
    """

    metric: str
    num_pairs: int  # of a picture and a subject
    means: tuple[float, ...]  # of each level
    aucs: tuple[float, ...]  # of each level except the first
    pearson: float
    spearman: float


def judge_metric(metric: str, values: np.ndarray) -> SeriesResult:
    """Judge a metric by its `values` (levels, N), the best level first."""
    from scipy import stats

    truth = np.repeat(-np.arange(len(values)), values.shape[1])
    varies = np.ptp(values) > 0
    return SeriesResult(
        metric,
        values.size,
        means=tuple(values.mean(1).tolist()),
        aucs=tuple(
            float(stats.mannwhitneyu(values[0], level).statistic) / values.shape[1] ** 2
            for level in values[1:]
        ),
        pearson=float(stats.pearsonr(truth, values.ravel()).statistic) if varies else np.nan,
        spearman=float(stats.spearmanr(truth, values.ravel()).statistic) if varies else np.nan,
    )


def bench(
    scorers: Sequence[Scorer], num_subjects: int, num_images: int
) -> dict[str, list[SeriesResult]]:
    """Return series -> the results of each metric that gives every picture a number.

    The subjects are `num_subjects` drawn individuals of all classes in turn, with 5 photos each.
    Each subject has `num_images` pictures of each level.
    """
    check_count("bench.num_subjects", num_subjects)
    check_count("bench.num_images", num_images)
    if not scorers:
        raise ValueError("metrics=none has no metric to judge: choose other metrics")
    results: dict[str, list[SeriesResult]] = {}
    for series, levels in SERIES.items():
        values: dict[str, list[np.ndarray]] = {}
        for number in range(num_subjects):
            for metric, scores in _scores(scorers, levels, number, num_images).items():
                values.setdefault(metric, []).append(scores)
        complete = {metric: v for metric, v in values.items() if len(v) == num_subjects}
        results[series] = [
            judge_metric(metric, np.concatenate(v, 1)) for metric, v in complete.items()
        ]
    return results


def report(results: dict[str, list[SeriesResult]]) -> str:
    """Return a Markdown table for each series."""
    lines = []
    for series, metrics in results.items():
        levels = [level.name for level in SERIES[series]]
        columns = [*(f"mean: {name}" for name in levels), *(f"AUC: {n}" for n in levels[1:])]
        lines.append(f"{series}: {metrics[0].num_pairs} pairs, best first\n")
        lines.append("| metric | Pearson | Spearman | " + " | ".join(columns) + " |")
        lines.append("|---" * (len(columns) + 3) + "|")
        for m in metrics:
            numbers = (m.pearson, m.spearman, *m.means, *m.aucs)
            lines.append(f"| {m.metric} | " + " | ".join(f"{x:.3f}" for x in numbers) + " |")
        lines.append("")
    return "\n".join([*lines, HUMAN_STUDY])


def _scores(
    scorers: Sequence[Scorer], levels: Sequence[Level], number: int, num_images: int
) -> dict[str, np.ndarray]:
    """Return metric -> values (levels, num_images) of subject `number`, for the metrics that give
    every picture a number."""
    noun = CLASSES[number % len(CLASSES)]
    rng = np.random.default_rng([SEED, number])
    photos = casual_photos(noun, number, NUM_PHOTOS)
    pictures = []
    for i in range(len(levels) * num_images):
        scene, pixels = levels[i // num_images].sample(rng, photos)
        prompt = (
            f"a {noun} {CONTEXTS[scene.context]}"  # the prompt that a run would use for this scene
        )
        pictures.append(Picture(torch.from_numpy(pixels).permute(2, 0, 1), prompt, i))
    sets = PictureSets(drawn_subject(noun, number, NUM_PHOTOS), "", pictures, [])
    rows = evaluate(scorers, sets).rows
    metrics = [n for n in rows[0] if all(isinstance(row.get(n), float) for row in rows)]
    return {
        name: np.array([row[name] for row in rows], float).reshape(len(levels), num_images)
        for name in metrics
    }
