from types import SimpleNamespace

import pytest

from dreambooth.runs.run import Run
from dreambooth.training import progress
from dreambooth.training.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """Time that stands still until it is set."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.seconds)
    return now


def test_the_time_of_each_step_is_logged_and_progress_is_printed_now_and_then(tmp_path, clock):
    run = Run.create(tmp_path, {})
    logged = []
    module = SimpleNamespace(log=lambda name, value, **_: logged.append((name, value)))
    trainer = SimpleNamespace(max_steps=4, global_step=0, is_global_zero=True)
    callback = Progress(run)
    callback.on_train_start(trainer, module)
    told = []
    for step, seconds in enumerate([1.0, 3.0, 2.0, 0.5], start=1):
        clock.seconds += seconds
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, None, step)
        told.append(run.status().progress)
    assert [name for name, _ in logged] == ["time/step_ms"] * 4
    assert [value for _, value in logged] == pytest.approx([1000, 3000, 2000, 500])
    assert told == [0, 0, 0.75, 0.75]  # after more than 5 seconds
    assert run.status().state == "running"


def test_only_the_first_process_writes(tmp_path, clock):
    run = Run.create(tmp_path, {})
    trainer = SimpleNamespace(max_steps=4, global_step=2, is_global_zero=False)
    callback = Progress(run)
    callback.on_train_start(trainer, None)
    clock.seconds += 60
    callback.on_train_batch_end(trainer, SimpleNamespace(log=lambda *_, **__: None), 0, 0, 0)
    assert run.status().progress == 0
