"""Wrong inputs of each command: one sentence, before torch is needed, and nothing left behind."""

import pytest
from commands import ROOT, typed

TRAIN = [
    ("seed=", "seed=: give a whole number"),
    ("seed=1.5", "seed=1.5: give a whole number"),
    ("seed=-1", "seed=-1: give a whole number from 0 up"),
    ("seed='1'", "seed=1: give a whole number"),
    ("Seed=1", "there is no setting Seed: did you mean seed?"),
    ("=1", "=1 has no key: write KEY=VALUE"),
    ("seed:1", "seed:1 is no setting: write KEY=VALUE, without spaces"),
    ("--seed=1", "--seed=1 is no option: write a setting without dashes, as seed=1"),
    ("--multirn seed=0,1", "--multirn is no option: write a setting without dashes, as KEY="),
    (
        "class=none class=wrong",
        "class is given twice, as class=none and class=wrong: leave one out",
    ),
    ("prior.lambda=1 ++prior.lambda=0", "prior.lambda is given twice, as prior.lambda=1 and ++pri"),
    ("-m seed=0,1 seed=2", "seed is given twice, as seed=0,1 and seed=2: leave one out"),
    ("class=Correct", "class=Correct does not exist: choose from correct, none, wrong (did you me"),
    ("class=1", "class=1 is no choice: choose from correct, none, wrong"),
    ("class=", "class= does not exist: choose from correct, none, wrong"),
    ("class.choice=maybe", "class.choice=maybe: give none, wrong or correct"),
    ("+subject=olive", "subject has a choice: give subject=olive, without + before it"),
    ("subject=./photos", "subject=./photos does not exist: choose from biscuit, "),
    (
        "model=/nowhere/model",
        "model=/nowhere/model does not exist: choose from flux1, flux2_klein, if, miniature, sd15",
    ),
    ("identifier=sks", "identifier=sks does not exist: choose from common, random, rare"),
    ("photos=x", "there is no setting photos"),
    ("adapter.scale=0.5", "adapter.scale=0.5 scales nothing: this run has no adapter"),
    ("adapter=lora adapter.scale=-1", "adapter.scale=-1: give a number of 0 or more (1: as tra"),
    ("adapter=oft adapter.scale=0.5", "adapter.scale=0.5: peft cannot scale an adapter of OFTConf"),
    ("adapter=vera adapter.config.r=0", "adapter.config.r=0: give a whole number from 1 up"),
    ("adapter=lora adapter.config.r=two", "adapter.config.r=two: give a whole number from 1 up"),
    ("method=textual_inversion adapter=lora", "this method trains no adapter: give adapter=none"),
    ("method.train_text_encoder=maybe", "method.train_text_encoder=maybe: give true or false"),
    ("method.text_encoder_learning_rate=0", "method.text_encoder_learning_rate=0: give a number"),
    ("method=textual_inversion method.train_text_encoder=true", "there is no setting method.train"),
    ("prior=off prior.lambda=1", "prior=off has no prior term: leave out prior.lambda=1, or give"),
    ("prior.lambda=10%", "prior.lambda=10%: give a number of 0 (no prior preservation) or more"),
    ("prior.lambda=1e999", "prior.lambda=inf: give a number of 0 (no prior preservation) or more"),
    ("prior.num_images=1e3", "prior.num_images=1000.0: give a whole number from 1 up"),
    ("prior.cache=", "prior.cache=: give a folder"),
    ("prior.cache=5", "prior.cache=5: give a folder"),
    ("method.batch_size=-2", "method.batch_size=-2: give a whole number from 1 up"),
    ("method.ema_decay=0.999,0.99", "method.ema_decay=0.999,0.99 has several values: add -m for"),
    ("metrics.oracle=null", "metrics.oracle=null: give +metrics.oracle._target_=..., or leave it"),
    (
        "trainer=gpu:0",
        "trainer=gpu:0 does not exist: choose from auto, cpu, gpu, gpu_16gb, gpu_24gb, ",
    ),
    ("trainer.accelerator=cuda", "trainer.accelerator=cuda: give auto, cpu or gpu"),
    ("trainer.devices=[0]", "trainer.devices=[0]: give a whole number from 1 up"),
    ("trainer.num_nodes=2", "trainer.num_nodes=2: for several nodes, give launcher=slurm and -m"),
    ("model.sampling.images.base=ddim", "model.sampling.images.base=ddim: give the settings in it"),
    ("callbacks=score_curves callbacks.score_curves.every_n_steps=0", "callbacks.score_curves.eve"),
    ("run=runs/nowhere", "there is no run folder runs/nowhere"),
    ("run=5", "run=5: give text, or null"),
    ("experiment=frontier", "experiment=frontier is for src/evaluate.py"),
    ("experiment=metric_validity", "experiment=metric_validity is for src/evaluate.py"),
    ("objective=[dino]", "objective=['dino']: give text, or null"),
    ("force=1", "force=1: give true or false"),
    ("~class", "class is left out: choose from correct, none, wrong"),
    ("sübject=olive", "sübject=olive cannot be read: write KEY=VALUE, with a key as docs/"),
    ("class.noun=собака", "class.noun=собака cannot be read: write 'class.noun=\"собака\"'"),
    ("-m seed=range(0,0)", "this sweep has no cell: list values, as seed=0,1"),
    ("-m seed=interval(0,1)", "an interval is for a search: add hydra/sweeper=optuna, or list val"),
    ("-m seed=0;1", "seed=0;1 cannot be read: write 'seed=\"0;1\"'"),
    ("-m hydra.sweep.dir= seed=0,1", "hydra.sweep.dir=: give a folder"),
    ("-m run=a,b", "no cell is started, because run=a cannot run: there is no run folder a"),
    ("-m launcher.jobs=two seed=0,1", "no cell is started, because seed=0 cannot run: launcher.j"),
]
PHOTOS = [
    ("class_noun=dog", "photos has no default: give photos=... on the command line"),
    ("photos=PHOTOS", "class_noun has no default: give class_noun=... on the command line"),
    ("photos=/nowhere class_noun=dog", "there is no folder /nowhere: give one that holds 3-5 ph"),
    ("photos=Makefile class_noun=dog", "Makefile is a file: give the folder that holds the"),
    ("photos=conf class_noun=dog", "no photos in conf (it holds adapter, callbacks, check.yaml"),
    ("photos= class_noun=dog", "photos=: give the folder with photos of the subject"),
    ("photos=[a,b] class_noun=dog", "photos=['a', 'b']: give the folder with photos of the sub"),
    ("photos=PHOTOS class_noun=cat subject.kind=object", "subject.kind=object contradicts class_"),
    ("photos=PHOTOS class_noun=hamster", "class_noun=hamster is in no list of live subjects and"),
    ("photos=PHOTOS class_noun=dog subject.num_photos=3", "there is no setting subject.num_photos"),
    (
        "photos=PHOTOS class_noun=dog model.backbone.pretrained=conf",
        "model 'conf' cannot be used (",
    ),
    ("photos=PHOTOS class_noun=dog", "there is no model 'stable-diffusion-v1-5/stable-diffusion"),
]
EVALUATE = [
    ("", "give one of run=DIR (a finished run), images=PATH (any system's images, in a"),
    ("run=nowhere images=nowhere", "give one of run=DIR (a finished run), images=PATH (any syst"),
    ("images=nowhere subject=olive", "there is no folder or CSV file nowhere"),
    ("images=conf subject=olive into=Makefile", "into=Makefile: Makefile is a file, give a folder"),
    ("images=conf subject=olive name=a/b", "name=a/b: give a name without slashes, or null"),
    ("images=conf subject=olive name=..", "name=..: give a name without slashes, or null"),
    ("images=5 subject=olive", "images=5: give text, or null"),
    ("bench=5", "bench=5: give experiment=metric_validity"),
    ("experiment=frontier images=conf subject=olive", "experiment=frontier is of a finished run: "),
    ("experiment=frontier run=x frontier.strengths=[1]", "frontier.strengths=[1.0]: give numbers"),
    ("experiment=frontier run=x frontier.strengths=1", "frontier.strengths=1: give"),
    ("identifier=sks run=x", "identifier has no choices here: give identifier.text=..."),
    ("metric=paper run=x", "there is no setting metric: did you mean metrics?"),
    ("-m run=a,b", "-m is for src/train.py alone: leave it out"),
    ("run=a,b", "run=a,b has several values: give one, or [A,B]"),
]
REPORT = [
    ("sweep=Makefile", "there is no sweep folder Makefile"),
    ("sweep=conf", "there are no runs in conf: give the folder of a sweep, as in sweep="),
    ("sweep=['']", "sweep=['']: give a folder, or several as [DIR1,DIR2]"),
    ("sweep=5", "sweep=5: give a folder, or several as [DIR1,DIR2]"),
    ("sweep=a,b", "sweep=a,b has several values: give one, or [A,B]"),
    ("sweep=a sweep=b", "sweep is given twice, as sweep=a and sweep=b: leave one out"),
    ("runs/x", "runs/x is no setting: write KEY=VALUE, without spaces"),
    ("name=", "name=: give text, or null"),
]
PLAN = [
    ("effect=3% metric=dino sweep=x", "effect=3%: give a number above 0, or null"),
    ("effect=0,03 metric=dino sweep=x", "effect=0,03 has several values: give one, or [A,B]"),
    ("power=80 sweep=x", "power=80: give a number between 0 and 1, as 0.8"),
    ("metrics=dino sweep=x", "there is no setting metrics: did you mean metric?"),
]
GENERATE = [
    ("", "run has no default: give run=... on the command line"),
    ("run=conf", "conf is not a run folder: it has no config.yaml and status.json"),
    ("run=nowhere application=cooking", "application=cooking: give all or one of recontextuali"),
    ("run=nowhere application=all prompts=[a]", "application=all has its own prompts and image"),
    ("run=nowhere prompts=[]", "prompts=[]: give at least one, as in 'prompts="),
    ("run=nowhere prompts=[1,2]", "prompts.0=1: give a text in which {} stands for the subject"),
    ("run=nowhere prompts_file=nowhere.txt", "prompts_file=nowhere.txt cannot be read ("),
    ("run=nowhere size_px=512px", "size_px=512px: give a multiple of 8, as 512, or null"),
    ("run=nowhere num_steps=1001", "num_steps=1001: give a whole number from 1 to 1000, or null"),
    ("run=nowhere image_set=../x", "'../x' cannot name a set of images: use letters and digits"),
]
PRETRAIN = [
    (
        "part=unet",
        "part=unet is not known; choose all or one of text, base, sr, oracle, clip, dino",
    ),
    ("part=[base]", "part=['base']: give text"),
    ("num_scenes=many", "num_scenes=many: give a whole number from 1 up"),
    ("max_minutes=-1", "max_minutes=-1: give a number above 0, or null"),
    ("seed=a", "seed=a: give a whole number"),
    ("parts.base.num_steps=0", "parts.base.num_steps=0: give a whole number from 1 up"),
    ("parts.base.ema_decay=2", "parts.base.ema_decay=2: give a number between 0 and 1, as 0.8"),
    ("weights=Makefile", "weights=Makefile: Makefile is a file, give a folder"),
    ("parts.oracle.samples=nowhere.npy", "parts.oracle.samples=nowhere.npy: give a .npy file, or"),
]
CASES = [
    *(("train", *case) for case in TRAIN),
    *(("train", f"model=sd15 subject=folder {words}", said) for words, said in PHOTOS),
    *(("evaluate", *case) for case in EVALUATE),
    *(("report", *case) for case in REPORT),
    *(("plan", *case) for case in PLAN),
    *(("generate", *case) for case in GENERATE),
    *(("pretrain", *case) for case in PRETRAIN),
]


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "0.png").touch()  # is not opened
    return tmp_path


@pytest.mark.parametrize(("script", "words", "said"), CASES)
def test_a_wrong_input_is_one_sentence_and_leaves_nothing(photos, script, words, said):
    before = {*ROOT.iterdir(), *(ROOT / "runs").glob("*"), *(ROOT / "reports").glob("*")}
    sentence = typed(script, *words.replace("PHOTOS", str(photos)).split()).sentence
    assert sentence.startswith(said)
    assert {*ROOT.iterdir(), *(ROOT / "runs").glob("*"), *(ROOT / "reports").glob("*")} == before
