import csv
from types import SimpleNamespace

from made_up import made_up_sweep

from dreambooth.reporting.costs import costs, costs_tables, trained_parameters
from dreambooth.reporting.export import latex, write_tables
from dreambooth.reporting.study import read_study


def trial(**provenance):
    return SimpleNamespace(provenance=provenance)


def test_times_are_summed_over_runs_and_memory_is_the_most():
    found = costs(
        [
            trial(seconds={"train": 7000, "prior_images": 20.5}, peak_memory_bytes=1.5e9),
            trial(seconds={"train": 200}, peak_memory_bytes=2.25e9),
            trial(),
        ]
    )
    assert found == [
        (
            "time of all runs",
            "2.01 h (train 2.00 h, prior images 20.5 s); energy was not measured",
        ),
        ("peak memory of a run", "2.25 GB at most"),
    ]


def test_of_runs_that_say_nothing_nothing_is_said():
    assert costs([trial(), trial()]) == []


SMALL = {"images_per_prompt": 1, "num_class_images": 2, "curves": False}


def test_what_each_cell_costs_is_a_table_where_the_trained_parameters_differ(tmp_path):
    axes = {"adapter": ("none", "lora", "ia3")}
    study = read_study([made_up_sweep(tmp_path / "s", axes=axes, seeds=(0, 1), **SMALL)])
    assert study.axes == ("adapter",)
    assert [len(cell.trials) for cell in study.cells] == [2, 2, 2]
    (table,) = costs_tables(study)
    write_tables([table], tmp_path)
    with (tmp_path / "costs.csv").open() as file:
        rows = list(csv.DictReader(file))
    lora = {"trained_parameters": "36000", "weights_bytes": "0.15", "step_ms": "120"}
    lora |= {"cell": "lora", "label": "LoRA", "peak_memory_bytes": "1.80"}
    assert rows[1] == lora
    assert [row["trained_parameters"] for row in rows] == ["4200000", "36000", "2400"]
    assert "interval" not in latex(table)
    assert "n = " not in latex(table)


def test_where_all_cells_train_the_same_there_is_no_such_table(tmp_path):
    study = read_study([made_up_sweep(tmp_path / "s", axes={"class": ("none", "wrong")}, **SMALL)])
    assert trained_parameters(study) == {}
    assert costs_tables(study) == []
