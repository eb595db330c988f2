import csv
import json

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from offline_wandb import read_offline
from PIL import Image

from dreambooth.loggers import csv_logger, grid, publish, wandb_logger
from dreambooth.run import Metric, Picture

METRICS = {"identity": Metric(0.25, 4, "cosine", (0.125, 0.5))}


def picture(prompt, index, value=0):
    return Picture(torch.full((3, 4, 4), value, dtype=torch.uint8), prompt, index)


DOG = picture("a dog", 0, 200)


def test_the_csv_logger_writes_into_the_run_folder(tmp_path):
    logger = csv_logger(tmp_path, {})
    assert isinstance(logger, CSVLogger)
    publish(
        logger, METRICS | {"pres": Metric(float("nan"), 0, "none")}, [{"set": "prompts"}], [DOG]
    )
    with (tmp_path / "logs" / "metrics.csv").open() as file:
        assert list(csv.DictReader(file)) == [{"step": "0", "score/identity": "0.25"}]


@pytest.mark.parametrize(
    ("folder", "group", "name", "expected"),
    [
        ("sweep/3", None, None, ("sweep", "seed=1,prior.lambda=0")),
        ("single", None, None, ("", "seed=1,prior.lambda=0")),
        ("sweep/4", "mine", "first", ("mine", "first")),
    ],
)
def test_a_wandb_run_is_named_by_its_overrides_and_grouped_by_its_sweep(
    tmp_path, folder, group, name, expected
):
    import wandb

    config = {"seed": 1, "prior": {"lambda": 0}, "overrides": ["seed=1", "prior.lambda=0"]}
    (tmp_path / folder).mkdir(parents=True)
    logger = wandb_logger(tmp_path / folder, config, "dreambooth", group, name)
    pictures = [picture("a dog", 0), picture("a dog", 1, 50), picture("a red dog", 0, 100), DOG]
    rows = [{"set": "prompts", "dino": i / 4} for i in range(3)] + [{"set": "class", "pres": 0.75}]
    publish(logger, METRICS, rows, pictures)
    wandb.finish()
    kept = read_offline(tmp_path / folder)
    assert (kept.group, kept.name) == expected
    assert {k: kept.config[k] for k in config} == config
    assert kept.history["score/identity"] == [0.25]
    assert kept.history["pictures/captions"] == [["a dog; a red dog"]]
    summary = {"count": 4, "protocol": "cosine", "low": 0.125, "high": 0.5}
    assert {k: kept.summary[f"score/identity_{k}"] for k in summary} == summary
    table = json.loads(kept.files["scores.table.json"].read_text())
    assert table["columns"] == ["picture", "set", "dino", "pres"]
    assert [row[1:] for row in table["data"]] == [
        ["prompts", 0.0, None],
        ["prompts", 0.25, None],
        ["prompts", 0.5, None],
        ["class", None, 0.75],
    ]
    for (image, *_), shown in zip(table["data"], pictures, strict=True):
        path = kept.files[image["path"]]
        assert path.is_relative_to(tmp_path / folder)
        with Image.open(path) as found:
            assert np.array_equal(found, shown.pixels.permute(1, 2, 0))
    assert kept.exit_code == 0


def test_a_grid_is_rows_of_five_with_a_pixel_between():
    pixels = grid([picture("a dog", i, value=40 + i) for i in range(7)])
    assert pixels.shape == (2 * 5 + 1, 5 * 5 + 1, 3)
    assert pixels.dtype == "uint8"
    for i in range(7):
        top, left = 1 + 5 * (i // 5), 1 + 5 * (i % 5)
        assert (pixels[top : top + 4, left : left + 4] == 40 + i).all()
    assert (pixels[0] == 0).all()
