"""src/evaluate.py: a run scored again, images of other systems, and MetricBench."""

import csv
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_encoders
import torch
from commands import command, train
from offline_wandb import read_offline
from PIL import Image

from dreambooth.launch.sweep_table import SUPER_RESOLUTION_METRICS
from dreambooth.miniature.drawing import draw
from dreambooth.miniature.scenes import casual_photos
from dreambooth.miniature.subjects import drawn_subject
from dreambooth.runs.run import Run

pytestmark = pytest.mark.slow

DETAIL = set(SUPER_RESOLUTION_METRICS) - {"sr_dino", "sr_lpips"}
FIDELITY = {"dino", "clip_i", "clip_t", "pres", "div", "copy", "copied", "copied_null"}
ORACLE = {"identity", "clean", "class_accuracy", "context_accuracy", "drift", "diversity"}


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path)


@pytest.fixture
def external(tmp_path):
    """Images of biscuit by another system: its own photos as "a dog in the snow", and noise."""
    folder = tmp_path / "closed system"
    for i, scene in enumerate(casual_photos("dog", 7, 2)):
        save(folder / "a dog in the snow" / f"{i}.png", draw(scene))
    noise = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), np.uint8)
    save(folder / "a_red_dog" / "0.png", noise[0])
    save(folder / "a dog" / "0.png", noise[1])
    save(folder / "a dog" / "1.png", noise[2])
    return folder


def test_a_run_is_scored_again_beside_its_old_scores(tiny, encoders, tmp_path):
    copy = tmp_path / "run"
    assert train(tiny, copy, "metrics=oracle").code == 0
    shutil.rmtree(copy / "weights")  # scores need none
    before, old_rows = Run(copy, {}).read_metrics(), Run(copy, {}).read_scores()
    ended = command("evaluate", f"run={copy}", *encoders, "~metrics.oracle")
    assert ended.code == 0, ended.output
    run = Run.load_finished(copy, with_weights=False)
    after, rows = run.read_metrics(), run.read_scores()
    assert set(before) == ORACLE | DETAIL
    assert set(after) == set(before) | FIDELITY | {"sr_dino"}
    assert {name: after[name] for name in before} == before
    assert after["dino"].count == 25
    assert after["pres"].count == 2
    assert [{k: row[k] for k in old} for row, old in zip(rows, old_rows, strict=True)] == old_rows
    assert np.mean([r["dino"] for r in rows if r["set"] == "prompts"]) == pytest.approx(
        after["dino"].value
    )
    assert {row["seed"] for row in rows} == {0}
    metric = after["clip_t"]
    for said in ("CLIP: clip", "64x64 px", "[V] left out of the text", "float32"):
        assert said in metric.protocol
    assert "all images x 5 real photos (64x64 px, 8 bits)" in after["dino"].protocol
    assert run.images.read("photos")  # images stay


def test_images_of_another_system_are_a_row_of_the_sweeps_table(
    finished, external, encoders, tmp_path
):
    shutil.copytree(finished, tmp_path / "sweep" / "0")
    into = f"into={tmp_path / 'sweep'}"
    keep = "metrics.fidelity.keep_identifier=true"
    arguments = (f"images={external}", "subject=biscuit", into, "name=closed", *encoders, keep)
    ended = command("evaluate", *arguments)
    assert ended.code == 0, ended.output
    run = Run.load_finished(tmp_path / "sweep" / "closed", with_weights=False)
    assert run.config["method"] == "external"
    metrics, rows = run.read_metrics(), run.read_scores()
    assert set(metrics) == ORACLE | FIDELITY
    assert [(row["set"], row["prompt"], row["index"]) for row in rows] == [
        ("prompts", "a dog in the snow", 0),
        ("prompts", "a dog in the snow", 1),
        ("prompts", "a red dog", 0),
        ("class", "a dog", 0),
        ("class", "a dog", 1),
    ]
    assert rows[2]["path"] == str(external / "a_red_dog" / "0.png")
    # The photos themselves: nearer to a photo than nothing else can be.
    assert [row["copy"] for row in rows[:2]] == pytest.approx([1, 1], abs=1e-5)
    assert [row["copied"] for row in rows[:3]] == [1, 1, 0]
    assert metrics["div"].count == 1
    assert "[V] stays in the text" in metrics["clip_t"].protocol
    assert metrics["context_accuracy"].count == 2
    with (tmp_path / "sweep" / "sweep.csv").open() as file:
        table = {row["run"]: row for row in csv.DictReader(file)}
    assert table["closed"]["method"] == "external"
    assert table["closed"]["state"] == "finished"
    assert float(table["closed"]["copied"]) == pytest.approx(2 / 3)
    assert table["closed"]["sr_psnr"] == ""
    assert float(table["0"]["identity"]) == pytest.approx(
        Run.load_finished(finished).read_metrics()["identity"].value
    )
    assert "external" in ended.output

    kept = read_offline(run.folder)
    for name, metric in metrics.items():
        if metric.count:
            assert kept.history[f"score/{name}"] == [pytest.approx(metric.value)]
        assert kept.summary[f"score/{name}_count"] == metric.count
        assert kept.summary[f"score/{name}_protocol"] == metric.protocol
    assert kept.exit_code == 0

    again = command("evaluate", *arguments, "metrics.fidelity.keep_identifier=false")
    assert again.code == 0, again.output
    assert "left out of the text" in run.read_metrics()["clip_t"].protocol
    assert run.status().state == "finished"
    assert not (run.folder / "replaced").exists()
    shutil.copytree(external, tmp_path / "others")
    others = command("evaluate", *arguments, f"images={tmp_path / 'others'}")
    assert others.sentence == (
        f"{run.folder} holds the scores of other images: give name=NAME, another name for these"
    )
    (tmp_path / "sweep" / "0" / "weights").rename(tmp_path / "gone")
    ended = command("evaluate", f"run={tmp_path / 'sweep' / '0'}", *encoders, "~metrics.oracle")
    assert ended.code == 0, ended.output
    with (tmp_path / "sweep" / "sweep.csv").open() as file:  # the sweep's table follows
        assert all(row["copied"] for row in csv.DictReader(file))
    assert "give images=" in command("evaluate", f"run={run.folder}", *encoders).sentence


def photos_of(folder: Path) -> Path:
    """DreamBench's, or drawn ones of several sizes where it is absent."""
    if dreambench := os.environ.get("DREAMBENCH_DIR"):
        return Path(dreambench) / "dog6"
    for i, image in enumerate(drawn_subject("dog", 7).originals()):
        pixels = image.permute(1, 2, 0).numpy()
        save(folder / f"{i}.png", Image.fromarray(pixels).resize((300 + 20 * i, 260)))
    return folder


def by_hand(image, resize_px, mean, std):
    """(1, 3, 224, 224) float64."""
    short = min(image.size)
    size = [resize_px if s == short else resize_px * s // short for s in image.size]
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC), dtype=np.float64)
    top, left = (round((side - 224) / 2) for side in pixels.shape[:2])
    pixels = pixels[top : top + 224, left : left + 224] / 255
    return torch.from_numpy(((pixels - mean) / std).transpose(2, 0, 1)[None])


def test_the_papers_metrics_on_real_photos_equal_a_computation_in_float64(tmp_path, monkeypatch):
    """Encoders of the true shapes, with random weights."""
    import open_clip
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity
    from torchvision import models
    from transformers import ViTModel

    photos = photos_of(tmp_path / "photos")
    vit = tiny_encoders.vit_s16_folder(tmp_path / "vit-s16")
    clip = tiny_encoders.vit_b32_checkpoint(tmp_path / "vit-b32.safetensors")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # where torchmetrics' own LPIPS looks
    alexnet = tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    alexnet.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(models.alexnet().state_dict(), alexnet)
    noise = np.random.default_rng(0)
    for i, width in enumerate((90, 100, 90)):
        save(tmp_path / f"{i}.png", noise.integers(0, 255, (70, width, 3), np.uint8))
    table = tmp_path / "list.csv"
    table.write_text(
        "path,prompt\n0.png,a kzn dog in the snow\n0.png,a {} in the snow\n"
        "0.png,a red {}\n2.png,a red {}\n1.png,a dog"
    )
    ended = command(
        "evaluate",
        f"images={table}",
        *("subject=folder", f"photos={photos}", "class_noun=dog", "identifier.text=kzn"),
        *("metrics=paper", f"metrics.fidelity.dino.pretrained={vit}"),
        *(f"metrics.fidelity.clip.pretrained={clip}", "metrics.fidelity.clip.device=cpu"),
        *(f"metrics.fidelity.distance.backbone={alexnet}", "metrics.fidelity.dino.device=cpu"),
        *(f"into={tmp_path}", "name=row", "logger=csv"),
    )
    assert ended.code == 0, ended.output
    run = Run.load_finished(tmp_path / "row", with_weights=False)
    rows, metrics = run.read_scores(), run.read_metrics()
    assert set(metrics) == FIDELITY
    assert [row["prompt"] for row in rows[:2]] == ["a kzn dog in the snow"] * 2

    real = [Image.open(p).convert("RGB") for p in sorted(photos.iterdir())]
    drawn = [Image.open(tmp_path / f"{i}.png") for i in range(3)]
    dino = ViTModel.from_pretrained(vit, add_pooling_layer=False).double().eval()
    both = open_clip.create_model("ViT-B-32", str(clip), force_quick_gelu=False).double().eval()
    clip.unlink()  # 600 MB
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    openai = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

    def unit(rows):
        rows = torch.cat(rows).numpy()
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    with torch.no_grad():
        features = unit(
            [dino(by_hand(i, 256, *imagenet)).last_hidden_state[:, 0] for i in [*drawn, *real]]
        )
        seen = unit([both.encode_image(by_hand(i, 224, *openai)) for i in [drawn[0], *real]])
        read = unit([both.encode_text(open_clip.tokenize(["a dog in the snow"]))])
        x, y = (torch.from_numpy(np.float64(drawn[i])).permute(2, 0, 1)[None] for i in (0, 2))
        pair = learned_perceptual_image_patch_similarity(x / 255, y / 255, "alex", normalize=True)
    alexnet.unlink()
    to_real = features[:2] @ features[3:].T
    assert rows[0]["dino"] == pytest.approx(to_real[0].mean(), abs=1e-5)
    assert rows[4]["pres"] == pytest.approx(to_real[1].mean(), abs=1e-5)
    assert rows[0]["clip_i"] == pytest.approx((seen[:1] @ seen[1:].T).mean(), abs=1e-5)
    assert rows[1]["copy"] == pytest.approx(to_real[0].max(), abs=1e-5)
    assert rows[1]["clip_t"] == pytest.approx((seen[:1] @ read.T).item(), abs=1e-5)
    assert rows[0]["div"] == pytest.approx(0, abs=1e-6)  # the same image twice
    assert rows[3]["div"] == pytest.approx(pair.item(), abs=1e-5)
    assert pair > 0.01
    for name, said in (
        ("dino", "centre crop 224 px"),
        ("clip_i", "224x224 px"),
        ("div", "LPIPS: alex"),
        ("copied", f"{len(real)} real photos"),
    ):
        assert said in metrics[name].protocol


def test_the_benchmark_of_metrics_prints_every_metric_on_every_series(encoders):
    ended = command(
        "evaluate",
        *("experiment=metric_validity", "bench.num_subjects=2", "bench.num_images=2", *encoders),
    )
    assert ended.code == 0, ended.output
    assert "relation: 16 pairs, best first" in ended.output
    for metric in ("identity", "clean", "dino", "clip_i", "clip_t", "copy", "copied"):
        lines = [line for line in ended.output.splitlines() if line.startswith(f"| {metric} |")]
        assert len(lines) == 6
        assert all(math.isfinite(float(cell)) for cell in lines[0].split("|")[4:-1])
    assert "Pearson 0.32 with DINO" in ended.output


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((), "give one of run=DIR (a finished run), images=PATH (any system's images, in a folder"),
        (("run=a", "images=b"), "not run and images"),
        (("run=nowhere",), "there is no run folder nowhere"),
        (("run=conf",), "conf is not a run folder"),
        (
            ("run=conf", "subject=biscuit"),
            "a run keeps its own subject: leave subject= out",
        ),
        (("images=conf",), "compared with photos of their subject: give subject=NAME, or subject="),
        (("images=nowhere", "subject=biscuit"), "there is no folder or CSV file nowhere"),
        (("images=conf", "subject=biscuit"), "no images in conf: give a folder with a subfolder"),
        (("images=conf", "subject=biscuit", "metrics=none"), "metrics=none scores nothing"),
        (("images=conf", "subject=folder", "class_noun=dog"), "photos has no default: give"),
        (("experiment=metric_validity", "metrics=none"), "has no metric to judge"),
        (("experiment=metric_validity", "bench.num_images=0"), "bench.num_images=0: give a whole"),
        (
            ("images=conf", "subject=biscuit", "metrics=miniature")
            + ("metrics.fidelity.weights=conf",),
            "the miniature's dino encoder is not in conf: train it by python src/pretrain.py",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_sentence(tmp_path, overrides, said):
    assert said in command("evaluate", *overrides, f"into={tmp_path}").sentence
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("state", ["running", "failed"])
def test_an_unfinished_run_is_not_scored(finished, tmp_path, state):
    copy = shutil.copytree(finished, tmp_path / "run")
    Run(copy, {}).set_status(state, "out of memory" if state == "failed" else "")
    sentence = command("evaluate", f"run={copy}").sentence
    assert sentence.startswith(f"the run in {copy} is not finished ({state}")


def test_the_oracle_refuses_photos_and_images_of_other_sizes(external, encoders, tmp_path):
    photos = tmp_path / "photos"
    for i in range(3):
        save(photos / f"{i}.png", np.full((50, 40, 3), 40 * i, np.uint8))
    own = ("subject=folder", f"photos={photos}", "class_noun=dog", f"into={tmp_path / 'rows'}")
    said = command("evaluate", f"images={external}", *own).sentence
    assert "metrics=miniature scores subjects of the drawn world only" in said
    alexnet = tiny_encoders.lpips_backbone(tmp_path / "alexnet.pth")
    vit, clip = (Path(encoders[1].partition("=")[2]) / part for part in ("dino", "clip"))
    tiny_paper = (
        *("metrics=paper", f"metrics.fidelity.dino.pretrained={vit}", "logger=csv"),
        *("+metrics.fidelity.dino.resize_px=64", "+metrics.fidelity.dino.crop_px=64"),
        *(f"metrics.fidelity.clip.model={clip}", f"metrics.fidelity.distance.backbone={alexnet}"),
    )
    ended = command("evaluate", f"images={external}", *own, *tiny_paper)
    assert ended.code == 0, ended.output
    Image.new("L", (80, 70)).save(external / "a_red_dog" / "1.png")
    said = command("evaluate", f"images={external}", *own, *tiny_paper, "name=other").sentence
    several = "the images of the prompt 'a red dog' have several sizes (64x64 to 80x70 px)"
    assert said.startswith(several)
    status = Run(tmp_path / "rows" / "other", {}).status()
    assert (status.state, status.reason) == ("failed", said)
    said = command(
        "evaluate",
        f"images={external}",
        "subject=biscuit",
        f"into={tmp_path / 'drawn'}",
        "logger=csv",
    ).sentence
    assert said.startswith("the oracle of metrics=miniature reads images of 64x64 px, and one is")
