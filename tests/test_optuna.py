"""sweeps/optuna.sh, made small."""

import shlex

import pytest
import yaml
from commands import ROOT, command, smoke

from dreambooth.runs.cells import find_runs

pytestmark = pytest.mark.slow

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra `optuna`")


def test_optuna_searches_for_the_best_objective(tmp_path, tiny):
    script = (ROOT / "sweeps" / "optuna.sh").read_text()
    typed = script[script.index("src/train.py") : script.index('"$@"')].replace("\\\n", "")
    words = [word for word in shlex.split(typed)[1:] if not word.startswith("method.max_steps")]
    small = ("hydra.sweeper.n_trials=2", "method.max_steps=range(1, 4)", "metrics=oracle")
    own = (*smoke(tiny, tmp_path / "prior"), "logger=csv", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    ended = command("train", *words, *own, *small)
    assert ended.code == 0, ended.output
    runs = find_runs(tmp_path / "sweep")
    assert [run.status().state for run in runs] == ["finished"] * 2
    best = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    assert best["best_value"] == max(run.read_metrics()["identity"].value for run in runs)
    assert set(best["best_params"]) == {"method.module.learning_rate", "method.max_steps"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("model=sd15 subject=olive objective=dino", "the DINO encoder 'facebook/dino-vits16'"),
        ("objective=typo", "objective=typo is not a score of these metrics: choose from identity"),
        ("objective=dino metrics=none", "objective=dino needs scores: give metrics=miniature or"),
    ],
)
def test_a_search_for_a_score_that_runs_will_not_have_is_refused(tmp_path, words, said):
    search = ("hydra/sweeper=optuna", "seed=choice(0,1)", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert command("train", "-m", *search, *words.split()).sentence.startswith(said)
    assert not (tmp_path / "sweep").exists()


def test_an_objective_needs_the_encoders_that_a_run_could_do_without(stable_diffusion, tmp_path):
    words = [word for word in stable_diffusion if word != "metrics=none"]
    for sweep in (("seed=0",), ("-m", "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}")):
        ended = command("train", *sweep, *words, "subject=olive", "objective=dino")
        assert "the DINO encoder 'facebook/dino-vits16' cannot be used (" in ended.sentence
    assert not (tmp_path / "sweep").exists()
