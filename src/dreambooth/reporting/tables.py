"""What a table of the report is: estimates, paired comparisons, the paper's values beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dreambooth.reporting.statistics import Difference, Estimate


@dataclass(frozen=True)
class Column:
    """A score."""

    key: str  # dino
    heading: str  # DINO
    better: str  # "higher", "lower", or "" where neither is
    protocol: str


@dataclass(frozen=True)
class Entry:
    """An estimate and the paper's value, either of which may be absent."""

    estimate: Estimate | None = None
    paper: float | None = None
    text: str = ""  # why there is no estimate, or what to know of it
    claim: str = ""  # what the paper says of this value itself, in words
    agrees: bool | None = None  # None: not settled, or no claim


@dataclass(frozen=True)
class TableRow:
    """A cell of the study, or something that only the paper has."""

    cell: str  # Cell.key, or ""
    label: str
    entries: Mapping[str, Entry]  # of every column, by its key


@dataclass(frozen=True)
class Comparison:
    """Two rows in one score, and what the paper says of them."""

    metric: str  # Column.key
    a: str  # Cell.key
    b: str
    difference: Difference  # a - b
    paper: float | None  # the paper's difference a - b
    claim: str  # what the paper says of it, in words; "" where it says nothing
    agrees: bool | None  # None: no claim, or not settled: 0 in the interval or p_holm >= 0.05
    sentence: str  # "lambda 0 - lambda 1, no class noun: drift +0.93 (+0.90, +0.95)"


@dataclass(frozen=True)
class Table:
    """One of the paper's tables, measured again."""

    key: str  # prior, class_noun, ...: for ids and file names
    title: str
    source: str  # "Table 3 of the paper", or "" where it has none
    columns: Sequence[Column]
    rows: Sequence[TableRow]
    comparisons: Sequence[Comparison]
    notes: Sequence[str]
    part: str = ""  # what its runs have in common, of several tables of a kind: "max_steps 200"


@dataclass(frozen=True)
class Finding:
    """A plain sentence of the summary, made from the figures."""

    sentence: str
    agrees: bool | None  # with the paper; None: not settled
    table: str = ""  # Table.key
