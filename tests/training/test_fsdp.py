"""trainer.strategy=fsdp: two processes with half of the model each train as one with all of it."""

import json
from pathlib import Path

import pytest
import torch
from commands import ROOT, command, process, same_files, smoke
from safetensors.torch import load_file

from dreambooth.runs.run import Run

pytestmark = pytest.mark.slow

SMALL = ("logger=csv", "metrics=none", "method.max_steps=6", "method.batch_size=4")
BOTH_STAGES = ("sr=noise_1e-3", "prior.num_images=8")
SPLIT = ("trainer.devices=2", "trainer.strategy=fsdp")


def trained(*words):
    """The command of a run; that of one process in this one, which has imported all."""
    return process("src/train.py", *words) if SPLIT[0] in words else command("train", *words)


@pytest.fixture(scope="module")
def train(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("sharding")

    def train(name, *overrides, code=0):
        own = (*smoke(tiny, folder / "prior"), *SMALL, *BOTH_STAGES)
        ended = trained(*own, *overrides, f"hydra.run.dir={folder / name}")
        assert ended.code == code, ended.output
        return Run.load(folder / name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT / 'tests/distributed'}")
        yield train


@pytest.fixture(scope="module")
def whole(train):
    return train("whole")


@pytest.fixture(scope="module")
def split(train, tmp_path_factory):
    file = tmp_path_factory.mktemp("parts") / "rank"
    return train("split", *SPLIT, f"+callbacks.parts={{_target_: unlucky.Parts, file: {file}}}")


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


def test_the_losses_and_weights_are_those_of_one_process(whole, split):
    assert losses(whole).shape == (8, 2)
    torch.testing.assert_close(losses(split), losses(whole), rtol=0, atol=1e-5)
    assert weights(split).keys() == weights(whole).keys()
    for name, weight in weights(whole).items():
        # Adam makes a step of 1e-3 even of a gradient that is rounding alone, as of a key's bias.
        torch.testing.assert_close(weights(split)[name], weight, rtol=0, atol=1e-4, msg=str(name))


def test_each_process_has_half_of_the_weights_and_of_the_optimizer(split):
    file = split.config["callbacks"]["parts"]["file"]
    parts = [json.loads(Path(f"{file}-{rank}").read_text()) for rank in range(2)]
    for weights_here, averages_here, total in parts:
        assert 0.4 * total < weights_here < 0.6 * total
        assert averages_here == weights_here
    assert sum(part[0] for part in parts) == parts[0][2]


def test_nothing_of_the_previous_stage_stays_in_memory(train, tmp_path):
    file = tmp_path / "rank"
    train("held", *SPLIT, f"+callbacks.held={{_target_: unlucky.Held, file: {file}}}")
    for rank in range(2):
        parts, others = json.loads(Path(f"{file}-{rank}").read_text())
        assert parts > 50
        assert others == 0


def test_a_killed_run_resumes_to_the_same_bits(train, split, tmp_path):
    once = f"rank: 1, kill: true, step: 4, once: {tmp_path / 'killed'}"
    unlucky = f"+callbacks.unlucky={{_target_: unlucky.Unlucky, {once}}}"
    run = train("killed", *SPLIT, unlucky, code=1)
    assert list(run.checkpoints.glob("base-*.ckpt"))
    ended = process("src/train.py", f"run={run.folder}")
    assert ended.code == 0, ended.output
    assert "resuming from" in ended.output
    assert same_files(run.weights, split.weights, "*.safetensors")


def test_bfloat16_gives_the_results_of_one_process(train, whole):
    mixed = ("trainer.precision=bf16-mixed", "sr.noise_level=1e-5")
    alone, run = train("bf16", *mixed), train("bf16 split", *SPLIT, *mixed)
    assert (losses(alone) - losses(whole))[:6].abs().max() > 1e-5
    # Each bfloat16 is exact to one part in 2^8, and FSDP computes more of the model in it.
    torch.testing.assert_close(losses(run), losses(alone), rtol=2**-8, atol=1e-3)
    assert {weight.dtype for weight in weights(run).values()} == {torch.float32}


def test_stable_diffusion_is_sharded_too(stable_diffusion, tmp_path):
    own = ("experiment=smoke", "trainer=cpu", *stable_diffusion, "sr=off", *SMALL)
    losses_of = []
    for name, more in (("whole", ()), ("split", SPLIT)):
        words = (*own, *more, f"prior.cache={tmp_path / 'prior'}")
        ended = trained(*words, f"hydra.run.dir={tmp_path / name}")
        assert ended.code == 0, ended.output
        rows = Run.load(tmp_path / name).read_history()
        losses_of.append([[row[f"loss/{term}"] for term in ("subject", "prior")] for row in rows])
    assert len(losses_of[0]) == 6
    torch.testing.assert_close(*map(torch.tensor, losses_of), rtol=0, atol=1e-5)


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
    ended = trained(*own, f"hydra.run.dir={tmp_path / 'run'}")
    assert sentence in ended.sentence
