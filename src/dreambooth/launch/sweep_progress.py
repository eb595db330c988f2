"""Where a sweep stands: a few lines after each cell, which log lines do not disturb."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dreambooth.reporting.planned import planned
from dreambooth.runs.cells import find_runs
from dreambooth.runs.records import Metric
from dreambooth.runs.run import Run
from dreambooth.runs.status import OPEN, Status

_MOST_ROWS = 6
_COLOURS = {"finished": "green", "failed": "red", "damaged": "red", "running": "yellow"}


def print_progress(
    folder: Path, cells: Collection[str] = (), console: Console | None = None
) -> None:
    """Cells done, running, failed and left, the time left, and the scores of the last cells; of
    these `cells`, or if none are given of the whole folder."""
    console = console or Console()
    plan, runs = planned(folder), find_runs(folder)
    if cells:
        plan = {name: overrides for name, overrides in plan.items() if name in cells}
        runs = [run for run in runs if run.folder.name in cells]
    found = [(run, run.status()) for run in runs if run.folder.exists()]
    states = Counter(status.state for _, status in found)
    total = max(len(plan), len(runs))
    ended = sum(count for state, count in states.items() if state not in OPEN)
    line = Text(f"{ended} of {total} cells: ", style="bold")
    parts = [Text(f"{n} {state}", style=_COLOURS.get(state, "")) for state, n in states.items()]
    parts += [Text(f"{total - len(found)} to come")] if total > len(found) else []
    line.append(Text(", ").join(parts))
    if left := _time_left(found, total):
        line.append(f"; about {left} left", style="bold")
    console.print()
    console.print(line)
    last = sorted((one for one in found if one[1].ended), key=lambda one: one[1].ended)
    if last:
        console.print(_table(last[-_MOST_ROWS:], plan, console.width))
    console.print()


def format_duration(seconds: float) -> str:
    """A length of time: "40 s", "3 min", "2 h 10 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _table(
    last: Sequence[tuple[Run, Status]], plan: Mapping[str, Sequence[str]], width: int
) -> Table:
    scores = {run.folder: _scores(run, status) for run, status in last}
    cells = {run.folder: _name(run, plan) for run, _ in last}
    names = list(dict.fromkeys(name for own in scores.values() for name in own))
    left = width - max(map(len, cells.values())) - 24  # of state and time
    table = Table(header_style="bold", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    for name in ("cell", "state"):
        table.add_column(name, overflow="fold")
    table.add_column("time", justify="right")
    names = names[: max(1, left // 12)]
    for name in names:
        table.add_column(Text(name.removesuffix("_accuracy").replace("_", " ")), justify="right")
    for run, status in last:
        values = [scores[run.folder].get(name) for name in names]
        table.add_row(
            Text(cells[run.folder]),
            Text(status.state, style=_COLOURS.get(status.state, "")),
            format_duration(_seconds(run, status)),
            *("" if value is None else f"{value:.3f}" for value in values),
        )
    return table


def _name(run: Run, plan: Mapping[str, Sequence[str]]) -> str:
    """What the run's overrides say that those of others do not; else its folder's name."""
    shared = set.intersection(*map(set, plan.values())) if plan else set()
    own = [o for o in plan.get(run.folder.name, []) if o not in shared]
    return " ".join(o.rpartition("prior.")[2] for o in own) or run.folder.name


def _scores(run: Run, status: Status) -> dict[str, float]:
    try:
        found: Mapping[str, Metric] = run.read_metrics() if status.state == "finished" else {}
    except ValueError:
        return {}
    return {name: one.value for name, one in found.items() if not math.isnan(one.value)}


def _seconds(run: Run, status: Status) -> float:
    """What it has worked; of a run that does not tell, since it was first started or queued."""
    try:
        worked = sum(run.read_provenance().get("seconds", {}).values())
    except ValueError:
        worked = 0.0
    if worked or not status.started:
        return float(worked)
    end = datetime.fromisoformat(status.ended) if status.ended else datetime.now(UTC)
    return (end - datetime.fromisoformat(status.started)).total_seconds()


def _time_left(found: Sequence[tuple[Run, Status]], total: int) -> str:
    """From the time that the finished cells took, as many at once as run now; "" if unknown."""
    took = [_seconds(run, status) for run, status in found if status.state == "finished"]
    left = total - sum(status.state not in OPEN for _, status in found)
    if not took or left <= 0:
        return ""
    at_once = max(1, sum(status.state == "running" for _, status in found))
    return format_duration(sum(took) / len(took) * left / at_once)
