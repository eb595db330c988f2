"""sweeps/wandb: the commands that W&B's agent makes of them, by its own code, with no server."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from commands import ROOT, smoke
from offline_wandb import read_offline
from wandb import wandb_agent

from dreambooth.runs.run import Run

pytestmark = pytest.mark.slow

FILES = sorted((ROOT / "sweeps" / "wandb").glob("*.yaml"))
assert FILES, "no sweeps to test"


def agents_command(monkeypatch, sweep, values, run_id="abcd1234"):
    """(command, environment) of a run, as W&B's agent starts it for a choice of the server's."""
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):  # the agent sets them: forgotten after
        monkeypatch.setenv(name, "")
    started = []
    monkeypatch.setattr(
        wandb_agent, "AgentProcess", lambda **kw: started.append(kw) or SimpleNamespace()
    )
    agent = wandb_agent.Agent.__new__(wandb_agent.Agent)  # its constructor asks the server
    vars(agent).update(_sweep_command=list(sweep["command"]), _run_processes={}, _function=None)
    vars(agent).update(_in_jupyter=False, _forward_signals=False)
    agent._command_run(
        {
            "run_id": run_id,
            "program": sweep["program"],
            "args": {key: {"value": value} for key, value in values.items()},
        }
    )
    (one,) = started
    return one["command"], one["env"]


def a_choice(parameter):
    """What the server might choose."""
    if "values" in parameter:
        return parameter["values"][-1]
    middle = (parameter["min"] + parameter["max"]) / 2
    return int(middle) if "q" in parameter else middle


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_agents_command_is_a_run_under_the_agents_id(monkeypatch, tmp_path, tiny, file):
    sweep = yaml.safe_load(file.read_text())
    values = {key: a_choice(parameter) for key, parameter in sweep["parameters"].items()}
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    command, env = agents_command(monkeypatch, sweep, values)
    assert [f"{key}={value}" for key, value in values.items()] == command[3:-1]
    # As it is, but tiny, and not into the repository.
    command = [word.replace("=runs/", f"={tmp_path}/") for word in command]
    small = [*smoke(tiny, tmp_path / "prior"), "metrics=none", "drawing.num_class_images=1"]
    if "method.max_steps" in values:
        command[command.index(f"method.max_steps={values['method.max_steps']}")] = (
            "method.max_steps=3"
        )
    env = {**env, "WANDB_SWEEP_ID": "sweep1", "WANDB_MODE": "offline"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"  # `python` is this one
    ended = subprocess.run(
        [*command, *small], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    run = Run.load_finished(tmp_path / "wandb" / "abcd1234")
    if "class" in values:
        assert (run.config["prior"]["lambda"], run.config["class"]["choice"]) == (1, "correct")
    assert (run.folder / "wandb" / "id").read_text() == "abcd1234"
    assert read_offline(run.folder).exit_code == 0
    assert list((run.folder / "wandb").rglob("*abcd1234*.wandb"))
