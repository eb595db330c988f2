"""launcher=slurm on a real SLURM: two nodes of this machine, made by cluster.sh.

All jobs are submitted first, and then waited for: most of their time is sleep. The runs that are
disturbed sleep at each step (slow.py), or wait after the first, so that there is time to do it.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
from commands import ROOT, command, process, same_files, smoke

from dreambooth.distributed.slurm import active_jobs
from dreambooth.miniature import WEIGHTS
from dreambooth.runs.cells import find_runs
from dreambooth.runs.orphans import refresh_status
from dreambooth.runs.run import Run

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

HERE = Path(__file__).parent
# The literal ones, of the models that the project ships.
SHIPPED = f"model.backbone.pretrained={WEIGHTS}"
CELLS = ("prior.lambda=0,1", "class=none,wrong,correct", SHIPPED)
DISTURBED = ("metrics=none", "method.max_steps=80", "method.checkpoint_every=1000")
LORA = ("adapter=lora", "trainer.devices=2")
# A limit of two minutes; SLURM looks every half minute, and tells the job after 30 to 60 seconds.
OUT_OF_TIME = ("launcher.time=2", "launcher.signal_delay_s=60")
DDP = ("method.max_steps=6", "method.batch_size=4", "prior.num_images=20", "metrics=none")
FSDP = ("trainer.devices=2", "trainer.strategy=fsdp")
TWO_NODES = (*DDP, "method.max_steps=60", "method.checkpoint_every=1000")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """SLURM_CONF of a cluster that lasts as long as the tests of this file."""
    missing = [tool for tool in ("slurmctld", "slurmd", "munged") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(
            "needs root and SLURM (apt-get install slurm-wlm munge): make slurm-test-cluster"
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMBOOTH_CLUSTER", str(tmp_path_factory.mktemp("cluster") / "slurm"))
        for _ in range(2):  # each start ends the cluster before
            told = subprocess.run(
                [HERE / "cluster.sh", "start"], capture_output=True, text=True, check=False
            )
            assert told.returncode == 0, told.stderr
        where = told.stdout.strip().removeprefix("export SLURM_CONF=")
        patch.setenv("SLURM_CONF", where)
        # What a shell inside a job would have on; SLURM would take it for the new job's.
        for name in (
            "SLURM_JOB_ID",
            "SLURM_NTASKS",
            "SLURM_NTASKS_PER_NODE",
            "SLURM_CPUS_PER_TASK",
        ):
            patch.setenv(name, "3")
        patch.setenv("SBATCH_PARTITION", "nowhere")
        patch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{HERE}")
        yield
        subprocess.run([HERE / "cluster.sh", "stop"], check=True)
        assert not Path(where).parent.exists()
        assert "dreambooth-cluster" not in Path("/etc/hosts").read_text()
        left = subprocess.run(["pgrep", "-f", "slurmd -N n[12]"], capture_output=True, check=False)
        assert not left.stdout


class Submitted:
    """Sweeps of the tiny cascade as SLURM jobs; all at once, so that they share the waiting."""

    def __init__(self, folder, own):
        self.folder, self.own = folder, own

    def submit(self, name, *overrides):
        folder = self.folder / name
        launcher = ("launcher=slurm", "launcher.wait=false", "launcher.cpus_per_task=1")
        words = (*self.own, *launcher, "launcher.max_num_timeout=20", *overrides)
        began = time.monotonic()
        ended = process("src/train.py", "-m", *words, f"hydra.sweep.dir={folder}")
        assert ended.code == 0, ended.output
        return ended.output, time.monotonic() - began

    def run(self, name):
        (run,) = find_runs(self.folder / name)
        return run

    def ended(self, name, seconds=400):
        """The runs of a sweep, once none of them is SLURM's any more."""
        last = time.monotonic() + seconds
        while True:
            there = active_jobs()
            runs = find_runs(self.folder / name)
            states = [refresh_status(run, there).state for run in runs]
            if all(state in ("finished", "failed") for state in states):
                return runs
            assert time.monotonic() < last, (states, there, self.log(name))
            time.sleep(0.5)

    def wait_for(self, name, file):
        last = time.monotonic() + 400
        while not file.exists():
            assert time.monotonic() < last, self.log(name)
            time.sleep(0.2)

    def log(self, name):
        logs = sorted((self.folder / name / ".submitit").glob("*/*.out"))
        return "\n".join(path.read_text() for path in logs)


def slow(seconds, folder="null"):
    return f"+callbacks.slow={{_target_: slow.Slow, seconds: {seconds}, folder: {folder}}}"


@pytest.fixture(scope="module")
def own(tmp_path_factory, tiny):
    """Overrides of all runs. They share their prior images: two processes draw them in other
    batches than one, and on some CPUs the batch changes a pixel by 1 of 255 (docs/runs.md)."""
    return (*smoke(tiny, tmp_path_factory.mktemp("prior")), "logger=csv")


@pytest.fixture(scope="module")
def jobs(cluster, tmp_path_factory, own):
    """Everything is submitted here; the signals are sent to those that wait for them."""
    jobs = Submitted(tmp_path_factory.mktemp("jobs"), own)
    disturbed = ("stop", "lora", "once", "nodes", "fsdp")  # held at once: all 8 CPUs there are
    held = {name: tmp_path_factory.mktemp(name) for name in disturbed}
    # SLURM would end it after 9 minutes: any signal is then taken for that end.
    once = ("launcher.max_num_timeout=0", "launcher.time=9")
    jobs.submit("limit", *DISTURBED, slow(0.7), *OUT_OF_TIME)
    jobs.submit("stop", *DISTURBED, slow(0.25, held["stop"]))
    jobs.submit("lora", *DISTURBED, *LORA, slow(0.25, held["lora"]))
    jobs.submit("once", *DISTURBED, slow(0.25, held["once"]), *once)
    jobs.submit("ddp", *DDP, "trainer.devices=2")
    jobs.submit("fsdp", *DDP, *FSDP, slow(1, held["fsdp"]))
    jobs.submit("nodes", *TWO_NODES, slow(0.25, held["nodes"]), "trainer.num_nodes=2")
    jobs.told = jobs.submit("cells", *CELLS, "launcher.jobs=4")
    jobs.queued = [run.status() for run in find_runs(jobs.folder / "cells")]
    jobs.array = said("scontrol", "--oneliner", "show", "job", jobs.queued[0].job)
    for name, folder in held.items():
        jobs.wait_for(name, folder / "waits")
        said("scancel", "--signal=USR2", jobs.run(name).status().job)
        (folder / "go").touch()
    return jobs


def said(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def local(tmp_path_factory, own):
    """The same commands, undisturbed and without SLURM."""
    folder = tmp_path_factory.mktemp("local")

    def run(name, *overrides):
        ended = command("train", "-m", *own, f"hydra.sweep.dir={folder / name}", *overrides)
        assert ended.code == 0, ended.output
        return find_runs(folder / name)

    return run


def test_the_command_returns_at_once_and_says_what_is_queued(jobs):
    output, seconds = jobs.told
    assert seconds < 60
    assert output.count("with its output in") == 6
    assert {status.state for status in jobs.queued} <= {"queued", "running"}
    assert "queued" in [status.state for status in jobs.queued]
    assert "The jobs are submitted: repeat the command to see their status" in output


def test_the_six_cells_are_an_array_of_two_nodes_with_the_scores_of_the_local_launcher(jobs, local):
    runs = jobs.ended("cells")
    assert [run.status().state for run in runs] == ["finished"] * 6
    arrays = {run.status().job.partition("_")[0] for run in runs}
    assert len(arrays) == 1
    assert {run.status().job.partition("_")[2] for run in runs} == set("012345")
    assert "ArrayTaskThrottle=4" in jobs.array
    nodes = said("squeue", "--states=all", "--noheader", "--format=%N", f"--jobs={arrays.pop()}")
    assert set(nodes.split()) == {"n1", "n2"}
    assert runs[0].read_provenance()["command"].startswith("python src/train.py ")
    here = local("cells", *CELLS)
    assert [run.folder.name for run in runs] == [run.folder.name for run in here]
    for run, other in zip(runs, here, strict=True):
        for pattern in ("scores.csv", "metrics.json", "*.safetensors", "*.png"):
            assert same_files(run.folder, other.folder, pattern)


def test_the_same_command_again_finds_them_finished(jobs):
    jobs.ended("cells")
    output, _ = jobs.submit("cells", *CELLS, "launcher.wait=true")
    assert "6 of 6 cells finished already" in output
    assert "with its output in" not in output


@pytest.fixture(scope="module")
def one_process(local):
    (run,) = local("one", *DDP)
    return run


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_two_tasks_train_as_one_process_does(jobs, one_process, name):
    """With FSDP they are told to stop during training, queued again, and go on."""
    (run,) = jobs.ended(name)
    log = jobs.log(name)
    assert run.status().state == "finished", log
    losses = [losses_of(run.folder), losses_of(one_process.folder)]
    assert len(losses[0]) == 6
    torch.testing.assert_close(*(torch.tensor(rows) for rows in losses), rtol=0, atol=1e-5)
    assert len(list((run.folder.parent / ".submitit").glob("*/*_log.out"))) == 2  # a task each
    assert ("stopped as asked, at step" in log and "resuming from" in log) == (name == "fsdp")


def test_a_run_of_two_nodes_that_is_told_to_stop_goes_on_to_the_same_bits(jobs, local):
    """As two processes of one machine have them, undisturbed."""
    (run,) = jobs.ended("nodes")
    log = jobs.log("nodes")
    assert run.status().state == "finished", log
    assert "stopped as asked, at step" in log
    assert "resuming from" in log
    (there,) = local("nodes", *TWO_NODES, "launcher.jobs=2", "trainer.devices=2")
    assert same_files(run.weights, there.weights, "*.safetensors")
    assert losses_of(run.folder) == losses_of(there.folder)


def losses_of(folder):
    rows = Run(folder, {}).read_history()
    return [[row[f"loss/{term}"] for term in ("subject", "prior")] for row in rows]


@pytest.fixture(scope="module")
def undisturbed(local):
    """The same runs without a signal, by name."""
    adapter = local("adapter", *DISTURBED, *LORA, "launcher.jobs=2")
    runs = {"stop": local("full", *DISTURBED), "lora": adapter}
    return {name: run for name, (run,) in {**runs, "limit": runs["stop"]}.items()}


@pytest.mark.parametrize("name", ["stop", "limit", "lora"])
def test_a_job_that_is_told_to_stop_saves_is_queued_again_and_ends_with_the_same_bits(
    jobs, undisturbed, name
):
    (run,) = jobs.ended(name)
    assert run.status().state == "finished", jobs.log(name)
    log = jobs.log(name)
    assert "stopped as asked, at step" in log
    assert log.count("Starting with JobEnvironment") > 1  # it was queued again
    assert "resuming from" in log
    assert same_files(run.weights, undisturbed[name].weights, "*.safetensors")
    assert same_files(run.folder / "images", undisturbed[name].folder / "images", "*.png")


def test_a_job_that_was_queued_again_too_often_has_failed_and_says_why(jobs):
    (run,) = jobs.ended("once")
    status = run.status()
    assert status.state == "failed"
    assert status.reason == (
        "it reached its time limit more than launcher.max_num_timeout=0 times: repeat the command "
        "with a longer launcher.time"
    )
    assert list(run.checkpoints.glob("*.ckpt"))


def test_a_job_that_is_cancelled_while_it_waits_has_failed_and_the_status_says_so(jobs):
    jobs.submit("cancelled", "+launcher.additional_parameters.begin=now+1hour")
    run = jobs.run("cancelled")
    assert run.status().state == "queued"
    assert refresh_status(run, active_jobs()).state == "queued"
    subprocess.run(["scancel", run.status().job], check=True)
    (run,) = jobs.ended("cancelled")
    assert "CANCELLED" in run.status().reason
    assert run.status().job in run.status().reason


def test_a_damaged_cell_stops_no_other(jobs):
    folder = jobs.folder / "damaged"
    (folder / "class-none" / "weights").mkdir(parents=True)  # it has done something
    (folder / "class-none" / "status.json").write_text("{")
    words = (*jobs.own, "metrics=none", "launcher=slurm", "launcher.cpus_per_task=1")
    ended = process("src/train.py", "-m", *words, "class=none,wrong", f"hydra.sweep.dir={folder}")
    assert ended.code == 1
    assert "1 of 2 runs failed:\n  class-none: " in ended.output
    assert Run(folder / "class-wrong", {}).status().state == "finished", ended.output
    assert "2 of 2 cells: " in ended.output  # where the sweep stands, as each ends


def test_what_sbatch_refuses_is_told(jobs):
    ended = process(
        "src/train.py",
        "-m",
        *jobs.own,
        "launcher=slurm",
        "launcher.partition=nowhere",
        f"hydra.sweep.dir={jobs.folder / 'refused'}",
    )
    assert ended.code == 1
    assert "SLURM does not accept the jobs" in ended.output
    assert "invalid partition" in ended.output
    assert "Traceback" not in ended.output
