"""The sentences of the summary, made from the tables."""

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
    """Return whether the tables agree with each claim of the paper, ordered by table and claim.

    Scores of the same claim share a sentence if they have the same outcome and their intervals are
    over the same units.
    """
    sentences = []
    for table in tables:
        groups: dict[tuple[str, str, str, bool | None, str], list[Comparison]] = {}
        for comparison in table.comparisons:
            if comparison.claim:
                units = _units(comparison.difference)
                group = (comparison.claim, comparison.a, comparison.b, comparison.agrees, units)
                groups.setdefault(group, []).append(comparison)
        for (claim, a, b, agrees, units), comparisons in groups.items():
            values = ", ".join(map(_value, comparisons))
            context = _bracketed(table.part, _compared_cells(table, claim, a, b))
            sentence = f"{_OPENINGS[agrees].format(claim)}{context}: {values}; {units}."
            sentences.append(Finding(sentence, agrees, table.key))
        sentences += _findings_on_entries(table)
    return sentences


def _units(result: Difference | Estimate) -> str:
    """Say which units an interval is over: "over 5 subjects"."""
    if result.num_subjects == 1:
        return f"one subject, over its {result.unit}"
    return f"over {result.num_subjects} subjects"


def p_in_words(p: float) -> str:
    """ "p = 0.012"; "no p" for NaN."""
    if p != p:
        return "no p"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _compared_cells(table: Table, claim: str, a: str, b: str) -> str:
    """Name the two cells if the claim is about several pairs; "" otherwise."""
    if len({(c.a, c.b) for c in table.comparisons if c.claim == claim}) < 2:
        return ""
    labels = {row.cell: row.label for row in table.rows}
    return f"{labels[a]} - {labels[b]}"


def _bracketed(*words: str) -> str:
    """ " (max_steps 200; lambda 1 - lambda 0)"; "" without words."""
    text = "; ".join(filter(None, words))
    return f" ({text})" if text else ""


def _value(comparison: Comparison) -> str:
    """ "PRES -0.171 (-0.200 to -0.150, p = 0.012; the paper -0.171)"."""
    heading = HEADINGS.get(comparison.metric, Heading(comparison.metric)).text
    paper = "" if comparison.paper is None else f"; the paper {comparison.paper:+.3f}"
    d = comparison.difference
    p = p_in_words(d.p_holm)
    return f"{heading} {d.mean:+.3f} ({d.low:+.3f} to {d.high:+.3f}, {p}{paper})"


def _findings_on_entries(table: Table) -> list[Finding]:
    """Return findings on claims about single values; cells with the same outcome share one."""
    groups: dict[tuple[str, str, bool | None, str], list[tuple[str, Estimate]]] = {}
    for row in table.rows:
        for key, entry in row.entries.items():
            if entry.claim and entry.estimate:
                group = (key, entry.claim, entry.agrees, _units(entry.estimate))
                groups.setdefault(group, []).append((row.label, entry.estimate))
    sentences = []
    for (key, claim, agrees, units), cells in groups.items():
        heading = next(column.heading for column in table.columns if column.key == key)
        values = "; ".join(
            f"{label} {e.mean:.3f} ({e.low:.3f} to {e.high:.3f})" for label, e in cells
        )
        opening = f"{_OPENINGS[agrees].format(claim)}{_bracketed(table.part)}"
        sentence = f"{opening}: {heading}, {values}; {units}."
        sentences.append(Finding(sentence, agrees, table.key))
    return sentences
