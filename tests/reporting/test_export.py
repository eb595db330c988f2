"""Tables as files that others read: LaTeX, CSV and Markdown."""

import csv
import math
import re

import pytest
from made_up import made_up_sweep

from dreambooth.reporting.export import latex, write_markdown, write_tables
from dreambooth.reporting.figures import Figure
from dreambooth.reporting.findings import findings
from dreambooth.reporting.statistics import Difference, Estimate
from dreambooth.reporting.study import read_study
from dreambooth.reporting.study_tables import tables_of
from dreambooth.reporting.tables import Column, Comparison, Entry, Finding, Table, TableRow

NASTY = r"50 % of $x_1 & <script>alert(1)</script> | {a} ~ ^ # \ `b` [c](d) *e*"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "sweep"
    return read_study([made_up_sweep(folder, failed={0: NASTY}, running=[1], damaged=[2])])


def table(label="lambda 0", note="a note", title="Title"):
    entry = Entry(Estimate(0.5, 0.25, 0.75, 3, 60), 0.493)
    alone = Entry(Estimate(0.5, math.nan, math.nan, 1, 1), None, "no interval")
    columns = [
        Column("dino", "DINO", "higher", "cosine"),
        Column("pres", "PRES", "lower", "cosine"),
    ]
    rows = [
        TableRow("a", label, {"dino": entry, "pres": alone}),
        TableRow("b", "gone", {"dino": Entry(None, None, "1 failed"), "pres": Entry()}),
        TableRow("", "others (a source)", {"dino": Entry(None, 0.6), "pres": Entry()}),
    ]
    difference = Difference(-0.2, -0.3, -0.1, 0.01, 0.02, math.nan, 3, 60)
    compared = Comparison(
        "dino", "a", "b", difference, -0.17, "it falls", "a - b: DINO -0.2", verdict="agrees"
    )
    return Table("prior", title, "Table 3 of the paper", columns, rows, [compared], [note])


def test_a_latex_table_has_booktabs_rules_and_a_value_interval_and_the_papers_in_each_cell():
    text = latex(table())
    lines = text.splitlines()
    assert [line for line in lines if line.endswith("rule")] == [
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
    ]
    assert r" & DINO $\uparrow$ & PRES $\downarrow$ \\" in lines
    assert r" & n = 60 & n = 1 \\" in lines
    start = lines.index(r"lambda 0 & 0.500 & 0.500 \\")
    assert lines[start + 1] == r" & {\scriptsize (0.250, 0.750)} &  \\"
    assert lines[start + 2] == r" &  & {\scriptsize no interval} \\"
    assert lines[start + 3] == r" & {\scriptsize paper 0.493} &  \\"
    assert r"gone & 1 failed &  \\" in lines
    assert lines[lines.index(r"others (a source) &  &  \\") + 1] == r" & {\scriptsize 0.600} &  \\"
    assert r"\label{tab:prior}" in lines


def test_latex_of_any_text_is_balanced_and_has_no_bare_special_character():
    text = latex(table(label=NASTY, note=NASTY, title=NASTY))
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {2}
    assert len(re.findall(r"(?<!\\)\{", text)) == len(re.findall(r"(?<!\\)\}", text))
    bare = text.replace(r"$\uparrow$", "").replace(r"$\downarrow$", "").splitlines()[1:]
    for special in "%$#_~^<>|":
        assert not re.search(rf"(?<!\\){re.escape(special)}", "\n".join(bare)), special
    assert r"50 \% of \$x\_1 \& \textless{}script\textgreater{}" in text
    assert r"\textbackslash{}" in text


def test_csv_files_have_every_part_of_an_estimate_and_of_a_comparison(tmp_path):
    written = write_tables([table()], tmp_path / "tables")
    names = ["prior.tex", "prior.csv", "prior_differences.csv"]
    assert sorted(path.name for path in written) == sorted(names)
    with (tmp_path / "tables/prior.csv").open(newline="") as file:
        first, second, _ = csv.DictReader(file)
    assert (first["cell"], first["label"]) == ("a", "lambda 0")
    parts = ("dino", "dino_low", "dino_high", "dino_subjects", "dino_images", "dino_paper")
    assert [float(first[part]) for part in parts] == [0.5, 0.25, 0.75, 3, 60, 0.493]
    assert first["dino_interval_over"] == "subjects"
    assert first["dino_protocol"] == "cosine"
    assert (first["pres_low"], first["pres_remark"]) == ("", "no interval")
    assert (second["dino"], second["dino_remark"]) == ("", "1 failed")
    with (tmp_path / "tables/prior_differences.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["a"], row["b"], row["verdict"]) == ("lambda 0", "gone", "agrees")
    assert float(row["p_holm"]) == 0.02
    assert row["effect_size"] == ""


def test_every_mean_in_the_markdown_has_its_interval(study, tmp_path):
    tables = tables_of(study)
    path = write_markdown(study, tables, findings(tables), [], tmp_path)
    text = path.read_text()
    means = re.findall(r"\| (0\.\d{3}[^|]*)", text)
    assert len(means) > 30
    assert all(re.match(r"0\.\d{3} \(-?\d\.\d{3}, \d\.\d{3}\)", mean) for mean in means)
    for part in ("Prior preservation", "Table 3 of the paper", "paper 0.493", "p after Holm"):
        assert part in text


def test_the_markdown_tells_the_gaps_with_the_commands_that_fill_them(study, tmp_path):
    text = write_markdown(study, [], [], [], tmp_path).read_text()
    assert "6 cells, 1 subject, 1 training seed: 6 runs" in text
    assert "1 failed, 1 running, 1 damaged" in text
    gaps = text.partition("## Gaps")[2].partition("## ")[0]
    rows = [line for line in gaps.splitlines() if line.startswith("| lambda 0")]
    assert len(rows) == 3
    assert "running, 40 %" in rows[1]
    assert "metrics.json is damaged" in rows[2]
    commands = [re.search(r"`([^`]+)` \|$", row)[1] for row in rows]
    for number, command in enumerate(commands):
        assert command == study.cells[number].trials[0].command
    assert commands[0].startswith("python src/train.py prior.lambda=0 class=none hydra.run.dir=")


def test_text_of_runs_is_shown_as_it_is_in_markdown(study, tmp_path):
    finding = Finding(f"As {NASTY}", "agrees", "")
    text = write_markdown(study, [table(label=NASTY)], [finding], [], tmp_path).read_text()
    assert "<script>" not in text
    assert r"\<script\>alert(1)\</script\>" in text
    assert r"\[c\](d)" in text
    rows = [line for line in text.splitlines() if line.startswith("| 50 ")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [4]  # its three cells


def test_figures_are_linked_beside_the_markdown(study, tmp_path):
    figure = Figure("trade_off", "Trade-off", "DINO against CLIP-T", "<svg/>")
    text = write_markdown(study, [], [], [figure], tmp_path).read_text()
    assert "![Trade-off](figures/trade_off.png)" in text
    assert "DINO against CLIP-T" in text


def test_the_markdown_says_where_it_comes_from(study, tmp_path):
    text = write_markdown(study, [], [], [], tmp_path).read_text()
    sources = text.partition("## Where it comes from")[2]
    assert (
        "git.commit: 091bd09c0ffee (5 runs)" in sources or "git.commit: 091bd09c0ffee (6" in sources
    )
    assert "hardware.cpu: AMD EPYC" in sources
    assert "versions.torch: 2.11.0" in sources
    assert "energy was not measured" in sources
    assert "`python src/train.py prior.lambda=1 class=correct`" in sources
