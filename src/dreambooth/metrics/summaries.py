"""Means of some of a run's images with their intervals, and tables of them as plain text."""

from collections.abc import Iterable, Mapping, Sequence

from dreambooth.metrics.columns import interval_of, scores_of, units_of_run
from dreambooth.runs.files import Score


def summary_of(rows: Sequence[Mapping[str, Score]], names: Iterable[str]) -> dict[str, Score]:
    """The mean of each metric that the rows have, and its 95 % interval over their prompts.

    `rows`: as `evaluate` returns them. Keys: NAME, and NAME_low and NAME_high, which are None for a
    single value.
    """
    summary: dict[str, Score] = {}
    for name in names:
        if scores := scores_of(rows, name):
            units = units_of_run(scores)[1]
            low, high = interval_of(name, units, scores.values()) or (None, None)
            mean = sum(scores.values()) / len(scores)
            summary |= {name: mean, f"{name}_low": low, f"{name}_high": high}
    return summary


def text_table(summaries: Sequence[Mapping[str, Score]]) -> str:
    """Summaries as a table of plain text: a line for each, with intervals in brackets."""
    names = list(dict.fromkeys(key for summary in summaries for key in summary))
    names = [name for name in names if not name.endswith(("_low", "_high"))]
    lines = [names, *([_entry(summary, name) for name in names] for summary in summaries)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([text.ljust(n) for text, n in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def _entry(summary: Mapping[str, Score], name: str) -> str:
    value, low, high = (summary.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    if value is None or f"{name}_low" not in summary:
        return "" if value is None else str(value)
    return f"{value:.2f}" + ("" if low is None else f" ({low:.2f}, {high:.2f})")
