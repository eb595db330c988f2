"""The report of a study, written whole: page, Markdown, tables and figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from dreambooth.reporting.export import write_markdown, write_tables
from dreambooth.reporting.figures import write_figures
from dreambooth.reporting.findings import findings
from dreambooth.reporting.measuring import tables_of
from dreambooth.reporting.page import write_page
from dreambooth.reporting.study import Study, read_study
from dreambooth.runs.files import write_atomically
from dreambooth.runs.orphans import mark_orphans_failed

RUNS, REPORTS = Path("runs"), Path("reports")


def report_on(sweeps: Sequence[Path], name: str | None = None) -> Path:
    """Reports on sweep folders, the latest in runs/ if there are none, into reports/NAME.

    Gives the page in it. ValueError where there is nothing to report on.
    """
    own = None if name is None else checked_name(name)
    study = study_of(sweeps)
    return write_report(study, REPORTS / (own or study.name))


def study_of(sweeps: Sequence[Path]) -> Study:
    """The runs of sweep folders; of the latest in runs/ if there are none."""
    folders = sweeps or [latest_sweep(RUNS)]
    for folder in folders:
        mark_orphans_failed(folder)
    return read_study(folders)


def write_report(study: Study, folder: Path) -> Path:
    """index.html, which is given back, report.md, tables/ and figures/ in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = tables_of(study)
    found = findings(tables)
    figures = write_figures(study, folder / "figures")
    written = [path.name for path in write_tables(tables, folder / "tables")]
    written = [f"tables/{name}" for name in written]
    written += [f"figures/{f.key}.{kind}" for f in figures for kind in ("svg", "png")]
    _remove_earlier(folder, written)
    write_markdown(study, tables, found, figures, folder)
    return write_page(study, tables, found, figures, folder)


def _remove_earlier(folder: Path, written: Sequence[str]) -> None:
    """What an earlier report into the same folder has written and this one has not."""
    known = folder / ".written.json"
    earlier = json.loads(known.read_bytes()) if known.exists() else []
    for name in set(earlier) - set(written):
        (folder / name).unlink(missing_ok=True)
    write_atomically(known, json.dumps(written).encode())


def latest_sweep(runs: Path) -> Path:
    """The folder of the sweep that was started last."""
    sweeps = [path.parent for path in runs.glob("*/multirun.yaml")] if runs.is_dir() else []
    if not sweeps:
        raise ValueError(
            f"there is no sweep in {runs}/: run one (python src/train.py -m prior.lambda=0,1), or "
            "say where it is, as in sweep=DIR"
        )
    return max(sweeps, key=lambda sweep: (sweep / "multirun.yaml").stat().st_mtime)


def checked_name(name: str) -> str:
    """ValueError unless it names a folder in reports/, or is a path of the user's own."""
    if Path(name).name in ("", ".."):
        raise ValueError(
            f"name={name} names no folder: give a name for one in {REPORTS}/, or a path"
        )
    return name
