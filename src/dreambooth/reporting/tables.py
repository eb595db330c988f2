"""The parts of a report's table: estimates, paired comparisons and the paper's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dreambooth.reporting.statistics import Difference, Estimate

Verdict = Literal["agrees", "opposite", "not settled", "cannot be judged", ""]
"""On a claim of the paper; "" for what is no claim, or does not decide about it."""


VERDICTS: dict[Verdict, str] = {  # -> the heading of its part of the summary
    "agrees": "Agrees with the paper",
    "opposite": "Opposite to the paper",
    "not settled": "Not settled",
    "cannot be judged": "Cannot be judged",
    "": "Findings without a verdict",
}
OVER = {  # unit of an interval -> what follows it
    "subjects": "",
    "trainings": " over trainings",
    "prompts": " over prompts of one training",
    "images": " over images of one training",
}


@dataclass(frozen=True)
class Column:
    """A column: one score, measured by one protocol."""

    key: str  # the metric: dino
    heading: str  # DINO
    better: str  # "higher", "lower", or "" if neither is better
    protocol: str  # how the score was measured, in words


@dataclass(frozen=True)
class Entry:
    """An estimate and the paper's value, either of which may be absent."""

    estimate: Estimate | None = None
    paper: float | None = None
    text: str = ""  # why the estimate is missing, or a remark on it
    finding: str = ""  # what the summary says of the estimate: "the prompted context appears"


@dataclass(frozen=True)
class TableRow:
    """A cell of the study, or a row that only the paper has."""

    cell: str  # Cell.key; "" for a row of the paper
    label: str
    entries: Mapping[str, Entry]  # Column.key -> entry, for every column


@dataclass(frozen=True)
class Comparison:
    """The difference of two rows in one score, and the paper's claim that it bears on."""

    metric: str  # Column.key
    a: str  # Cell.key
    b: str
    difference: Difference  # a - b
    paper: float | None  # the paper's difference a - b
    claim: str  # the paper's claim, in words; "" if it makes none
    sentence: str  # "lambda 0 - lambda 1, no class noun: drift +0.93 (+0.90, +0.95)"
    sign: int = 0  # of the difference, as claimed; 0 without a claim
    # 0: the score does not decide about the claim; else 1 + `paper.num_chosen`: the highest decides
    decides: int = 0
    verdict: Verdict = ""
    needed: str = ""  # where it cannot be judged: how many more runs would settle it


@dataclass(frozen=True)
class Table:
    """A table of the paper, measured again, or a table of an axis that the paper does not vary."""

    key: str  # for ids and file names: prior, class_noun, ...
    title: str
    source: str  # "Table 3 of the paper"; "" if the paper has no such table
    columns: Sequence[Column]
    rows: Sequence[TableRow]
    comparisons: Sequence[Comparison]
    notes: Sequence[str]
    part: str = ""  # how its runs differ from those of other tables of the axis: "max_steps 200"


@dataclass(frozen=True)
class Finding:
    """A sentence of the summary."""

    sentence: str
    verdict: Verdict  # "" for a finding that the paper claims nothing about
    table: str = ""  # Table.key
    limits: Sequence[str] = ()  # sentences: what its interval is over, what would settle it

    def __str__(self) -> str:
        return " ".join([self.sentence, *self.limits])
