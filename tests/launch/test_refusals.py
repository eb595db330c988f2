"""What cannot work is refused in one sentence: at once, by name, and before anything is written."""

import inspect
import re
import subprocess
import sys

import pytest
from adapters_of_conf import composed
from commands import ROOT, command, typed
from lightning import Trainer

from dreambooth.runs.checks import FOR_TRAINER, NOT_FOR_TRAINER, check_config

TRAINER = inspect.signature(Trainer).parameters


@pytest.fixture(scope="module")
def config():
    """The config of a run, as it is checked."""
    return composed() | {"overrides": []}


def refused(*words, script="train"):
    sentence = command(script, *words).sentence
    assert not (ROOT / "nowhere").exists()
    return sentence


def test_a_refused_command_never_imports_torch():
    commands = (
        ("prior.lambda=-1",),
        ("-m", "class=none,wrong", "modle=sd15"),
        ("+trainer.foo=1",),
        ("metrics=paper",),
    )
    code = (
        "import runpy, sys\n"
        f"for words in {commands}:\n"
        "    sys.argv = ['src/train.py', *words]\n"
        "    try: runpy.run_path('src/train.py', run_name='__main__')\n"
        "    except SystemExit as ended: print(ended.code)\n"
        "    heavy = {'torch', 'lightning', 'diffusers', 'transformers'}\n"
        "    print('heavy:', sorted(heavy & sys.modules.keys()))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = ended.stdout.strip().splitlines()
    for words, sentence in zip(commands, lines[::2], strict=True):
        assert words[-1].lstrip("+").partition("=")[0] in sentence
    assert lines[1::2] == ["heavy: []"] * len(commands)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("seed=abc", "seed=abc: give a whole number"),
        ("seed=1e30", "seed=1e+30: give a whole number"),
        ("force=maybe", "force=maybe: give true or false"),
        ("method.checkpoint_every=0", "checkpoint_every=0: give a whole number from 1 up"),
        ("identifier.text=dog class.noun=dog", "the identifier 'dog' is the class noun"),
        ("class=wrong class.noun=dog", "class.noun=dog is the subject's true class noun"),
        ("class=none class.noun=dog", "class=none has no noun"),
        ("class.noun='{}'", "class.noun={}: give text without braces"),
        ("subject.class_noun='{}'", "subject.class_noun={}: give a noun, such as dog"),
        ("report=auto", "report=auto is for a sweep: add -m, or leave it out"),
        ("launcher.jobs=2", "launcher.jobs=2 is for a sweep: add -m, or leave it out"),
        ("-m prior.lambda=0,0", "are the same run: leave one out"),
        ("-m prior.lambda=0,0.0 seed=0,1", "prior.lambda=0 seed=0 and prior.lambda=0.0 seed=0 are"),
        ("identifier.text=[a]", "identifier.text=['a']: give text without braces, or null"),
        ("identifier.text=5", "identifier.text=5: give text without braces, or null"),
        ("model.rare_token_ids=7", "rare_token_ids=7: give two ids as [5000,10000]"),
        ("trainer.max_epochs=3", "max_epochs=3: give method.max_steps=... in its place"),
        ("+trainer.foo=1", "trainer.foo is no argument of lightning.Trainer"),
        ("trainer.precision=12", "trainer.precision=12: give 32-true, bf16-mixed"),
        ("+foo=1", "there is no setting foo"),
        ("+prior.lamda=0", "there is no setting prior.lamda: did you mean prior.lambda?"),
        ("objective=lpips", "objective=lpips is not a score of these metrics"),
        ("objective=dino metrics=oracle", "objective=dino is not a score of these metrics"),
        ("objective=dino metrics=none", "objective=dino needs scores"),
        ("hydra.run.dir=Makefile", "Makefile is a file, give a folder"),
        ("hydra.run.dir=Makefile/a/b", "Makefile is a file, give a folder"),
        ("hydra.run.dir=/proc/a/b", "/proc cannot be written to, give another folder"),
        (f"hydra.run.dir={'x' * 300}", "give a folder that can be made"),
        ("hydra.run.dir=null", "hydra.run.dir=null: give a value"),
        ("prior.cache=Makefile", "prior.cache=Makefile:"),
        ("-m seed=0,1 hydra.sweep.dir=Makefile", "Makefile is a file, give a folder"),
        ("model=null", "model=null is no choice: choose from flux1, flux2_klein, if, miniature, "),
        ("metrics=null", "metrics=null is no choice: choose from miniature, none, oracle, paper"),
        ("model.backbone=null", "model.backbone=null: give"),
    ],
)
def test_a_setting_that_cannot_be(words, said):
    assert said in refused(*words.split())


def test_settings_after_two_dashes_replace_those_before():
    own = ["-m", "seed=0,1", "+prior.lambda=-1", "class=typo"]
    assert "seed is given twice" in typed("train", *own, "seed=2").sentence
    assert "class=typo does not exist" in typed("train", *own, "--", "seed=2").sentence
    assert typed("train", *own[1:], "--", "seed=2", "class=none", "prior.lambda=-2").sentence == (
        "prior.lambda=-2: give a number of 0 (no prior preservation) or more, 1 in the paper"
    )
    assert "seed is given twice" in typed("train", "--", "seed=2", "seed=3").sentence


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["modle=sd15"], "there is no setting modle: did you mean model?"),
        (["prior.lamda=0"], "there is no setting prior.lamda: did you mean prior.lambda?"),
        (["lamda=0"], "there is no setting lamda: did you mean prior.lambda?"),
        (["class=correkt"], "class=correkt does not exist: choose from correct, none, wrong (did"),
        (["~modle"], "there is no setting modle: did you mean model?"),
        (["trainer.max_steps=5"], "trainer.max_steps is not for a run: method.max_steps=..."),
        (["class=correct,"], "write class=correct"),
        (["a = b"], "'a = b' has spaces around =: write a=b"),
        (["seed", "=", "1"], "seed is no setting: write KEY=VALUE, without spaces"),
        (["identifier.text=dög"], "write 'identifier.text=\"dög\"'"),
        (["prior.lambda=0,1"], "prior.lambda=0,1 has several values: add -m"),
        (["prior.lambda=${nothing}"], "refers to nothing, which does not exist"),
        (["+seed=1"], "seed exists: leave out the + before it"),
    ],
)
def test_hydras_messages_in_our_words(words, said):
    sentence = refused(*words)
    assert said in sentence
    assert "+" not in sentence or "leave out the +" in sentence


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("prompts=[a {} on the beach]", "write 'prompts=[\"a {} on the beach\"]'"),
        ("prompts=a {} on the beach", "write 'prompts=\"a {} on the beach\"'"),
        ("prompts=['']", "prompts.0=: give a text in which {} stands for the subject"),
        ("prompts=['a {0}']", "prompts.0=a {0}: give a text in which {} stands"),
        ("prompts=['a {name}']", "prompts.0=a {name}: give a text in which {} stands"),
        ("prompts=5", "prompts=5: give at least one"),
        ("first_index=-1", "first_index=-1: give a whole number from 0 up"),
    ],
)
def test_a_prompt_that_cannot_be(word, said):
    assert said in refused("run=nowhere", word, script="generate")


def test_every_argument_of_lightnings_trainer_works_or_is_refused():
    assert {*FOR_TRAINER, *NOT_FOR_TRAINER} == TRAINER.keys()


@pytest.mark.parametrize("name", sorted(NOT_FOR_TRAINER.keys() - {"max_epochs"}))
def test_an_argument_of_the_trainer_that_would_not_do_as_it_says(config, name):
    said = f"trainer.{name} is not for a run: {NOT_FOR_TRAINER[name]}"
    with pytest.raises(ValueError, match=re.escape(said)):
        check_config(config | {"trainer": config["trainer"] | {name: 4}})


def test_a_command_with_such_an_argument_is_refused(config):
    check_config(config)
    assert refused("+trainer.max_time=4").startswith("trainer.max_time is not for a run: stop a")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("sr=off,noise_1e-5 model=sd15", "sr=noise_1e-5 cannot run: this model has no SR stage"),
        ("class=none,wrong seed=0,1 class.noun=dog", "class=none has no noun"),
        ("prior.lambda=0,-1", "prior.lambda=-1 cannot run: prior.lambda=-1: give a number"),
        ("class=none,typo", "class=typo does not exist: choose from correct, none, wrong"),
        ("class=correct,wrong class.noun=doggo", "the nearest words are dog"),
        ("subject.class_noun=dog,horse", "the miniature has no class 'horse'"),
        ("subject.name=[a],b", "subject.name=['a']: give text or null"),
        ("seed=0,1 subject.color=red", "there is no setting subject.color"),
        ("seed=0,1 +subject.color=red", "subject.color does not exist: subject has class_noun"),
    ],
)
def test_what_cannot_run_in_any_cell_is_refused_once_before_the_first(tmp_path, words, said):
    folder = tmp_path / "sweep"
    sentence = refused("-m", *words.split(), f"hydra.sweep.dir={folder}")
    assert sentence.count(said) == 1
    assert not folder.exists()


def test_all_missing_encoders_are_named_at_once():
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from dreambooth.metrics.loading import scorers_of

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        fidelity = "metrics.fidelity"
        words = ["metrics=paper", f"{fidelity}.dino.pretrained=/nowhere/dino"]
        words += [f"{fidelity}.clip.model=/nowhere/clip"]
        words += [f"{fidelity}.distance.backbone=/nowhere/alex"]
        metrics = OmegaConf.to_container(compose("train", words).metrics)
    with pytest.raises(
        ValueError, match=r"DINO encoder .*; the CLIP encoder .*; the LPIPS backbone"
    ):
        scorers_of(metrics)
