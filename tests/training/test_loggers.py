import json

import numpy as np
import pytest
import torch
from offline_wandb import read_offline
from PIL import Image

from dreambooth.runs.cells import write_cells
from dreambooth.runs.pictures import Picture
from dreambooth.runs.records import Metric
from dreambooth.runs.run import Run
from dreambooth.training.loggers import History, grid, publish, wandb_logger

METRICS = {"identity": Metric(0.25, 4, "cosine", (0.125, 0.5))}


def picture(prompt, index, value=0):
    return Picture(torch.full((3, 4, 4), value, dtype=torch.uint8), prompt, index)


DOG = picture("a dog", 0, 200)


def test_rows_of_repeated_steps_replace_the_earlier_rows(tmp_path):
    run = Run(tmp_path, {})
    first = History(run)
    for step in range(3):
        first.log_metrics({"loss": torch.tensor(step / 4), "epoch": 0}, step)
    first.log_metrics({"sr/loss": 0.5}, 0)
    first.save()
    first.log_metrics({"loss": 9, "epoch": 0}, 3)  # lost, as by a kill
    again = History(run)
    for step in (2, 3):
        again.log_metrics({"loss": 1 + step / 4, "epoch": 0}, step)
    again.finalize("success")
    assert sorted(map(repr, run.read_history())) == sorted(
        map(
            repr,
            [
                {"step": 0.0, "loss": 0.0},
                {"step": 1.0, "loss": 0.25},
                {"step": 2.0, "loss": 1.5},
                {"step": 0.0, "sr/loss": 0.5},
                {"step": 3.0, "loss": 1.75},
            ],
        )
    )


@pytest.mark.slow
def test_a_resumed_wandb_run_keeps_its_id(tmp_path):
    import wandb

    config = {"overrides": []}
    ids = []
    for _ in range(2):
        logger = wandb_logger(tmp_path, config, "dreambooth")
        logger.log_metrics({"loss": 1.0}, 1)
        ids.append(logger.experiment.id)
        wandb.finish()
    assert ids[0] == ids[1]
    assert len(list(tmp_path.glob(f"wandb/offline-run-*-{ids[0]}"))) >= 1
    wandb_logger(tmp_path / "other", config, "dreambooth")
    assert (tmp_path / "other/wandb/id").read_text() != ids[0]


@pytest.mark.slow
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
    write_cells(tmp_path / "sweep", {"3": ["seed=3"], "4": ["seed=4"]})
    logger = wandb_logger(tmp_path / folder, config, "dreambooth", group, name)
    pictures = [picture("a dog", 0), picture("a dog", 1, 50), picture("a red dog", 0, 100), DOG]
    rows = [{"set": "prompts", "dino": i / 4} for i in range(3)] + [{"set": "class", "pres": 0.75}]
    publish([logger], METRICS, rows, pictures)
    wandb.finish()
    kept = read_offline(tmp_path / folder)
    assert (kept.group, kept.name) == expected
    assert {k: kept.config[k] for k in config} == config
    assert kept.history["score/identity"] == [0.25]
    assert kept.history["images/captions"] == [["a dog; a red dog"]]
    summary = {"count": 4, "protocol": "cosine", "low": 0.125, "high": 0.5}
    assert {k: kept.summary[f"score/identity_{k}"] for k in summary} == summary
    table = json.loads(kept.files["scores.table.json"].read_text())
    assert table["columns"] == ["image", "set", "dino", "pres"]
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
