"""Several processes of one run: what they share, and that together they do what one does."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import ROOT, command, last_of_each, process, same_files, smoke

from dreambooth.distributed import ranks
from dreambooth.runs.run import Run

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def commands(number, what, folder):
    return [[sys.executable, str(HERE / "share.py"), what, str(folder)]] * number


@pytest.fixture(autouse=True)
def paths(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{HERE}")


def test_ranks_share_work_and_answers(tmp_path):
    ranks.run_ranks(commands(3, "share", tmp_path))
    said = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert len({one["own"] for one in said}) == 3
    assert {one["first"] for one in said} == {said[0]["own"]}
    for one in said:
        assert one["split"] == [[0, 0], [1, 1], [4, 2], [9, 0], [16, 1]]
        assert one["united"] == {"of 0": 0, "of 1": 1, "of 2": 2}
        assert one["error"] == "division by zero"


def test_without_ranks_every_function_is_the_plain_thing():
    assert (ranks.rank(), ranks.num_ranks()) == (0, 1)
    assert ranks.on_rank_zero(lambda: "made") == "made"
    assert ranks.map_over_ranks(lambda item: -item, [1, 2]) == [-1, -2]
    assert ranks.merge_over_ranks({1: 2}) == {1: 2}


def test_batches_are_in_order_and_the_last_has_what_is_left():
    assert ranks.batches("abcde", 2) == ["ab", "cd", "e"]
    assert ranks.batches([1, 2], 2) == [[1, 2]]
    assert ranks.batches([], 2) == []


def test_a_rank_that_ends_badly_ends_the_others_long_before_they_would(tmp_path):
    began = time.monotonic()
    with pytest.raises(ranks.RanksError, match="rank 1 of 2 ended with exit code 7"):
        ranks.run_ranks(commands(2, "fail", tmp_path))
    assert time.monotonic() - began < 300


SMALL = ("logger=csv", "method.max_steps=6", "method.batch_size=4", "prior.num_images=20")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny):
    """The same run by one process and by two; 104 images, so that each of the two draws some."""
    folder = tmp_path_factory.mktemp("ranks")
    for number in (1, 2):
        own = (*smoke(tiny, folder / f"prior{number}"), *SMALL, "drawing.images_per_prompt=4")
        words = (*own, f"trainer.devices={number}", f"hydra.run.dir={folder / str(number)}")
        # By one: in this process, which has imported all.
        ended = command("train", *words) if number == 1 else process("src/train.py", *words)
        assert ended.code == 0, ended.output
    return folder


def losses(run):
    return torch.tensor(
        [[row[f"loss/{term}"] for term in ("subject", "prior")] for row in run.read_history()]
    )


def test_two_processes_train_as_one_does(runs):
    one, two = Run.load_finished(runs / "1"), Run.load_finished(runs / "2")
    assert losses(one).shape == (6, 2)
    torch.testing.assert_close(losses(two), losses(one), rtol=0, atol=1e-5)
    for path in one.weights.rglob("diffusion_pytorch_model.safetensors"):
        ours, theirs = (read(run.weights / path.relative_to(one.weights)) for run in (two, one))
        for name, weight in theirs.items():
            # Six steps move a weight by up to 3.6e-3. Adam divides by the gradient's size, so where
            # that is near 0, the order of a sum can move it by some of a step of 6e-4.
            torch.testing.assert_close(ours[name], weight, rtol=0, atol=1e-4)


def read(path):
    from safetensors.torch import load_file

    return load_file(path)


def test_two_processes_make_the_same_prior_images_and_score_the_same(runs):
    assert same_files(runs / "prior1", runs / "prior2", "*.png")
    one, two = Run.load_finished(runs / "1"), Run.load_finished(runs / "2")
    assert len(two.images.read("prompts")) == len(one.images.read("prompts")) == 100
    for name, metric in one.read_metrics().items():
        assert two.read_metrics()[name].value == pytest.approx(metric.value, abs=1e-3, nan_ok=True)


def test_the_same_weights_draw_and_score_to_the_same_bits_by_two_processes(runs):
    """The enlarged photos come from the SR stage, which was not trained."""
    for pattern in ("images/photos/*.png", "images/restored/*.png", "names.json"):
        assert same_files(runs / "1", runs / "2", pattern)


def test_a_rank_that_fails_ends_the_run_at_once_with_its_own_error(tmp_path, tiny):
    """One that is killed: tests/training/test_fsdp.py."""
    began = time.monotonic()
    unlucky = "+callbacks.unlucky={_target_: unlucky.Unlucky, rank: 1, kill: false}"
    own = (*smoke(tiny, tmp_path / "prior"), "logger=csv", "trainer.devices=2", unlucky)
    ended = process(
        "src/train.py", *own, "method.batch_size=2", f"hydra.run.dir={tmp_path / 'run'}"
    )
    assert ended.code == 1
    assert "the seventh seal is open" in ended.output
    status = Run(tmp_path / "run", {}).status()
    assert status.state == "failed"
    assert status.reason.startswith("the seventh seal is open")
    assert time.monotonic() - began < 600


@pytest.fixture(scope="module")
def slow_run(tmp_path_factory, tiny):
    """The words of a base stage by two processes, and its folder."""
    folder = tmp_path_factory.mktemp("slow")
    slow = "+callbacks.slow={_target_: unlucky.Slow}"
    own = (*smoke(tiny, folder / "prior"), *SMALL, "metrics=none", "trainer.devices=2")
    words = last_of_each(
        (*own, "stage=base", "method.max_steps=50", "method.checkpoint_every=1000", slow)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{HERE}")
        ended = process("src/train.py", *words, f"hydra.run.dir={folder / 'whole'}")
    assert ended.code == 0, ended.output
    return words, folder / "whole"


def tell(run, words, signum):
    """Start a command; once the run has trained further, send it a signal. Return its output."""
    before = run.status().progress
    started = subprocess.Popen(
        [sys.executable, "src/train.py", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until(lambda: run.status().progress > before)
    started.send_signal(signum)
    output, _ = started.communicate(timeout=300)
    assert started.returncode == 128 + signum
    wait_until(lambda: run.status().state != "running")
    return output


def test_a_run_of_ranks_that_is_told_to_end_saves_and_goes_on_to_the_same_bits(tmp_path, slow_run):
    words, whole = slow_run
    run = Run(tmp_path / "told", {})
    resume = [f"run={run.folder}"]
    for signum, given in (
        (signal.SIGTERM, [*words, f"hydra.run.dir={run.folder}"]),
        (signal.SIGINT, resume),
    ):
        output = tell(run, given, signum)
        assert "Traceback" not in output
        assert output.strip().endswith(f"to go on: python src/train.py run={run.folder}")
        assert run.status().state == "preempted"
    ended = process("src/train.py", *resume)
    assert ended.code == 0, ended.output
    assert "resuming from" in ended.output
    assert same_files(run.weights, whole / "weights", "*.safetensors")


def wait_until(condition):
    last = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < last
        time.sleep(0.1)


def test_the_sr_stage_of_a_run_of_several_devices_is_trained_by_as_many(tmp_path, slow_run):
    more = ("stage=sr", f"run={slow_run[1]}", "sr=noise_1e-3", "metrics=none")
    ended = process("src/train.py", *more, f"hydra.run.dir={tmp_path / 'sr'}")
    assert ended.code == 0, ended.output
    assert "2 processes, one for each device" in ended.output
    assert Run.load(tmp_path / "sr").status().state == "finished"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["trainer.devices=auto"], "trainer.devices=auto: give a whole number from 1 up"),
        (["trainer.num_nodes=2"], "for several nodes, give launcher=slurm and -m"),
        (
            ["trainer.devices=3"],
            "method.batch_size=4 is split over 3 devices: give a multiple",
        ),
        (["trainer.strategy=deepspeed"], "trainer.strategy=deepspeed: give auto (ddp) or fsdp"),
        (["trainer.strategy=fsdp"], "=fsdp needs at least two devices: give trainer.devices=2"),
    ],
)
def test_what_cannot_be_split_is_said(tmp_path, tiny, overrides, sentence):
    own = smoke(tiny, tmp_path / "prior")
    ended = command("train", *own, *overrides, f"hydra.run.dir={tmp_path / 'run'}")
    assert sentence in ended.sentence


def test_a_batch_that_does_not_divide_is_said():
    ranks.check_batch_size("method", 8, 4)
    with pytest.raises(ValueError, match="6 is split over 4 devices: give a multiple of 4"):
        ranks.check_batch_size("method", 6, 4)
