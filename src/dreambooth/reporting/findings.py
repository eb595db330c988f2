"""Plain sentences for the summary, made from the tables."""

from __future__ import annotations

from collections.abc import Sequence

from dreambooth.reporting.scores import HEADINGS, Heading
from dreambooth.reporting.statistics import Difference, Estimate
from dreambooth.reporting.tables import Comparison, Finding, Table

_OPENINGS = {
    True: "As in the paper, {}",
    False: "Against the paper, which says that {}",
    None: "It is not settled whether {}",
}


def findings(tables: Sequence[Table]) -> list[Finding]:
    """What the paper claims, and whether the tables agree; by table, then by claim.

    Scores of one claim with the same outcome are in one sentence, if their intervals are over the
    same units too.
    """
    found = []
    for table in tables:
        groups: dict[tuple[str, str, str, bool | None, str], list[Comparison]] = {}
        for one in table.comparisons:
            if one.claim:
                alike = (one.claim, one.a, one.b, one.agrees, over(one.difference))
                groups.setdefault(alike, []).append(one)
        for (claim, a, b, agrees, units), some in groups.items():
            values = ", ".join(map(_value, some))
            which = _bracketed(table.part, _which(table, claim, a, b))
            sentence = f"{_OPENINGS[agrees].format(claim)}{which}: {values}; {units}."
            found.append(Finding(sentence, agrees, table.key))
        found += _of_entries(table)
    return found


def over(of: Difference | Estimate) -> str:
    """What an interval is over, in words."""
    if of.num_subjects == 1:
        return f"one subject, over its {of.unit}"
    return f"over {of.num_subjects} subjects"


def p_in_words(p: float) -> str:
    """ "p = 0.012"; "no p" of NaN."""
    if p != p:
        return "no p"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _which(table: Table, claim: str, a: str, b: str) -> str:
    """The two cells, where several pairs have the same claim."""
    if len({(one.a, one.b) for one in table.comparisons if one.claim == claim}) < 2:
        return ""
    labels = {row.cell: row.label for row in table.rows}
    return f"{labels[a]} - {labels[b]}"


def _bracketed(*words: str) -> str:
    """ " (max_steps 200; lambda 1 - lambda 0)"; "" without words."""
    said = "; ".join(filter(None, words))
    return f" ({said})" if said else ""


def _value(one: Comparison) -> str:
    """ "PRES -0.171 (-0.200 to -0.150, p = 0.012; the paper -0.171)"."""
    heading = HEADINGS.get(one.metric, Heading(one.metric)).text
    paper = "" if one.paper is None else f"; the paper {one.paper:+.3f}"
    d = one.difference
    p = p_in_words(d.p_holm)
    return f"{heading} {d.mean:+.3f} ({d.low:+.3f} to {d.high:+.3f}, {p}{paper})"


def _of_entries(table: Table) -> list[Finding]:
    """Claims of values; cells with the same outcome are in one sentence."""
    groups: dict[tuple[str, str, bool | None, str], list[tuple[str, Estimate]]] = {}
    for row in table.rows:
        for key, entry in row.entries.items():
            if entry.claim and entry.estimate:
                alike = (key, entry.claim, entry.agrees, over(entry.estimate))
                groups.setdefault(alike, []).append((row.label, entry.estimate))
    found = []
    for (key, claim, agrees, units), cells in groups.items():
        heading = next(column.heading for column in table.columns if column.key == key)
        values = "; ".join(
            f"{label} {e.mean:.3f} ({e.low:.3f} to {e.high:.3f})" for label, e in cells
        )
        opening = f"{_OPENINGS[agrees].format(claim)}{_bracketed(table.part)}"
        sentence = f"{opening}: {heading}, {values}; {units}."
        found.append(Finding(sentence, agrees, table.key))
    return found
