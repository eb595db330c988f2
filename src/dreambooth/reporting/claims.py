"""Gives each claim of the paper one verdict: by one metric, from one pair of settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from dreambooth.reporting.statistics import Difference, holm
from dreambooth.reporting.tables import Comparison, Table, Verdict


def judge(tables: Sequence[Table]) -> list[Table]:
    """Return the tables with the verdicts of their claims.

    A claim is judged by the metric that the paper used, on the pair of settings that is nearest to
    the paper's and, among those, has the most trained pairs. p is corrected (Holm) over all claims
    of the report that have a test, as one family. All other comparisons are shown without a verdict
    and without p.
    """
    deciding: dict[str, Comparison] = {}
    for table in tables:
        for one in table.comparisons:
            before = deciding.get(one.claim)
            if one.decides and (before is None or _rank(one) > _rank(before)):
                deciding[one.claim] = one
    family = list(deciding.values())
    corrected = holm([one.difference for one in family])
    results = {
        id(one): replace(one, difference=d, verdict=_verdict(d, one.sign))
        for one, d in zip(family, corrected, strict=True)
    }

    def result_of(one: Comparison) -> Comparison:
        untested = replace(one, difference=replace(one.difference, p_holm=math.nan))
        return results.get(id(one), untested)

    return [
        replace(table, comparisons=[result_of(one) for one in table.comparisons])
        for table in tables
    ]


def claims_in(tables: Sequence[Table]) -> int:
    """The number of claims that have a verdict, "cannot be judged" included."""
    return sum(bool(one.verdict) for table in tables for one in table.comparisons)


def _rank(one: Comparison) -> tuple[int, int]:
    return one.decides, one.difference.num_trainings


def _verdict(d: Difference, sign: int) -> Verdict:
    if not d.can_be_judged:
        return "cannot be judged"
    if math.isnan(d.p_holm) or d.p_holm >= 0.05 or d.low <= 0 <= d.high:
        return "not settled"
    return "agrees" if (d.mean > 0) == (sign > 0) else "opposite"
