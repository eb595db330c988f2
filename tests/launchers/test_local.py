"""launcher=local with several cells at a time, on an app of a fraction of a second."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT, command, same_files, smoke, stopped_before_step
from omegaconf import OmegaConf

from dreambooth.launch.processes import Cell
from dreambooth.runs.cells import find_runs
from hydra_plugins.dreambooth_launchers.local import _slots

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def start(folder, todo, *overrides):
    """The app on four cells, two at a time."""
    words = ["small_app.py", "-m", "cell=0,1,2,3", f'todo="{todo}"']
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    environment.pop("OMP_NUM_THREADS", None)
    return subprocess.Popen(
        [sys.executable, *words, f"hydra.sweep.dir={folder}", *overrides],
        cwd=HERE,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Where the tests run in the background, Ctrl-C would else be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


def ended(started):
    output, _ = started.communicate(timeout=180)
    return started.returncode, output


def wait_for(condition):
    last = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < last
        time.sleep(0.05)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_so_many_cells_run_at_a_time_each_a_process_with_its_share_of_the_cores(tmp_path):
    todo = (
        "(folder / 'began').write_text(str(time.time())); time.sleep(0.5); "
        "(folder / 'ended').write_text(str(time.time())); "
        "print(os.getpid(), os.environ['OMP_NUM_THREADS'])"
    )
    code, output = ended(start(tmp_path, todo))
    assert code == 0, output
    folders = [tmp_path / str(cell) for cell in range(4)]
    spans = [[float((f / n).read_text()) for n in ("began", "ended")] for f in folders]
    together = [sum(began <= moment < end for began, end in spans) for moment, _ in spans]
    assert max(together) == 2
    said = [(f / "output.log").read_text().split() for f in folders]
    assert len({pid for pid, _ in said}) == 4
    assert {threads for _, threads in said} == {str(max(1, len(os.sched_getaffinity(0)) // 2))}


def test_a_cell_that_fails_or_is_killed_stops_no_other_and_is_named(tmp_path):
    todo = "[None, lambda: sys.exit(3), lambda: os.kill(os.getpid(), 9), None][cell] and "
    todo += "[None, lambda: sys.exit(3), lambda: os.kill(os.getpid(), 9)][cell](); print('done')"
    _, output = ended(start(tmp_path, todo))
    done = [(tmp_path / str(cell) / "output.log").read_text() for cell in range(4)]
    assert done == ["done\n", "", "", "done\n"]
    assert f"#1 ended with exit code 3: see {tmp_path}/1/output.log" in output
    assert f"#2 was killed by SIGKILL: see {tmp_path}/2/output.log" in output


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_no_cell_outlives_the_command(tmp_path, stop):
    started = start(tmp_path, "(folder / 'pid').write_text(str(os.getpid())); time.sleep(60)")
    pids = [tmp_path / "0" / "pid", tmp_path / "1" / "pid"]
    wait_for(lambda: all(path.exists() and path.read_text() for path in pids))
    started.send_signal(stop)
    ended(started)
    wait_for(lambda: not any(is_alive(path.read_text()) for path in pids))
    assert not (tmp_path / "2").exists()


def test_a_stopped_sweep_makes_no_folder_for_the_cells_that_are_left(tiny, tmp_path):
    words = (*smoke(tiny, tmp_path / "prior"), "logger=csv", "metrics=none", "seed=0,1,2")
    sweep = tmp_path / "sweep"
    with stopped_before_step(1):
        command("train", "-m", *words, f"hydra.sweep.dir={sweep}")
    assert [path.name for path in sweep.iterdir() if path.is_dir()] == ["seed-0"]


def cell_of(devices, accelerator):
    trainer = {"devices": devices, "num_nodes": 1, "accelerator": accelerator}
    return Cell(0, [], OmegaConf.create({"trainer": trainer}), Path())


def test_gpus_are_divided_among_the_cells(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7,8")
    seats = _slots(2, [cell_of(1, "gpu"), cell_of(2, "gpu")])
    assert [seat["CUDA_VISIBLE_DEVICES"] for seat in seats] == ["4,5", "6,7"]
    with pytest.raises(ValueError, match="need 6 GPUs, but this machine has 5"):
        _slots(3, [cell_of(2, "gpu")])
    assert "CUDA_VISIBLE_DEVICES" not in _slots(9, [cell_of(2, "cpu")])[0]


def test_threads_are_left_as_they_are_set(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert _slots(2, [cell_of(1, "cpu")]) == [{"OMP_NUM_THREADS": "7"}] * 2


def test_cells_in_processes_have_the_bits_of_cells_in_one(tmp_path, tiny):
    for jobs in (1, 2):
        own = (*smoke(tiny, tmp_path / "prior"), "logger=csv", "class=none,correct")
        folder = tmp_path / str(jobs)
        done = command("train", "-m", *own, f"launcher.jobs={jobs}", f"hydra.sweep.dir={folder}")
        assert done.code == 0, done.output
    one, two = tmp_path / "1", tmp_path / "2"
    assert [run.status().state for run in find_runs(two)] == ["finished"] * 2
    assert same_files(one, two, "*.safetensors")
    assert same_files(one, two, "*.png")
    assert same_files(one, two, "scores.csv")
