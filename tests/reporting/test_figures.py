import re
import shutil
from dataclasses import replace
from importlib.resources import files
from xml.etree import ElementTree

import matplotlib
import pytest
from made_up import made_up_sweep
from matplotlib.backends.backend_agg import FigureCanvasAgg

from dreambooth.reporting import figures as module
from dreambooth.reporting.figures import write_figures
from dreambooth.reporting.look import (
    DASHES,
    PAPER,
    SERIES,
    STYLE,
    in_short,
    join_words,
    looks,
    wrapped,
)
from dreambooth.reporting.study import read_study
from dreambooth.reporting.study_tables import tables_of

pytestmark = pytest.mark.slow


def drawn(study, folder):
    return {figure.key: figure for figure in write_figures(study, folder)}


@pytest.fixture(scope="module")
def six_cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("six")
    sweep = made_up_sweep(
        folder / "sweep", subjects=("biscuit", "comet"), num_class_images=8, images_per_prompt=1
    )
    study = read_study([sweep])
    return study, drawn(study, folder / "figures"), folder / "figures"


def test_each_figure_is_there_as_svg_and_png(six_cells):
    _, found, folder = six_cells
    per_subject = ["prompts_1", "drift_1", "prompts_2", "drift_2"]
    others = ["trade_off", "per_subject", "copying", "curves", "losses"]
    assert list(found) == [*per_subject, *others]
    assert {p.name for p in folder.iterdir()} == {f"{k}.{e}" for k in found for e in ("svg", "png")}
    for key, figure in found.items():
        ElementTree.fromstring(figure.svg)
        assert (folder / f"{key}.svg").read_text() == figure.svg
        assert figure.title
        assert figure.caption.endswith(".")


def test_a_figure_without_its_data_is_not_drawn(tmp_path):
    axes = {"prior.lambda": ("0", "1")}
    sweep = made_up_sweep(
        tmp_path / "old", axes=axes, images_per_prompt=1, num_class_images=2, old=True
    )
    study = read_study([sweep])
    assert list(drawn(study, tmp_path / "figures")) == ["prompts", "trade_off", "copying"]


def test_detail_is_shown_where_super_resolution_differs(tmp_path):
    sweep = made_up_sweep(
        tmp_path / "sr", axes={"sr": ("off", "noise_1e-5")}, images_per_prompt=1, curves=False
    )
    found = drawn(read_study([sweep]), tmp_path / "figures")
    assert {"detail", "losses", "losses_sr"} <= set(found)
    assert "curves" not in found
    assert "original" in found["detail"].svg


def test_scores_that_were_measured_differently_are_in_figures_of_their_own(tmp_path):
    settings = {"axes": {"prior.lambda": ("0", "1")}, "images_per_prompt": 1, "num_class_images": 2}
    small = made_up_sweep(tmp_path / "a", **settings)
    large = made_up_sweep(tmp_path / "b", subjects=("comet",), encoder="large", **settings)
    study = read_study([small, large])
    found = drawn(study, tmp_path / "figures")
    assert {"trade_off_1", "trade_off_2"} <= set(found)
    assert "trade_off" not in found
    assert "per_subject" not in found  # one subject each


def test_estimates_are_those_of_the_tables(six_cells):
    study, _, _ = six_cells
    tables = {table.key: table for table in tables_of(study)}
    for metric in ("dino", "clip_t", "div", "pres"):
        own = module._estimates(study, metric)
        rows = [row for row in tables["prior"].rows if row.cell]
        assert len(rows) == 6
        assert [own[row.cell] for row in rows] == [row.entries[metric].estimate for row in rows]


def test_the_same_study_gives_the_same_files(six_cells, tmp_path):
    study, found, _ = six_cells
    again = drawn(study, tmp_path)
    assert {key: f.svg for key, f in again.items()} == {key: f.svg for key, f in found.items()}


def test_a_grid_has_a_row_for_each_cell_and_the_photos_first(six_cells):
    study, found, _ = six_cells
    svg = found["prompts_1"].svg
    assert svg.count("<image") == len(study.cells) * 7 + 5
    assert "real photos" in svg
    drift = found["drift_1"].svg
    assert drift.count("before any") == 2  # of the class, and of the wrong one
    assert drift.count("<image") == 8 * (len(study.cells) + 2)


def test_pictures_that_are_gone_are_said_to_be_missing(tmp_path):
    axes = {"prior.lambda": ("0", "1")}
    sweep = made_up_sweep(tmp_path / "s", axes=axes, images_per_prompt=1, num_class_images=8)
    study = read_study([sweep])
    shutil.rmtree(study.cells[0].trials[0].run.folder / "images/prompts")
    for path in (study.cells[1].trials[0].run.folder / "images/class").glob("*-003.png"):
        path.write_bytes(b"cut off")
    found = drawn(study, tmp_path / "figures")
    assert "lambda 0" not in found["prompts"].svg
    assert found["drift"].svg.count(">missing<") == 1


def test_cells_are_drawn_in_the_order_of_the_study(six_cells):
    """In another process too, where sets have another order."""
    study, _, _ = six_cells
    styles = looks(study)
    (plot,) = module.trade_offs(study, styles)
    for axes in plot.canvas.axes[:2]:
        points = [line for line in axes.lines if line.get_linestyle() == "None"]
        found = [(point.get_marker(), point.get_markerfacecolor()) for point in points]
        expected = [styles[cell.key].point for cell in study.cells]
        assert found == [(point["marker"], point["markerfacecolor"]) for point in expected]


def test_the_pareto_figure_joins_the_cells_that_none_beats_in_both(tmp_path):
    values = {"none": (0.8, 0.4), "lora": (0.7, 0.1), "ia3": (0.6, 0.2)}

    def effect(column, chosen):
        identity, drift = values[chosen["adapter"]]
        return {"dino": identity - 0.65, "pres": drift - 0.4}.get(column, 0.0)

    axes = {"adapter": tuple(values)}
    sweep = made_up_sweep(tmp_path / "s", axes=axes, effect=effect, curves=False)
    study = read_study([sweep])
    (plot,) = module.pareto(study, looks(study))
    (axes,) = plot.canvas.axes
    (front,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert sorted(front.get_ydata()) == pytest.approx([0.7, 0.8], abs=0.1)  # without IA3
    points = [line for line in axes.lines if line.get_linestyle() == "None"]
    sizes = [line.get_markersize() for line in points]
    assert sizes == sorted(sizes, reverse=True)
    assert not axes.texts  # they would overlap where points are close
    (legend,) = plot.canvas.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["no adapter: 4.2 M", "LoRA: 36 k", "IA3: 2.4 k"]
    (again,) = module.pareto(replace(study, cells=study.cells[:2]), looks(study))
    assert len(again.canvas.legends[0].get_texts()) == 2
    assert not list(module.pareto(replace(study, cells=study.cells[:1]), looks(study)))


def test_points_of_the_pareto_figure_are_seen_through_each_other_and_the_legend_fits(
    tmp_path, monkeypatch
):
    ranks = tuple(map(str, range(30)))
    axes = {"adapter": ("lora",), "adapter.config.r": ranks}
    sweep = made_up_sweep(
        tmp_path / "s", axes=axes, images_per_prompt=1, num_class_images=2, curves=False
    )
    study = read_study([sweep])
    counts = {cell.key: 1000 + i for i, cell in enumerate(study.cells)}
    monkeypatch.setattr(module, "trained_parameters", lambda _: counts)
    with matplotlib.rc_context(STYLE):
        (plot,) = module.pareto(study, looks(study))
        FigureCanvasAgg(plot.canvas).draw()
    (axes,), (legend,) = plot.canvas.axes, plot.canvas.legends
    points = [line for line in axes.lines if line.get_linestyle() == "None"]
    assert len(points) == len(legend.get_texts()) == 30
    for point in points:
        colour, opacity = point.get_markerfacecolor()
        assert opacity < 0.5
        assert point.get_markeredgecolor() == colour
    whole, box = plot.canvas.bbox, legend.get_window_extent()
    assert axes.get_tightbbox().x1 <= box.x0
    assert whole.y0 <= box.y0 < box.y1 <= whole.y1


def test_a_count_is_short():
    counts = [0, 999, 1000, 36_864, 999_600, 859_520_964]
    assert list(map(in_short, counts)) == ["0", "999", "1 k", "36.9 k", "1 M", "860 M"]


def test_cells_can_be_told_apart_without_colour(six_cells, tmp_path):
    study, _, _ = six_cells
    found = looks(study)
    assert len({(look.marker, look.filled) for look in found.values()}) == 6
    assert len({(look.colour, look.dash) for look in found.values()}) == 6
    levels = ("0.3", "0.1", "1e-2", "1e-3", "1e-4", "1e-5")
    many = made_up_sweep(
        tmp_path / "m", axes={"sr.noise_level": levels}, images_per_prompt=1, num_class_images=2
    )
    assert len({look.marker for look in looks(read_study([many])).values()}) == 6
    assert len(set(map(str, DASHES))) == 4


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_colours_stand_out_on_white_and_on_the_page_light_and_dark():
    assert min(contrast(colour, PAPER) for colour in SERIES) >= 3  # WCAG 1.4.11
    css = (files("dreambooth.reporting") / "page" / "page.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:2]
    for block in (light, dark):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        series = [colours[f"series-{i}"] for i in range(len(SERIES))]
        assert min(contrast(colour, colours["paper"]) for colour in series) >= 3
        for name in ("ink", "muted", "accent", "agrees", "opposite", "open"):
            assert contrast(colours[name], colours["raised"]) >= 4.5  # WCAG 1.4.3


def test_where_more_steps_buy_nothing():
    assert (
        module._sufficient_step([(0, 0.2), (100, 0.61), (200, 0.695), (300, 0.7), (400, 0.66)])
        == 200
    )


def test_a_running_mean_keeps_a_straight_line_and_its_ends():
    line = [(float(i), 2.0 * i) for i in range(100)]
    smooth = module._smoothed(line)
    assert smooth[50] == (50.0, 100.0)
    assert [step for step, _ in smooth] == [step for step, _ in line]


def test_text_is_wrapped_at_commas_and_lists_are_sentences():
    assert wrapped("lambda 0, no class noun", 16) == "lambda 0,\nno class noun"
    assert wrapped("short, too", 16) == "short, too"
    assert wrapped("1, 2, 1", 2) == "1,\n2,\n1"
    assert join_words(["a"]) == "a"
    assert join_words(["a", "b", "c"]) == "a, b and c"
