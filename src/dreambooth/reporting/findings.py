"""The sentences of the summary, made from the tables: one for each claim of the paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from dreambooth.reporting.scores import HEADINGS, Heading
from dreambooth.reporting.statistics import Difference, Estimate
from dreambooth.reporting.tables import VERDICTS, Comparison, Finding, Table, Verdict

_OPENINGS: dict[Verdict, str] = {
    "agrees": "As in the paper, {}",
    "opposite": "Against the paper, which says that {}",
    "not settled": "It is not settled whether {}",
    "cannot be judged": "It cannot be judged whether {}",
}


def findings(tables: Sequence[Table]) -> list[Finding]:
    """Return the verdict on each claim, ordered by table and claim, then findings without one.

    The latter are about the paper's limitations, of which it gives no values.
    """
    judged = {c.claim: (t, c) for t in tables for c in t.comparisons if c.verdict}
    found = [_on_claim(table, one) for table, one in judged.values()]
    for table in tables:
        unmeasured = {c.claim: c for c in table.comparisons if c.claim and c.claim not in judged}
        for claim, one in unmeasured.items():
            judged[claim] = (table, one)
            opening = _OPENINGS["cannot be judged"].format(claim)
            sentence = (
                f"{opening}{_bracketed(table.part)}: the metric by which the paper judges it was "
                f"not measured. Beside it: {_beside(table, one)}."
            )
            found.append(Finding(sentence, "cannot be judged", table.key))
    return found + [finding for table in tables for finding in _on_entries(table)]


def by_verdict(found: Sequence[Finding]) -> list[tuple[Verdict, Sequence[str], list[Finding]]]:
    """Group the findings by verdict, in the order of VERDICTS, without empty groups.

    A group is (verdict, shared limits, findings): limits that all findings of a group have are
    taken out of them.
    """
    groups: list[tuple[Verdict, Sequence[str], list[Finding]]] = []
    for verdict in VERDICTS:
        group = [finding for finding in found if finding.verdict == verdict]
        shared = [x for x in group[0].limits if all(x in f.limits for f in group)] if group else []
        if len(group) > 1:
            own = [[x for x in finding.limits if x not in shared] for finding in group]
            group = [replace(f, limits=limits) for f, limits in zip(group, own, strict=True)]
        if group:
            groups.append((verdict, shared if len(group) > 1 else [], group))
    return groups


def _on_claim(table: Table, one: Comparison) -> Finding:
    opening = _OPENINGS[one.verdict].format(one.claim)
    context = _bracketed(table.part, _compared_cells(table, one))
    sentence = f"{opening}{context}: {_value(one)}."
    if beside := _beside(table, one):
        sentence += f" Beside it, without a verdict: {beside}."
    limits = [over(one.difference), one.needed]
    return Finding(sentence, one.verdict, table.key, [_as_sentence(x) for x in limits if x])


def _as_sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def over(result: Difference | Estimate) -> str:
    """Say which units an interval is over, and so what it is about."""
    if result.unit == "subjects":
        trainings = f" ({result.num_trainings} trainings)"
        more = result.num_trainings > result.num_subjects
        return f"over {result.num_subjects} subjects{trainings if more else ''}"
    if result.unit == "trainings":
        return f"over {result.num_trainings} trainings of one subject, and about it only"
    return "one training run: intervals are the spread over its prompts or images"


def p_in_words(p: float) -> str:
    """ "p = 0.012"; "no p" for NaN."""
    if math.isnan(p):
        return "no p"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _compared_cells(table: Table, one: Comparison) -> str:
    """Name the two cells if the claim is about several pairs; "" otherwise."""
    if len({(c.a, c.b) for c in table.comparisons if c.claim == one.claim}) < 2:
        return ""
    labels = {row.cell: row.label for row in table.rows}
    return f"{labels[one.a]} - {labels[one.b]}"


def _bracketed(*words: str) -> str:
    """ " (max_steps 200; lambda 1 - lambda 0)"; "" without words."""
    text = "; ".join(filter(None, words))
    return f" ({text})" if text else ""


def _beside(table: Table, one: Comparison) -> str:
    """The other scores that bear on a claim, of the same pair of settings."""
    others = [
        c
        for c in table.comparisons
        if c.claim == one.claim and (c.a, c.b) == (one.a, one.b) and not c.verdict
    ]
    return ", ".join(map(_value, others))


def _value(comparison: Comparison) -> str:
    """ "PRES -0.171 (-0.200 to -0.150, p = 0.012; the paper -0.171)"."""
    heading = HEADINGS.get(comparison.metric, Heading(comparison.metric)).text
    d = comparison.difference
    p = "" if math.isnan(d.p_holm) else f", {p_in_words(d.p_holm)}"
    paper = "" if comparison.paper is None else f"; the paper {comparison.paper:+.3f}"
    return f"{heading} {d.mean:+.3f} ({d.low:+.3f} to {d.high:+.3f}{p}{paper})"


def _on_entries(table: Table) -> list[Finding]:
    """Return findings on single values; cells over the same units share one."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for row in table.rows:
        for entry in row.entries.values():
            if entry.finding and (e := entry.estimate):
                text = f"{row.label} {e.mean:.3f} ({e.low:.3f} to {e.high:.3f})"
                groups.setdefault((entry.finding, over(e), table.part), []).append(text)
    return [
        Finding(
            f"{words[0].upper()}{words[1:]}{_bracketed(part)}: {'; '.join(values)}.",
            "",
            table.key,
            [_as_sentence(units)],
        )
        for (words, units, part), values in groups.items()
    ]
