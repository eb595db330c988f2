"""A run that was cut off goes on where it was, to the bits of one that was not."""

import pytest
from commands import command, same_files, stopped_before_step, train

from dreambooth.distributed import preemption
from dreambooth.runs.run import Run

pytestmark = pytest.mark.slow

STEPS = {"base": 6, "sr": 4}


def overrides(tmp):
    """A run of every phase, with several checkpoints a stage and several batches of images."""
    return (
        "sr=noise_1e-3",
        f"method.max_steps={STEPS['base']}",
        f"sr.max_steps={STEPS['sr']}",
        "method.checkpoint_every=2",
        "drawing.images_per_prompt=3",
        f"prior.cache={tmp / 'prior'}",
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    ended = train(tiny, folder, *overrides(folder.parent))
    assert ended.code == 0, ended.output
    return folder


class Killed(BaseException):
    """As little as possible happens after it."""


@pytest.fixture
def cut_off(tiny, tmp_path, undisturbed, monkeypatch):
    """A run into tmp_path/run that dies as it calls something for the n-th time."""

    def start(where, number, *more):
        calls = []
        with monkeypatch.context() as patch:
            owner, _, name = where.rpartition(".")
            module, _, owner_name = owner.rpartition(".")
            target = getattr(__import__(module, fromlist=["x"]), owner_name)
            whole = getattr(target, name)

            def dying(*args, **kwargs):
                calls.append(args)
                if len(calls) == number:
                    raise Killed
                return whole(*args, **kwargs)

            patch.setattr(target, name, dying)
            with pytest.raises(Killed):
                train(tiny, tmp_path / "run", *overrides(undisturbed.parent), *more)
        return tmp_path / "run"

    return start


@pytest.fixture
def work(monkeypatch):
    """What is done from now on: steps of each stage, images, prior images."""
    from dreambooth.backbones.cascade import CascadeBackbone
    from dreambooth.methods.two_terms import TwoTermModule

    done = {"base": 0, "sr": 0, "pictures": 0}
    step, generate = TwoTermModule.training_step, CascadeBackbone.generate

    def counted_step(self, *args):
        done[self.stage.name] += 1
        return step(self, *args)

    def counted_generate(self, prompts, *args, **kwargs):
        done["pictures"] += len(prompts)
        return generate(self, prompts, *args, **kwargs)

    monkeypatch.setattr(TwoTermModule, "training_step", counted_step)
    monkeypatch.setattr(CascadeBackbone, "generate", counted_generate)
    return done


def rows(folder):
    """What was logged, but for the time that it took."""
    return [
        {k: v for k, v in row.items() if "time/" not in k} for row in Run(folder, {}).read_history()
    ]


def same_run(a, b):
    assert same_files(a / "weights", b / "weights", "*.safetensors")
    assert same_files(a / "images", b / "images", "*.png")
    assert same_files(a, b, "scores.csv")
    assert same_files(a, b, "metrics.json")
    assert rows(a) == rows(b)
    assert not list(b.rglob("*.partial"))
    assert Run.load_finished(b).status().progress == 1


EXPERIMENT = "dreambooth.experiment.Experiment"
STEP = "dreambooth.methods.two_terms.TwoTermModule.training_step"


@pytest.mark.parametrize(
    ("where", "number", "left"),
    [
        (STEP, 2, (6, 4, 77)),  # before any checkpoint
        (STEP, 6, (2, 4, 77)),  # the base's last step
        (STEP, 10, (0, 2, 77)),  # SR's last
        ("dreambooth.backbones.cascade.CascadeBackbone.save", 1, (0, 0, 77)),
        ("dreambooth.backbones.cascade.CascadeBackbone.generate", 3, (0, 0, 27)),
        ("dreambooth.backbones.cascade.CascadeBackbone.super_resolve", 1, (0, 0, 0)),
        ("dreambooth.experiment.Experiment.score", 1, (0, 0, 0)),
        ("dreambooth.runs.run.Run.write_metrics", 1, (0, 0, 0)),
    ],
)
def test_a_run_that_was_cut_off_anywhere_resumes_exactly(
    undisturbed, cut_off, work, where, number, left
):
    folder = cut_off(where, number)
    work.update(dict.fromkeys(work, 0))
    ended = command("train", f"run={folder}")
    assert ended.code == 0, ended.output
    assert tuple(work.values()) == left
    same_run(undisturbed, folder)


@pytest.mark.bits
def test_the_same_command_resumes_too(tiny, undisturbed, cut_off, work):
    folder = cut_off(STEP, 6)
    work.update(dict.fromkeys(work, 0))
    ended = train(tiny, folder, *overrides(undisturbed.parent))
    assert ended.code == 0, ended.output
    assert work["base"] == 2
    assert "resuming from" in ended.output
    same_run(undisturbed, folder)


def test_the_average_of_the_weights_resumes_too(tiny, tmp_path, undisturbed, cut_off):
    whole = tmp_path / "whole"
    assert train(tiny, whole, *overrides(undisturbed.parent), "method.ema_decay=0.7").code == 0
    assert not same_files(undisturbed / "weights", whole / "weights", "*.safetensors")
    folder = cut_off(STEP, 6, "method.ema_decay=0.7")
    assert command("train", f"run={folder}").code == 0
    same_run(whole, folder)


def test_a_finished_run_has_no_checkpoints_and_is_not_trained_again(undisturbed):
    assert not (undisturbed / "checkpoints").exists()
    ended = command("train", f"run={undisturbed}")
    assert ended.code == 0
    assert "this run is finished" in ended.output


def test_a_run_that_was_asked_to_stop_reports_it_and_resumes(
    tiny, tmp_path, undisturbed, monkeypatch
):
    from dreambooth.methods.two_terms import TwoTermModule

    step, steps = TwoTermModule.training_step, []

    def asking(self, *args):
        steps.append(self.global_step)
        if steps[-1] == 2:
            preemption.stop_requested.set()
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(TwoTermModule, "training_step", asking)
        ended = train(tiny, tmp_path / "run", *overrides(undisturbed.parent))
    preemption.stop_requested.clear()
    assert ended.code == 1
    assert ended.output.strip().endswith("stopped as asked, at step 3 of 6")
    assert Run(tmp_path / "run", {}).status().state == "preempted"
    assert command("train", f"run={tmp_path / 'run'}").code == 0
    same_run(undisturbed, tmp_path / "run")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("run=nowhere",), "there is no run folder nowhere"),
        (("run=conf",), "conf is not a run folder"),
        (("run=conf", "seed=1"), "conf is not a run folder"),
    ],
)
def test_what_cannot_be_resumed_is_refused(tmp_path, given, said):
    ended = command("train", *given, f"hydra.run.dir={tmp_path}")
    assert ended.sentence.startswith(said)


@pytest.mark.slow
def test_what_changes_no_result_may_change_before_a_run_goes_on(tiny, tmp_path):
    with stopped_before_step(1):
        assert train(tiny, tmp_path / "run", "method.checkpoint_every=2").code == 1
    words = ("method.checkpoint_every=1", f"prior.cache={tmp_path / 'other'}")
    ended = train(tiny, tmp_path / "run", *words)
    assert ended.code == 0, ended.output
    assert "resuming from" in ended.output
