"""How many more runs would give a claim its verdict, where there are too few."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from dreambooth.reporting.claims import claims_in
from dreambooth.reporting.designs import ALPHA, MOST_SUBJECTS, Design
from dreambooth.reporting.floor import between_seeds, shipped_floor
from dreambooth.reporting.plan import sweep_command
from dreambooth.reporting.scores import ScoreReader
from dreambooth.reporting.statistics import LEAST_PAIRS, Difference
from dreambooth.reporting.study import Cell, Study
from dreambooth.reporting.tables import Comparison, Table
from dreambooth.reporting.variance import power

POWER = 0.8


def with_needed_runs(study: Study, tables: Sequence[Table]) -> list[Table]:
    """Add to each comparison that cannot be judged how many more runs would settle it, and to its
    table a note with the command."""
    reader, num_claims = ScoreReader(), max(1, claims_in(tables))
    cells = {cell.key: cell for cell in study.cells}
    advised = []
    for table in tables:
        comparisons, wanted = list[Comparison](), list[int]()
        for one in table.comparisons:
            if one.verdict == "cannot be judged":
                both = [cells[one.a], cells[one.b]]
                protocol = next(c.protocol for c in table.columns if c.key == one.metric)
                sd = _between_seeds(study, both, one.metric, protocol, reader)
                units = units_needed(one.difference, sd, num_claims)
                wanted += [] if units is None else [units]
                one = replace(one, needed=_in_words(one.difference, units))
            comparisons.append(one)
        notes = list(table.notes)
        few = [one.difference for one in table.comparisons if not one.difference.can_be_judged]
        if few:
            notes.append(_advice(study, few[0], max(wanted, default=None)))
        advised.append(replace(table, comparisons=comparisons, notes=notes))
    return advised


def units_needed(d: Difference, sd: float | None, num_claims: int) -> int | None:
    """How many units (subjects, or trainings of the subject) find a difference as large as this.

    With a power of 0.8, at a level of 5 % shared by the claims. The spread of the units is the
    study's own; of a single training it is `sqrt(2) sd`, of two trainings that differ by their
    seeds. None where the spread is not known, MOST_SUBJECTS + 1 where so many are not enough.
    """
    if d.effect_size == 0:
        return MOST_SUBJECTS + 1
    if d.unit in ("subjects", "trainings"):
        spread = 0.0 if math.isnan(d.effect_size) else abs(d.mean / d.effect_size)
    elif sd is not None:
        spread = math.sqrt(2) * sd
    else:
        return None
    least = math.ceil(LEAST_PAIRS / _units(d)[1])
    for units in range(max(least, 2), MOST_SUBJECTS + 1):
        if power(d.mean, spread**2, units, ALPHA / num_claims) >= POWER:
            return units
    return MOST_SUBJECTS + 1


def _in_words(d: Difference, units: int | None) -> str:
    have, each, noun = _units(d)
    if units is None:
        return (
            f"at least {2 * (LEAST_PAIRS - d.num_trainings)} more runs of the two settings are "
            "needed; how many would settle it is not known, since no spread between trainings is"
        )
    if units > MOST_SUBJECTS:
        return f"more than {MOST_SUBJECTS} {noun} would be needed to settle so small a difference"
    more = units - have
    return (
        f"if it is as large as it looks, {2 * more * each} more runs would settle it ({more} more "
        f"{noun} of both settings)"
    )


def _advice(study: Study, d: Difference, units: int | None) -> str:
    """The sentence below a table, with the planner's command."""
    runs = "One training run" if d.num_trainings == 1 else f"{d.num_trainings} training runs"
    have, each, noun = _units(d)
    more = min(units or math.ceil(LEAST_PAIRS / each), MOST_SUBJECTS) - have
    num_runs = len([cell for cell in study.cells if cell.finished]) * more * each
    needed = f"{num_runs} more runs would settle it, if it is as large as it looks"
    if units is None:
        needed = f"at least {num_runs} more runs are needed"
    elif units > MOST_SUBJECTS:
        needed = f"{num_runs} more runs would settle the larger differences only"
    design = Design(more, each, _images_per_prompt(study), math.nan, math.nan)
    command = sweep_command(study, design, same_subject=noun == "seeds")
    about = " (about this subject only)" if noun == "seeds" else ""
    return f"{runs} of a setting: the direction cannot be judged; {needed}{about}: {command}"


def _units(d: Difference) -> tuple[int, int, str]:
    """How many units there are, the trainings of each, and their name."""
    if d.unit == "subjects":
        return d.num_subjects, d.num_trainings // d.num_subjects, "subjects"
    return d.num_trainings, 1, "seeds"


def _between_seeds(
    study: Study, cells: Sequence[Cell], metric: str, protocol: str, reader: ScoreReader
) -> float | None:
    model = cells[0].settings.get("model", study.fixed.get("model", ""))
    floor = between_seeds(study.cells, metric, reader) or shipped_floor(model, metric, protocol)
    return None if floor is None else floor.sd


def _images_per_prompt(study: Study) -> int:
    """Images of each prompt in the study's runs, rounded."""
    found = [(id(t), r["prompt"]) for t in study.trials for r in t.rows if r["set"] == "prompts"]
    return max(1, round(len(found) / max(1, len(set(found)))))
