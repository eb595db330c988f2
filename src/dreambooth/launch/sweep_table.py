"""A sweep as a table: a row per run, for the terminal and as CSV."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from dreambooth.runs.cells import find_runs
from dreambooth.runs.files import csv_of, write_atomically
from dreambooth.runs.overrides import assignment
from dreambooth.runs.records import Metric
from dreambooth.runs.run import Run
from dreambooth.runs.status import describe

Row = dict[str, str | Metric]
SUPER_RESOLUTION_METRICS = (
    "detail",
    "sr_detail",
    "sr_kept",
    "sr_invented",
    "sr_psnr",
    "sr_ssim",
    "sr_identity",
    "sr_layout_error",
    "sr_dino",
    "sr_lpips",
)


def sweep_rows(folder: Path) -> list[Row]:
    """One row for each run of a sweep folder.

    Columns: the overrides in which the runs differ, `run` (the folder name), `state`, `reason` (why
    a run failed or is damaged), and the metrics of a finished run. An override is "" if the run
    does not have it or its config cannot be read. A metric with the name of an override (`class`)
    becomes `class_score`.
    """
    runs = find_runs(folder)
    if not runs:
        raise ValueError(f"there are no runs in {folder}")
    overrides = {run.folder: parse_overrides(run.config.get("overrides", [])) for run in runs}
    readable = [overrides[run.folder] for run in runs if run.config]
    keys = dict.fromkeys(key for of_run in readable for key in of_run)
    axes = [key for key in keys if len({of_run.get(key) for of_run in readable}) > 1]
    rows: list[Row] = []
    for run in runs:
        row: Row = {key: overrides[run.folder].get(key, "") for key in axes}
        rows.append(row | {f"{k}_score" if k in row else k: v for k, v in _result(run).items()})
    return rows


def parse_overrides(overrides: Sequence[str]) -> dict[str, str]:
    """The keys and values of overrides; a deletion has the value "deleted".

    ["prior.lambda=0", "+a=b", "~c"] -> {"prior.lambda": "0", "a": "b", "c": "deleted"}
    """
    parts = map(assignment, overrides)
    return {part.key: "deleted" if part.prefix == "~" else part.value for part in parts}


def print_table(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print the table, then why runs failed, then how each metric was measured.

    The metrics of super-resolution are shown only if the runs differ in `sr`.
    """
    console = console or Console()
    metrics = _metric_names(rows)
    if not any(column.partition(".")[0] == "sr" for column in _columns(rows)):
        metrics = [name for name in metrics if name not in SUPER_RESOLUTION_METRICS]
    for part in _split_columns(rows, metrics, console.width):
        table = Table(header_style="bold", box=box.SIMPLE_HEAD, show_edge=False, padding=0)
        for column in part:
            heading = column.replace("_", " ") if column in metrics else _short_name(column, rows)
            justify: JustifyMethod = "right" if column in metrics else "left"
            table.add_column(Text(heading), justify=justify, overflow="fold")
        for row in rows:
            table.add_row(*(_cell(row.get(column, "")) for column in part))
        console.print(table)
    for row in rows:
        if row["reason"]:
            console.print(Text(f"run {row['run']} {row['state']}: {row['reason']}"))
    if any(isinstance(cell, Metric) and cell.ci95 for row in rows for cell in row.values()):
        console.print("Under each value: its 95 % interval.", style="dim")
    for name in metrics:
        console.print(Text(f"{name.replace('_', ' ')}: {_protocol(name, rows)}", style="dim"))


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write rows as CSV. A metric `m` has the columns m, m_low, m_high, m_count and m_protocol."""
    flat: list[dict[str, str | float | None]] = []
    for row in rows:
        cells: dict[str, str | float | None] = {}
        for key, value in row.items():
            if isinstance(value, Metric):
                low, high = value.ci95 or (None, None)
                cells |= {key: value.value, f"{key}_low": low, f"{key}_high": high}
                cells |= {f"{key}_count": value.count, f"{key}_protocol": value.protocol}
            else:
                cells[key] = value
        flat.append(cells)
    write_atomically(path, csv_of(flat).encode())


def _result(run: Run) -> Row:
    """The columns `run`, `state` and `reason` of a run, and its metrics if it is finished."""
    try:
        status = run.status()
        measured = run.read_metrics() if status.state == "finished" else {}
    except ValueError as error:
        return {"run": run.folder.name, "state": "damaged", "reason": str(error)}
    state = status.state if status.reason else describe(status)
    return {"run": run.folder.name, "state": state, "reason": status.reason, **measured}


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys of all rows, except `reason`, which is printed under the table."""
    return [key for key in dict.fromkeys(key for row in rows for key in row) if key != "reason"]


def _split_columns(rows: Sequence[Row], metrics: Sequence[str], width: int) -> list[list[str]]:
    """Split the columns into tables that fit into `width` characters.

    Each table has all columns that name a run, and as many of the `metrics` as fit beside them.
    """
    all_metrics = _metric_names(rows)
    names = [column for column in _columns(rows) if column not in all_metrics]
    axes = [name for name in names if name not in ("run", "state")]
    if axes and len({tuple(row.get(name) for name in axes) for row in rows}) == len(rows):
        names.remove("run")  # the other columns identify each run

    def column_width(column: str) -> int:
        cells = [line for row in rows for line in _cell(row.get(column, "")).plain.splitlines()]
        heading = column.split("_") if column in metrics else [_short_name(column, rows)]
        return 1 + max(map(len, [*cells, *heading]))

    width_beside_names = width - sum(map(column_width, names))
    parts, left = [list(names)], width_beside_names
    for metric in metrics:
        if column_width(metric) > left and len(parts[-1]) > len(names):
            parts, left = [*parts, list(names)], width_beside_names
        parts[-1].append(metric)
        left -= column_width(metric)
    return parts


def _short_name(column: str, rows: Sequence[Row]) -> str:
    """The last part of a column's name, `lambda` for `prior.lambda`, if no other column ends so."""
    last = column.rpartition(".")[2]
    return last if sum(c.rpartition(".")[2] == last for c in _columns(rows)) == 1 else column


def _metric_names(rows: Sequence[Row]) -> list[str]:
    names = dict.fromkeys(k for row in rows for k, v in row.items() if isinstance(v, Metric))
    return list(names)


def _cell(value: str | Metric) -> Text:
    if isinstance(value, str):
        return Text(value, style={"failed": "red", "damaged": "red"}.get(value, ""))
    text = Text(f"{value.value:.3f}" if value.count else "-")
    if value.ci95:
        text.append("\n({:.3f}, {:.3f})".format(*value.ci95), style="dim")
    return text


def _protocol(name: str, rows: Sequence[Row]) -> str:
    """How a metric was measured and over how many images; each protocol is listed once."""
    metrics = [metric for row in rows if isinstance(metric := row.get(name), Metric)]
    counts = sorted({metric.count for metric in metrics})
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]}..{counts[-1]}"
    return f"{'; or '.join(dict.fromkeys(m.protocol for m in metrics))} ({n})"
