"""launcher=slurm where there is no SLURM: what it would ask for, and what it says. Its jobs are in
tests/slurm."""

import shutil

import pytest
from commands import ROOT, command
from omegaconf import OmegaConf

from dreambooth.launch.processes import Cell
from hydra_plugins.dreambooth_launchers.slurm import SlurmLauncher, _has_job


def script_of(monkeypatch, shape, *changes):
    """What sbatch would be given for cells of (nodes, devices, whether these are CPUs)."""
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/srun")
    settings = OmegaConf.load(ROOT / "conf" / "launcher" / "slurm.yaml")
    settings = OmegaConf.merge(settings, OmegaConf.from_dotlist(list(changes)))
    settings.pop("_target_")
    launcher = SlurmLauncher(**settings)
    launcher.config = OmegaConf.create({"hydra": {"sweep": {"dir": "runs/class"}}})
    executor = launcher._executor(*shape)
    return executor._make_submission_file_text("train", "1").splitlines()


def test_nodes_tasks_and_gpus_follow_from_the_devices(monkeypatch):
    lines = script_of(monkeypatch, (2, 4, False), "partition=a", "account=me", "constraint=fast")
    wanted = ["nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "cpus-per-task=4", "time=240"]
    wanted += ["partition=a", "account=me", "constraint=fast", "signal=USR2@120"]
    assert {f"#SBATCH --{line}" for line in wanted} <= set(lines)
    assert "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK" in lines
    assert any("srun" in line and "--kill-on-bad-exit=1" in line for line in lines)


def test_a_type_of_gpu_is_asked_for_and_none_on_a_cpu(monkeypatch):
    typed = script_of(monkeypatch, (1, 2, False), "gpu_type=a100")
    assert "#SBATCH --gpus-per-node=a100:2" in typed
    assert not any("gpu" in line for line in script_of(monkeypatch, (1, 2, True)))


def test_lines_and_options_of_the_users_own_are_in_the_script(monkeypatch):
    own = ("setup=['module load cuda']", "additional_parameters.reservation=mine")
    lines = script_of(monkeypatch, (1, 1, True), *own)
    assert "#SBATCH --reservation=mine" in lines
    assert lines.index("module load cuda") < lines.index("# command")


@pytest.mark.parametrize(
    ("override", "found", "sentence"),
    [
        ("launcher.jobs=4", False, "sbatch is not installed here"),
        ("launcher.time=4:00:00", True, "launcher.time=4:00:00: give a whole number from 1 up"),
    ],
)
def test_what_cannot_be_submitted_is_said(tmp_path, monkeypatch, override, found, sentence):
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/sbatch" if found else None)
    ended = command("train", "-m", "launcher=slurm", override, f"hydra.sweep.dir={tmp_path}")
    assert ended.code == 1
    assert sentence in ended.output
    assert "Traceback" not in ended.output


def test_a_damaged_cell_has_no_job_and_can_be_done_again_by_force(tmp_path):
    (tmp_path / "status.json").write_text("{")
    assert not _has_job(Cell(0, [], OmegaConf.create(), tmp_path), {"": "RUNNING"})


def test_without_a_sweep_there_is_nothing_to_submit(tmp_path):
    ended = command("train", "launcher=slurm", f"hydra.run.dir={tmp_path / 'run'}")
    assert (
        ended.sentence == "launcher=slurm submits the cells of a sweep: add -m, even for one cell"
    )
    assert not (tmp_path / "run" / "config.yaml").exists()
