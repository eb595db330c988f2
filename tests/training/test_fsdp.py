"""trainer.strategy=fsdp: two processes with half of the model each train as one with all of it."""

import json
from pathlib import Path

import pytest
import torch
from commands import ROOT, command, in_turn_by_two, process, same_files, smoke
from safetensors.torch import load_file

from dreambooth.runs.run import Run

pytestmark = pytest.mark.slow

SMALL = ("logger=csv", "metrics=none", "method.max_steps=6", "method.batch_size=4")
BOTH_STAGES = ("sr=noise_1e-3", "prior.num_images=8")
SPLIT = ("trainer.devices=2", "trainer.strategy=fsdp")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny, stable_diffusion):
    """Name -> run: by one process, and by two with half of the model each."""
    folder = tmp_path_factory.mktemp("sharding")
    both = (*smoke(tiny, folder / "prior"), *SMALL, *BOTH_STAGES)
    mixed = ("trainer.precision=bf16-mixed", "sr.noise_level=1e-5")
    of_sd = ("experiment=smoke", "trainer=cpu", *stable_diffusion, "sr=off", *SMALL)
    of_sd += (f"prior.cache={folder / 'prior'}",)
    settings = {"whole": both, "bf16": (*both, *mixed), "sd": of_sd}
    for name, words in settings.items():
        ended = command("train", *words, f"hydra.run.dir={folder / name}")
        assert ended.code == 0, ended.output

    def callback(name, of_class, settings):
        return f"+callbacks.{name}={{_target_: unlucky.{of_class}, {settings}}}"

    split = (*both, *SPLIT)
    watched = (
        callback("parts", "Parts", f"file: {folder / 'parts'}"),
        callback("held", "Held", f"file: {folder / 'held'}"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT / 'tests/distributed'}")
        once = f"rank: 1, kill: true, step: 4, once: {folder / 'once'}"
        killed = (*split, callback("unlucky", "Unlucky", once))
        ended = process("src/train.py", *killed, f"hydra.run.dir={folder / 'killed'}")
        assert ended.code == 1, ended.output
        status = Run(folder / "killed", {}).status()
        assert status.state == "failed"
        assert status.reason.startswith("rank 1 of 2 was killed by")
        assert status.reason in ended.output
        assert list((folder / "killed/checkpoints").glob("base-*.ckpt"))
        ended = in_turn_by_two(
            (0, (*split, *watched, f"hydra.run.dir={folder / 'whole split'}")),
            (0, (f"run={folder / 'killed'}",)),
            (0, (*split, *mixed, f"hydra.run.dir={folder / 'bf16 split'}")),
            (0, (*of_sd, *SPLIT, f"hydra.run.dir={folder / 'sd split'}")),
        )
    assert "resuming from" in ended.output
    return {file.parent.name: Run.load(file.parent) for file in folder.glob("*/config.yaml")}


def losses(run):
    rows = run.read_history()
    return torch.tensor(
        [
            [row[f"{stage}loss/{term}"] for term in ("subject", "prior")]
            for stage in ("", "sr/")
            for row in rows
            if row.get(f"{stage}loss/subject") is not None
        ]
    )


def weights(run):
    files = sorted(run.weights.rglob("diffusion_pytorch_model.safetensors"))
    return {(file.parent.name, k): v for file in files for k, v in load_file(file).items()}


def test_the_losses_and_weights_are_those_of_one_process(runs):
    whole, split = runs["whole"], runs["whole split"]
    assert losses(whole).shape == (8, 2)
    torch.testing.assert_close(losses(split), losses(whole), rtol=0, atol=1e-5)
    assert weights(split).keys() == weights(whole).keys()
    for name, weight in weights(whole).items():
        # Adam makes a step of 1e-3 even of a gradient that is rounding alone, as of a key's bias.
        torch.testing.assert_close(weights(split)[name], weight, rtol=0, atol=1e-4, msg=str(name))


def said(run, callback):
    """What each process wrote by a callback."""
    file = run.config["callbacks"][callback]["file"]
    return [json.loads(Path(f"{file}-{rank}").read_text()) for rank in range(2)]


def test_each_process_has_half_of_the_weights_and_of_the_optimizer(runs):
    parts = said(runs["whole split"], "parts")
    for weights_here, averages_here, total in parts:
        assert 0.4 * total < weights_here < 0.6 * total
        assert averages_here == weights_here
    assert sum(part[0] for part in parts) == parts[0][2]


def test_nothing_of_the_previous_stage_stays_in_memory(runs):
    for parts, others in said(runs["whole split"], "held"):
        assert parts > 50
        assert others == 0


def test_a_killed_run_resumes_to_the_same_bits(runs):
    assert same_files(runs["killed"].weights, runs["whole split"].weights, "*.safetensors")


def test_bfloat16_gives_the_results_of_one_process(runs):
    alone, run = runs["bf16"], runs["bf16 split"]
    assert (losses(alone) - losses(runs["whole"]))[:6].abs().max() > 1e-5
    # Each bfloat16 is exact to one part in 2^8, and FSDP computes more of the model in it.
    torch.testing.assert_close(losses(run), losses(alone), rtol=2**-8, atol=1e-3)
    assert {weight.dtype for weight in weights(run).values()} == {torch.float32}


def test_stable_diffusion_is_sharded_too(runs):
    whole, split = losses(runs["sd"]), losses(runs["sd split"])
    assert whole.shape == (6, 2)
    torch.testing.assert_close(split, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("method.ema_decay=0.9", "fsdp does not support a moving average of the weights"),
        ("callbacks=score_curves", "fsdp cannot generate images during training: give callbacks"),
        ("metrics=none", "fsdp needs at least two devices: give trainer.devices=2"),
    ],
)
def test_unsupported_settings_are_refused(tiny, tmp_path, override, sentence):
    own = (*smoke(tiny, tmp_path / "prior"), "trainer.strategy=fsdp", override)
    ended = command("train", *own, f"hydra.run.dir={tmp_path / 'run'}")
    assert sentence in ended.sentence
