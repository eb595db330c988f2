"""The progress of a sweep, printed after each cell as a few lines that log lines do not disturb."""

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

from dreambooth.reporting.missing_runs import planned
from dreambooth.runs.cells import find_runs
from dreambooth.runs.records import Metric
from dreambooth.runs.run import Run
from dreambooth.runs.status import OPEN, Status

_MAX_ROWS = 6
_COLOURS = {"finished": "green", "failed": "red", "damaged": "red", "running": "yellow"}


def print_progress(
    folder: Path, cells: Collection[str] = (), console: Console | None = None
) -> None:
    """Print how many cells are in each state, the time left, and the scores of the latest cells.

    Counts only `cells`, or all cells of the folder if none are given.
    """
    console = console or Console()
    plan, runs = planned(folder), find_runs(folder)
    if cells:
        plan = {name: overrides for name, overrides in plan.items() if name in cells}
        runs = [run for run in runs if run.folder.name in cells]
    begun = [(run, run.status()) for run in runs if run.folder.exists()]
    states = Counter(status.state for _, status in begun)
    total = max(len(plan), len(runs))
    ended = sum(count for state, count in states.items() if state not in OPEN)
    line = Text(f"{ended} of {total} cells: ", style="bold")
    parts = [Text(f"{n} {state}", style=_COLOURS.get(state, "")) for state, n in states.items()]
    parts += [Text(f"{total - len(begun)} to come")] if total > len(begun) else []
    line.append(Text(", ").join(parts))
    if left := _time_left(begun, total):
        line.append(f"; about {left} left", style="bold")
    console.print()
    console.print(line)
    ended_runs = [(run, status) for run, status in begun if status.ended]
    ended_runs.sort(key=lambda run_status: run_status[1].ended)
    if ended_runs:
        console.print(_table(ended_runs[-_MAX_ROWS:], plan, console.width))
    console.print()


def format_duration(seconds: float) -> str:
    """A duration in words: "40 s", "3 min", "2 h 10 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _table(
    latest: Sequence[tuple[Run, Status]], plan: Mapping[str, Sequence[str]], width: int
) -> Table:
    scores = {run.folder: _scores(run, status) for run, status in latest}
    cells = {run.folder: _cell_label(run, plan) for run, _ in latest}
    names = list(dict.fromkeys(name for of_run in scores.values() for name in of_run))
    width_left = width - max(map(len, cells.values())) - 24  # state and time take 24
    table = Table(header_style="bold", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    for name in ("cell", "state"):
        table.add_column(name, overflow="fold")
    table.add_column("time", justify="right")
    names = names[: max(1, width_left // 12)]
    for name in names:
        table.add_column(Text(name.removesuffix("_accuracy").replace("_", " ")), justify="right")
    for run, status in latest:
        values = [scores[run.folder].get(name) for name in names]
        table.add_row(
            Text(cells[run.folder]),
            Text(status.state, style=_COLOURS.get(status.state, "")),
            format_duration(_seconds(run, status)),
            *("" if value is None else f"{value:.3f}" for value in values),
        )
    return table


def _cell_label(run: Run, plan: Mapping[str, Sequence[str]]) -> str:
    """The overrides of a run that not all runs share, or the name of its folder if it has none."""
    shared = set.intersection(*map(set, plan.values())) if plan else set()
    varying = [o for o in plan.get(run.folder.name, []) if o not in shared]
    return " ".join(o.rpartition("prior.")[2] for o in varying) or run.folder.name


def _scores(run: Run, status: Status) -> dict[str, float]:
    """The metrics of a finished run that are not NaN."""
    try:
        metrics: Mapping[str, Metric] = run.read_metrics() if status.state == "finished" else {}
    except ValueError:
        return {}
    return {name: m.value for name, m in metrics.items() if not math.isnan(m.value)}


def _seconds(run: Run, status: Status) -> float:
    """The seconds that a run has worked; if it recorded none, the seconds since its start."""
    try:
        worked = sum(run.read_provenance().get("seconds", {}).values())
    except ValueError:
        worked = 0.0
    if worked or not status.started:
        return float(worked)
    end = datetime.fromisoformat(status.ended) if status.ended else datetime.now(UTC)
    return (end - datetime.fromisoformat(status.started)).total_seconds()


def _time_left(begun: Sequence[tuple[Run, Status]], total: int) -> str:
    """The time left, in words; "" if unknown.

    Assumes that a cell takes as long as the finished ones did on average, and that as many cells
    run at once as now.
    """
    took = [_seconds(run, status) for run, status in begun if status.state == "finished"]
    left = total - sum(status.state not in OPEN for _, status in begun)
    if not took or left <= 0:
        return ""
    at_once = max(1, sum(status.state == "running" for _, status in begun))
    return format_duration(sum(took) / len(took) * left / at_once)
