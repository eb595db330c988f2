"""A disk that fills, or may not be written to, in the middle of a run: one error, nothing lost."""

import errno
import resource
from contextlib import contextmanager

import pytest
from commands import command, same_files, train

from dreambooth.runs.run import Run

pytestmark = pytest.mark.slow


@contextmanager
def no_room():
    """The kernel lets no file grow: what is open, and whoever asks, root included."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def read_only():
    """As a file system that was mounted again to be read only, after an error of its disk."""

    def refuse(*_args, **_kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dreambooth.runs.files.os.fsync", refuse)
        yield


def content(folder):
    """Every file of a run but its logs."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".log"}


PHASES = {
    "dreambooth.training.checkpoints.Checkpoints.on_train_batch_start": 3,  # the 2nd checkpoint
    "dreambooth.experiment.save_trained": 1,
    "dreambooth.backbones.cascade.CascadeBackbone.save": 1,
    "dreambooth.backbones.cascade.CascadeBackbone.generate": 2,  # the last batch of images
    "dreambooth.experiment.Experiment.score": 1,
}


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert train(tiny, folder, *OWN).code == 0
    return folder


OWN = ("method.max_steps=4", "drawing.images_per_prompt=3", "prior=off", "hydra/job_logging=stdout")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("full", "said"), [(no_room, "File too large"), (read_only, "Read-only file system")]
)
def test_a_full_disk_is_one_error_and_the_run_resumes_when_there_is_room(
    tiny, tmp_path, undisturbed, monkeypatch, capfd, phase, full, said
):
    if full is read_only and phase.endswith("CascadeBackbone.save"):
        phase = "dreambooth.experiment.Experiment.draw"  # diffusers writes weights, in its own way
    folder, calls, before = tmp_path / "run", [], {}
    disk = full()

    with monkeypatch.context() as patch:
        target, whole = _looked_up(phase)

        def filling(*args, **kwargs):
            calls.append(1)
            if len(calls) == PHASES.get(phase, 1):
                before.update(content(folder))
                disk.__enter__()
            return whole(*args, **kwargs)

        patch.setattr(*target, filling)
        try:
            ended = train(tiny, folder, *OWN, f"prior.cache={undisturbed.parent / 'prior'}")
        finally:
            if before:
                disk.__exit__(None, None, None)
    assert before
    assert ended.code == 1
    errors = [line for line in ended.output.splitlines() if said in line or "Error" in line]
    assert len(errors) == 1
    assert "Traceback" not in ended.output + capfd.readouterr().err
    after = content(folder)
    status = folder / "status.json"
    assert {p: before[p] for p in before if p != status}.items() <= after.items()
    assert Run(folder, {}).status().state in ("running", "failed")
    assert command("train", f"run={folder}").code == 0
    assert same_files(undisturbed / "weights", folder / "weights", "*.safetensors")
    assert same_files(undisturbed / "images", folder / "images", "*.png")
    assert same_files(undisturbed, folder, "scores.csv")


def _looked_up(phase):
    """(owner, name) and the function itself."""
    import importlib

    parts = phase.split(".")
    for split in range(len(parts) - 1, 0, -1):
        try:
            owner = importlib.import_module(".".join(parts[:split]))
        except ImportError:
            continue
        for name in parts[split:-1]:
            owner = getattr(owner, name)
        return (owner, parts[-1]), getattr(owner, parts[-1])
    raise AssertionError(phase)
