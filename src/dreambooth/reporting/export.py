"""Writes the tables as LaTeX, CSV and Markdown; every mean has its interval and its count."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from dreambooth.reporting.costs import costs
from dreambooth.reporting.figures import Figure
from dreambooth.reporting.findings import by_verdict, p_in_words
from dreambooth.reporting.settings import leaves
from dreambooth.reporting.study import Study
from dreambooth.reporting.tables import OVER, VERDICTS, Entry, Finding, Table, TableRow
from dreambooth.runs.files import Score, csv_of, write_atomically
from dreambooth.runs.status import describe

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}


def write_tables(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Write KEY.tex and KEY.csv for each table, and KEY_differences.csv for its comparisons."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for table in tables:
        written[f"{table.key}.tex"] = latex(table)
        written[f"{table.key}.csv"] = csv_of(rows_of(table))
        if table.comparisons:
            written[f"{table.key}_differences.csv"] = csv_of(differences_of(table))
    for name, content in written.items():
        write_atomically(folder / name, content.encode())
    return [folder / name for name in written]


def rows_of(table: Table) -> list[dict[str, Score]]:
    """Return a CSV row per cell, with the columns dino, dino_low, dino_high ... for each score."""
    if not _has_means(table):
        return [
            {"cell": r.cell, "label": r.label, **{k: e.text for k, e in r.entries.items()}}
            for r in table.rows
        ]
    rows = []
    for row in table.rows:
        flat: dict[str, Score] = {"cell": row.cell, "label": row.label}
        for column in table.columns:
            key, entry = column.key, row.entries.get(column.key, Entry())
            if e := entry.estimate:
                flat |= {key: e.mean, f"{key}_low": _number(e.low)}
                flat |= {f"{key}_high": _number(e.high), f"{key}_subjects": e.num_subjects}
                flat |= {f"{key}_trainings": e.num_trainings, f"{key}_images": e.num_images}
                flat |= {f"{key}_interval_over": e.unit}
            flat |= {
                f"{key}_paper": entry.paper,
                f"{key}_remark": entry.text,
                f"{key}_protocol": column.protocol,
            }
        rows.append(flat)
    return rows


def differences_of(table: Table) -> list[dict[str, Score]]:
    """Return a CSV row per comparison a - b."""
    labels = {row.cell: row.label for row in table.rows}
    rows = []
    for comparison in table.comparisons:
        d = comparison.difference
        row: dict[str, Score] = {
            "score": comparison.metric,
            "a": labels[comparison.a],
            "b": labels[comparison.b],
            "difference": d.mean,
            "low": _number(d.low),
            "high": _number(d.high),
            "p": _number(d.p),
            "p_holm": _number(d.p_holm),
            "effect_size": _number(d.effect_size),
            "subjects": d.num_subjects,
            "trained_pairs": d.num_trainings,
            "images": d.num_images,
            "interval_over": d.unit,
            "paper": comparison.paper,
            "claim": comparison.claim,
            "verdict": comparison.verdict,
        }
        rows.append(row)
    return rows


def latex(table: Table) -> str:
    r"""Return a floating table for \usepackage{booktabs}.

    Below each mean are its interval, a remark and the paper's value, where they exist.
    """
    arrows = {"higher": r" $\uparrow$", "lower": r" $\downarrow$", "": ""}
    headings = [f"{_tex(c.heading)}{arrows[c.better]}" for c in table.columns]
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(_caption(table))}}}",
        rf"\label{{tab:{_slug(table.key)}}}",
        rf"\begin{{tabular}}{{l{'c' * len(headings)}}}",
        r"\toprule",
        f"{' & '.join(['', *headings])} \\\\",
        f"{' & '.join(['', *(_tex(_counts(table, c.key)) for c in table.columns)])} \\\\",
        r"\midrule",
    ]
    for row in table.rows:
        entries = [row.entries.get(c.key, Entry()) for c in table.columns]
        for line, part in enumerate((_mean, _interval, _remark, _paper)):
            cells = [_tex(part(entry)) for entry in entries]
            if line:
                cells = [rf"{{\scriptsize {cell}}}" if cell else "" for cell in cells]
            if not line or any(cells):
                label = "" if line else _tex(row.label)
                lines.append(f"{' & '.join([label, *cells])} \\\\")
        lines.append(r"\addlinespace[2pt]")
    notes = " ".join(table.notes)
    lines[-1:] = [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\smallskip{{\footnotesize {_tex(notes)}}}"] if notes else []
    return "\n".join([*lines, r"\end{table}", ""])


def write_markdown(
    study: Study,
    tables: Sequence[Table],
    findings: Sequence[Finding],
    figures: Sequence[Figure],
    folder: Path,
) -> Path:
    """Write report.md: summary, gaps, tables, figures and provenance."""
    lines = [f"# {_md(study.name)}", "", _what_was_run(study), ""]
    for verdict, shared, group in by_verdict(findings):
        said = [f"{_md(' '.join(shared))}\n"] if shared else []
        lines += _section(VERDICTS[verdict], [*said, *(f"- {_md(str(f))}" for f in group)])
    lines += _section("Remarks", [f"- {_md(note)}" for note in study.notes])
    lines += _section("Gaps", _gaps(study))
    for table in tables:
        lines += [f"## {_md(table.title)}", ""]
        lines += [f"Compare with {_md(table.source)}.", ""] if table.source else []
        lines += _values(table) + _differences(table)
        lines += [f"- {_md(note)}" for note in table.notes]
        lines += [f"- {_md(c.heading)}: {_md(c.protocol)}" for c in table.columns] + [""]
    for figure in figures:
        picture = f"![{_md(figure.title)}](figures/{figure.key}.png)"
        lines += [f"## {_md(figure.title)}", "", picture, "", _md(figure.caption), ""]
    lines += _section("Where it comes from", _sources(study))
    path = folder / "report.md"
    write_atomically(path, "\n".join(lines).encode())
    return path


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""] if lines else []


def _what_was_run(study: Study) -> str:
    states: dict[str, int] = {}
    for trial in study.trials:
        states[trial.status.state] = states.get(trial.status.state, 0) + 1
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    seeds = {trial.seed for trial in study.trials if trial.seed}
    parts = {"cell": study.cells, "subject": study.subjects, "training seed": seeds}
    design = ", ".join(counted(len(items), noun) for noun, items in parts.items())
    runs = counted(len(study.trials), "run")
    return _md(f"{design}: {runs} ({counts}). From {', '.join(map(str, study.folders))}.")


def _gaps(study: Study) -> list[str]:
    gaps = [(cell, t) for cell in study.cells for t in cell.trials if t.status.state != "finished"]
    if not gaps:
        return []
    lines = [
        "| cell | subject | seed | state | command that fills the gap |",
        "|---|---|---|---|---|",
    ]
    for cell, trial in gaps:
        texts = [cell.label, trial.subject, trial.seed, describe(trial.status)]
        command = _code(trial.command).replace("|", "\\|")  # a bar would end the table cell
        lines.append(f"| {' | '.join(map(_md, texts))} | {command} |")
    return lines


def _values(table: Table) -> list[str]:
    parts = [filter(None, (_md(c.heading), _md(_counts(table, c.key)))) for c in table.columns]
    headings = ["<br>".join(part) for part in parts]
    lines = [f"| {' | '.join(['', *headings])} |", "|---" * (len(headings) + 1) + "|"]
    for row in table.rows:
        cells = [_md_entry(row, c.key) for c in table.columns]
        lines.append(f"| {' | '.join([_md(row.label), *cells])} |")
    return [*lines, ""]


def _md_entry(row: TableRow, key: str) -> str:
    entry = row.entries.get(key, Entry())
    parts = [f"{_mean(entry)} {_interval(entry)}".strip(), _paper(entry)]
    return "<br>".join(_md(part) for part in [*parts, _remark(entry)] if part)


def _differences(table: Table) -> list[str]:
    if not table.comparisons:
        return []
    lines = [
        "| difference | 95 % interval | p after Holm | effect size | trained pairs | the paper | |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for comparison in table.comparisons:
        d = comparison.difference
        name = comparison.sentence.rpartition(" (")[0]
        paper = "" if comparison.paper is None else f"{comparison.paper:+.3f}"
        size = "-" if math.isnan(d.effect_size) else f"{d.effect_size:+.2f}"
        count = f"{d.num_trainings} of {counted(d.num_subjects, 'subject')}"
        p = p_in_words(d.p_holm) if comparison.verdict else ""
        interval = f"({d.low:+.3f}, {d.high:+.3f}){OVER[d.unit]}"
        cells = [name, interval, p, size, count, paper, comparison.verdict]
        lines.append(f"| {' | '.join(map(_md, cells))} |")
    return [*lines, ""]


def _sources(study: Study) -> list[str]:
    """List the recorded provenance, each value with its number of runs, the costs and commands."""
    counts: dict[str, dict[str, int]] = {}
    for trial in study.trials:
        for key, value in leaves(trial.provenance):
            if key.startswith(("git.", "code", "versions.", "hardware.")):
                of_key = counts.setdefault(key, {})
                of_key[str(value)] = of_key.get(str(value), 0) + 1
    lines = []
    for key, of_key in counts.items():
        values = ", ".join(f"{_md(value)} ({counted(n, 'run')})" for value, n in of_key.items())
        lines.append(f"- {_md(key)}: {values}")
    lines += [f"- {name}: {text}" for name, text in costs(study.trials)]
    commands = dict.fromkeys(_code(t.command) for t in study.trials)
    return [*lines, *(f"- {command}" for command in commands)]


def _caption(table: Table) -> str:
    if not _has_means(table):
        return f"{table.title}."
    source = f" Compare with {table.source}." if table.source else ""
    return f"{table.title}. Mean, 95 % interval and the paper's value.{source}"


def _has_means(table: Table) -> bool:
    return any(entry.estimate for row in table.rows for entry in row.entries.values())


def _counts(table: Table, key: str) -> str:
    """ "n = 50", or "n = 20..50" where the cells differ; "" where nothing is a mean."""
    counts = [e.num_images for row in table.rows if (e := row.entries.get(key, Entry()).estimate)]
    ends = dict.fromkeys(map(str, [min(counts), max(counts)])) if counts else {}
    return f"n = {'..'.join(ends)}" if ends else ""


def _mean(entry: Entry) -> str:
    if entry.estimate is not None:
        return f"{entry.estimate.mean:.3f}"
    return entry.text


def _interval(entry: Entry) -> str:
    e = entry.estimate
    if e is None or math.isnan(e.low):
        return ""  # the entry's text says so
    return f"({e.low:.3f}, {e.high:.3f})"


def _remark(entry: Entry) -> str:
    return entry.text if entry.estimate else ""


def _paper(entry: Entry) -> str:
    if entry.paper is None:
        return ""
    from_elsewhere = not (entry.estimate or entry.text)  # the row's label names its source
    return f"{entry.paper:.3f}" if from_elsewhere else f"paper {entry.paper:.3f}"


def counted(number: int, noun: str) -> str:
    """ "1 run", "2 runs"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _tex(text: str) -> str:
    return re.sub("|".join(map(re.escape, _LATEX)), lambda match: _LATEX[match[0]], text)


def _slug(key: str) -> str:
    return key.replace("_", "-")


def _md(text: str) -> str:
    """Escape text so that Markdown shows it literally, in tables too."""
    escaped = re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", text)
    return " ".join(escaped.split())


def _code(text: str) -> str:
    """Format text as inline code, between as many backticks as it needs."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{' '.join(text.split())}{fence}"
