"""Writes the report of a study: page, Markdown, tables and figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from dreambooth.reporting.costs import costs_tables
from dreambooth.reporting.export import write_markdown, write_tables
from dreambooth.reporting.figures import write_figures
from dreambooth.reporting.findings import findings
from dreambooth.reporting.needed import with_needed_runs
from dreambooth.reporting.page import write_page
from dreambooth.reporting.study import Study, read_study
from dreambooth.reporting.study_tables import tables_of
from dreambooth.runs.files import write_atomically
from dreambooth.runs.orphans import mark_orphans_failed

RUNS, REPORTS = Path("runs"), Path("reports")
_RECORD = ".written.json"  # the files that a report has written; marks its folder


def report_on(sweeps: Sequence[Path], name: str | None = None) -> Path:
    """Write the report of sweep folders to reports/NAME, and return the path of its page.

    Without folders, it is the report of the latest sweep in runs/; without a name, the report is
    named after the folders. Raises ValueError if there is nothing to report on.
    """
    checked = None if name is None else checked_name(name)
    study = study_of(sweeps)
    return write_report(study, REPORTS / (checked or study.name))


def study_of(sweeps: Sequence[Path]) -> Study:
    """The runs of sweep folders; of the latest in runs/ if there are none."""
    folders = sweeps or [latest_sweep(RUNS)]
    for folder in folders:
        mark_orphans_failed(folder)
    return read_study(folders)


def write_report(study: Study, folder: Path) -> Path:
    """Write index.html, report.md, tables/ and figures/ to `folder`. Returns index.html's path.

    Raises ValueError if the folder holds other files than those of a report.
    """
    _begin(folder)
    tables = with_needed_runs(study, tables_of(study))
    summary = findings(tables)
    tables += costs_tables(study)
    figures = write_figures(study, folder / "figures")
    written = [path.name for path in write_tables(tables, folder / "tables")]
    written = [f"tables/{name}" for name in written]
    written += [f"figures/{f.key}.{kind}" for f in figures for kind in ("svg", "png")]
    _remove_earlier(folder, written)
    write_markdown(study, tables, summary, figures, folder)
    return write_page(study, tables, summary, figures, folder)


def _begin(folder: Path) -> None:
    """Create the folder of a report, marked by an empty record of what the report has written."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give name=, a new folder for the report")
    others = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    if _RECORD in others:
        return
    older = {"index.html", "report.md", "tables", "figures"} <= set(others)  # before the record
    if others and not older:
        shown = ", ".join(others[:3]) + (" ..." if len(others) > 3 else "")
        raise ValueError(
            f"{folder} is not the folder of a report, and it holds other files ({shown}): "
            "give name=, a new or an empty folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / _RECORD, b"[]")


def _remove_earlier(folder: Path, written: Sequence[str]) -> None:
    """Delete what an earlier report in this folder has written and this one has not."""
    for name in set(json.loads((folder / _RECORD).read_bytes())) - set(written):
        (folder / name).unlink(missing_ok=True)
    write_atomically(folder / _RECORD, json.dumps(written).encode())


def latest_sweep(runs: Path) -> Path:
    """Return the folder of the sweep that was started last."""
    sweeps = [path.parent for path in runs.glob("*/multirun.yaml")] if runs.is_dir() else []
    if not sweeps:
        raise ValueError(
            f"there is no sweep in {runs}/: run one (python src/train.py -m prior.lambda=0,1) or "
            "give the folder of one (sweep=DIR)"
        )
    return max(sweeps, key=lambda sweep: (sweep / "multirun.yaml").stat().st_mtime)


def checked_name(name: str) -> str:
    """Return the name of a report. Raises ValueError if it does not name a folder."""
    if Path(name).name in ("", ".."):
        raise ValueError(
            f"name={name} names no folder: give the name of a folder in {REPORTS}/, or a path"
        )
    return name
