"""What `src/plan.py` prints: the cheapest design, its alternatives, the command, and a figure."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreambooth.reporting.designs import (
    ALPHA,
    Design,
    Pilot,
    cheapest,
    cheapest_by_power,
    count_claims,
    designs,
    detectable_effect,
    pilot_of,
)
from dreambooth.reporting.export import counted
from dreambooth.reporting.scores import HEADINGS
from dreambooth.reporting.study import Study
from dreambooth.reporting.variance import least_effect
from dreambooth.runs.overrides import assignment
from dreambooth.runs.settings import read
from dreambooth.runs.values import Positive, Probability

PLANS = Path("reports/plans")
_FIRST_FRESH = 1000  # seed of a drawn subject that no example and no table of ours uses


def plan_study(study: Study, metric: Any, effect: Any, power: Any) -> str:
    """The plan in words. ValueError for missing or invalid arguments."""
    read(Probability, power, "power")
    if not isinstance(metric, str):
        raise ValueError("give metric=..., the score to plan for, as in metric=dino")
    read(Positive, effect, "effect")
    pilot = pilot_of(study, metric, count_claims(study))
    every = designs(pilot, float(effect))
    best = cheapest(every, power)
    lines = [_of_pilot(study, pilot), ""]
    if best is None:
        most = max(every, key=lambda one: one.power)
        return "\n".join(
            [
                *lines,
                f"No study of up to {most.num_subjects} subjects finds a difference of {effect:g} "
                f"with a power of {power:g}; the largest has {most.power:.2f}.",
                f"With that one {_least(pilot, most, power):.3g} could be found: give a larger "
                "effect, or a metric that varies less.",
            ]
        )
    lines += [
        f"To find a difference of {effect:g} in {metric} with a power of {power:g} "
        f"(two-sided, 5 % shared by {pilot.num_claims} claims of the report), run",
        "",
        f"    {best.num_subjects} subjects x {counted(best.num_seeds, 'seed')} x "
        f"{counted(best.num_images, 'image')} of each prompt"
        f"     power {best.power:.2f}, {_hours(pilot, best)}",
        "",
        "Cheaper designs and their power:",
    ]
    cheaper = [one for one in cheapest_by_power(every) if one.power < best.power][-6:]
    lines += [
        f"    {one.num_subjects:3d} subjects x {one.num_seeds} x {one.num_images}"
        f"     power {one.power:.2f}, {_hours(pilot, one)}"
        for one in cheaper
    ] or ["    none"]
    lines += ["", "The command:", f"    {sweep_command(study, best)}"]
    figure = draw(pilot, every, best, float(effect), power, PLANS / f"{study.name}-{metric}.png")
    return "\n".join([*lines, "", f"Power against cost: {figure}"])


def detectable_effects(study: Study, power: Any, metric: Any = None) -> str:
    """The smallest differences that a study finds with the power, a line for each metric."""
    read(Probability, power, "power")
    finished = [trial for trial in study.trials if trial.status.state == "finished"]
    known = dict.fromkeys(name for trial in finished for name in trial.metrics)
    wanted = [name for name in known if name in HEADINGS] if metric is None else [metric]
    if not wanted:
        raise ValueError(f"{study.name} has no scores: give a sweep whose runs are scored")
    lines, num_claims, pilot, refusal = [], count_claims(study), None, None
    for name in wanted:
        try:
            pilot = pilot_of(study, name, num_claims)
        except ValueError as error:
            refusal = error
            lines.append(f"    {name:18s}not known: no two settings can be compared in it")
            continue
        least = detectable_effect(pilot, power)
        seen = f"{least:.3g}" if least else "not known: all pairs differ alike in this study"
        lines.append(f"    {name:18s}{seen}")
    if pilot is None:
        assert refusal is not None
        raise refusal
    first = (
        f"Differences between two settings that {study.name} finds with a power of {power:g} "
        f"({pilot.num_subjects} subjects, {counted(pilot.num_seeds, 'seed')} of each, 5 % shared "
        f"by {num_claims} claims):"
    )
    return "\n".join([first, *lines])


def sweep_command(study: Study, design: Design, same_subject: bool = False) -> str:
    """The sweep of the pilot on as many subjects, seeds and images.

    `same_subject`: on the pilot's own subject, with as many seeds as `num_subjects`, from the first
    that it has not used.
    """
    values: dict[str, list[str]] = {}
    for trial in study.trials:
        for override in trial.run.config.get("overrides", []):
            key, value = assignment(override).key, assignment(override).value
            replaced = _of_subject(key) and not same_subject
            if key not in ("seed", "drawing.images_per_prompt") and not replaced:
                known = values.setdefault(key, [])
                known += [value] if value not in known else []
    words = [f"{key}={','.join(each)}" for key, each in values.items()]
    used = [int(trial.seed) for trial in study.trials if trial.seed.isdigit() and same_subject]
    first, count = (
        (max(used, default=-1) + 1, design.num_subjects) if same_subject else (0, design.num_seeds)
    )
    words += [f"seed={','.join(map(str, range(first, first + count)))}"]
    words += [f"drawing.images_per_prompt={design.num_images}"]
    words += [] if same_subject else _subjects(study, design)
    return shlex.join(["python", "src/train.py", "-m", *words])


def _of_subject(key: str) -> bool:
    """Whether a setting says who the subject is; the others of `subject` are the experiment's."""
    if key in ("subject.num_photos", "subject.prompts", "subject.crop"):
        return False
    return key.partition(".")[0] in ("subject", "photos", "class_noun", "dreambench")


def _subjects(study: Study, design: Design) -> list[str]:
    """Fresh ones of the drawn world; of photos, places for the user's own.

    A folder's class noun is in its `subject.yaml`, since it differs from folder to folder.
    """
    config = next(trial.run.config for trial in study.trials if trial.run.config)
    if bench := config.get("dreambench"):
        names = f"subject.name=NAME1,...,NAME{design.num_subjects}"
        return ["subject=dreambench", f"dreambench={bench}", names]
    if "seed" not in config.get("subject", {}):
        return ["subject=folder", f"photos=FOLDER1,...,FOLDER{design.num_subjects}"]
    nouns = dict.fromkeys(
        str(trial.run.config["subject"]["class_noun"]) for trial in study.trials if trial.run.config
    )
    n = design.num_subjects
    # As many classes as make at most a quarter more subjects than are needed.
    count = max(c for c in range(1, len(nouns) + 1) if c * math.ceil(n / c) <= 1.25 * n)
    chosen, each = list(nouns)[:count], math.ceil(n / count)
    seeds = ",".join(str(_FIRST_FRESH + number) for number in range(each))
    return [
        "subject=miniature",
        f"subject.class_noun={','.join(chosen)}",
        f"subject.seed={seeds}",
    ]


def draw(
    pilot: Pilot, every: Sequence[Design], best: Design, effect: float, power: float, path: Path
) -> Path:
    """The curve of power against cost, as a PNG."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from dreambooth.reporting.look import INK, MUTED, SERIES, STYLE

    known = not math.isnan(best.hours)
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        canvas = Figure(figsize=(5.2, 3.2), layout="constrained")
        FigureCanvasAgg(canvas)
        axes = canvas.subplots()
        for number, seeds in enumerate(sorted({one.num_seeds for one in every})):
            line = cheapest_by_power([one for one in every if one.num_seeds == seeds])
            x = [one.hours if known else one.num_subjects * one.num_seeds for one in line]
            axes.plot(
                x,
                [one.power for one in line],
                color=SERIES[number % len(SERIES)],
                label=counted(seeds, "seed"),
            )
        at = best.hours if known else best.num_subjects * best.num_seeds
        axes.axhline(power, color=MUTED, lw=0.6, ls=":")
        axes.plot([at], [best.power], "o", color=INK, ms=5)
        axes.annotate(
            f"{best.num_subjects} subjects x {best.num_seeds} x {best.num_images}",
            (at, best.power),
            xytext=(6, -12),
            textcoords="offset points",
        )
        axes.set(
            xlabel="hours of this machine" if known else "runs of a setting",
            ylabel="power",
            title=f"{pilot.metric}: a difference of {effect:g}",
            ylim=(0, 1.02),
            xlim=(0, 2.5 * at),
        )
        axes.legend(frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        canvas.savefig(path, dpi=200, facecolor="white", metadata={"Software": None})
    return path


def _of_pilot(study: Study, pilot: Pilot) -> str:
    parts = pilot.components
    spread = [f"between subjects {math.sqrt(parts.subject):.3g}"]
    if parts.seed is not None:
        spread.append(f"between trainings of one subject {math.sqrt(parts.seed):.3g}")
    if parts.image is not None:
        spread.append(f"of one image of each prompt {math.sqrt(parts.image):.3g}")
    unknown = [
        f"what more {name} would gain is not known ({why})"
        for part, name, why in (
            (parts.seed, "seeds", "the pilot has one seed of each subject"),
            (parts.image, "images", "the pilot has one image of each prompt"),
        )
        if part is None
    ]
    return (
        f"{study.name}: {pilot.num_subjects} subjects, {counted(pilot.num_seeds, 'seed')} of "
        f"each, {pilot.num_comparisons} comparisons. Standard deviation of a difference in "
        f"{pilot.metric}: {', '.join([*spread, *unknown])}."
    )


def _least(pilot: Pilot, design: Design, power: float) -> float:
    variance = pilot.components.of_subject(design.num_seeds, design.num_images)
    return least_effect(variance, design.num_subjects, ALPHA / pilot.num_claims, power)


def _hours(pilot: Pilot, design: Design) -> str:
    runs = pilot.num_settings * design.num_subjects * design.num_seeds
    return f"{runs} runs" + ("" if math.isnan(design.hours) else f", {design.hours:.1f} h")
