"""sweeps/optuna.sh, made small."""

import shlex

import pytest
import yaml
from commands import ROOT, process, smoke

from dreambooth.runs.cells import find_runs

pytestmark = pytest.mark.slow

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra `optuna`")


def test_optuna_searches_for_the_best_objective(tmp_path, tiny):
    script = (ROOT / "sweeps" / "optuna.sh").read_text()
    command = script[script.index("src/train.py") : script.index('"$@"')].replace("\\\n", "")
    words = [word for word in shlex.split(command) if not word.startswith("method.max_steps")]
    small = ("hydra.sweeper.n_trials=2", "method.max_steps=range(1, 4)", "metrics=oracle")
    own = (*smoke(tiny, tmp_path / "prior"), "logger=csv", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    ended = process(*words, *own, *small)
    assert ended.code == 0, ended.output
    runs = find_runs(tmp_path / "sweep")
    assert [run.status().state for run in runs] == ["finished"] * 2
    best = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    assert best["best_value"] == max(run.read_metrics()["identity"].value for run in runs)
    assert set(best["best_params"]) == {"method.module.learning_rate", "method.max_steps"}
