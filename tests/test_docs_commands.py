"""Every command of README.md, CONTRIBUTING.md, docs/, src/*.py and the headers of sweeps/ is run.

It runs in a folder that has what it names, made small: tiny models, two steps, the ends of a sweep.
A command that cannot run here is marked on its page, "# needs a GPU", or "(needs a network)" after
it in a sentence.
"""

import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from commands import ROOT, Ended, here, last_of_each, typed
from docs_commands import COMMANDS, Command, commands_of
from made_up import made_up_sweep
from made_up_hub import make_up_hub
from made_up_images import write_images
from made_up_photos import dreambench_folder
from test_guides import write_own_configuration
from test_sweeps import commands_of as commands_of_sweep
from tiny_encoders import lpips_backbone, miniature_folder, tiny_clip_folder, tiny_vit_folder

from dreambooth.miniature import oracle_pretraining, pretraining
from dreambooth.reporting import floor
from dreambooth.runs.run import Run

pytestmark = pytest.mark.slow

SHIPPED = ROOT / "src/dreambooth/miniature/weights"
# Commands that differ only by the name of a run's folder are run once.
RUNS = re.compile(r"^(run|sweep)=(runs/(2026-01-31_12-00-00|biscuit|limitations))$")
TO_RUN = sorted(
    {tuple(RUNS.sub(r"\1=DIR", word) for word in c.words) for c in COMMANDS if not c.needs}
)
STANDS_FOR = {"benchmarks/NAME.py": "benchmarks/scale.py", "4000": "2", "1000": "2"}
ALONE = {"benchmarks/memory.py": "sd15"}  # what a benchmark of everything is told to do alone
SMALLER = {"benchmarks/textual_inversion.py": ["method.max_steps=2", "prior.num_images=2"]}
STANDS_FOR |= {"../before": "."}  # which the command before it makes
AT_MOST = {"method.max_steps": 2, "num_steps": 2}
PAPER = ["metrics.fidelity.dino.pretrained=vit", "metrics.fidelity.clip.model=clip"]
PAPER += [f"+metrics.fidelity.dino.{size}=64" for size in ("crop_px", "resize_px")]
PAPER += [f"metrics.fidelity.distance.{k}" for k in ("net=squeeze", "backbone=squeeze.pth")]
# A checkout whose runs take no time; the run that is to be stopped waits for it.
CHECKOUT = """
import pathlib, sys, time
words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
folder = pathlib.Path(next(words[key] for key in ("hydra.run.dir", "run", "name") if key in words))
(folder / "checkpoints").mkdir(parents=True, exist_ok=True)
pathlib.Path(words.get("prior.cache", folder), "scores.csv").parent.mkdir(exist_ok=True)
for path in {folder, pathlib.Path(words.get("prior.cache", folder))}:
    (path / "scores.csv").write_text("index,dino\\n0,0.5\\n")
if words.get("method.max_steps") == "12":
    (folder / "checkpoints/a.ckpt").touch()
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory, finished, tiny):
    """A folder with what the commands name: runs, sweeps, photos, images, weights, encoders."""
    folder = tmp_path_factory.mktemp("world") / "checkout"
    shutil.copytree(finished, folder / "DIR")
    axes = {"prior.lambda": ("0", "1")}
    for sweep in ("DIR1", "DIR2", "PILOT", "DONE", "runs/lambda+class"):
        made_up_sweep(folder / sweep, ("biscuit", "olive"), axes=axes, num_class_images=4)
    made_up_sweep(folder / "runs/SWEEP", seeds=range(5), axes={}, num_class_images=4)
    for noun in ("dog", "backpack"):
        write_images(folder / f"my_{noun}", [(f"a {noun}", "a {}", i) for i in range(4)], 64)
        (folder / f"my_{noun}/subject.yaml").write_text(f"class_noun: {noun}\n")
    write_images(folder / "their_images" / "a {} in the snow", [("", "", i) for i in range(2)], 64)
    (folder / "prompts.txt").write_text("a {} on the beach\n")
    dreambench_folder(folder / "dreambench", ("dog6", "backpack"))
    write_own_configuration(folder / "my_conf")
    miniature_folder(shutil.copytree(tiny, folder / "cache/pretraining/weights"))
    tiny_vit_folder(folder / "vit")
    tiny_clip_folder(folder / "clip")
    lpips_backbone(folder / "squeeze.pth", "squeeze")
    for script in ("train", "report"):
        (folder / "src").mkdir(exist_ok=True)
        (folder / f"src/{script}.py").write_text(CHECKOUT)
    (folder / "tests").symlink_to(ROOT / "tests")
    config = shutil.copy(ROOT / ".pre-commit-config.yaml", folder)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-qb", "main"], ["add", "src", config], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], cwd=folder, check=True)
    subprocess.run([*git, "switch", "-qc", "mine"], cwd=folder, check=True)
    return folder


@pytest.fixture
def run(world, tmp_path, monkeypatch, tiny, stable_diffusion, stable_diffusion_xl):
    """Runs a command, made small."""
    models = {
        "model=sd15": stable_diffusion,
        "model=sdxl": (*stable_diffusion_xl, "metrics=none"),
        "miniature": (f"model.backbone.pretrained={tiny}",),
    }
    monkeypatch.setattr(floor, "FLOORS", tmp_path / "floors")
    calibrate = partial(oracle_pretraining.calibrate, num_cases=4)
    monkeypatch.setattr(pretraining, "calibrate", calibrate)

    def run(words: tuple[str, ...]) -> Ended:
        tool, *words = words
        if tool == "PYTHONPATH=tests":  # as pytest has it
            tool, *words = words
        if tool == "python" and words[0].startswith("src/"):
            script = Path(words[0]).stem
            if script == "fetch":
                make_up_hub(monkeypatch, tmp_path)
            own = small(script, words[1:], world, models)
            return typed(script, *last_of_each(own), folder=world)
        if tool == "python" and words[0].startswith("benchmarks/"):
            return benchmark(words, world)
        if tool == "bash":
            sweep, *given = words
            for of_python in commands_of_sweep(Path(sweep).stem, tmp_path, *given):
                ended = run(("python", *(word for word in of_python if word != "--")))
                if ended.code:
                    break
            return ended
        if tool == "make":  # what it would do
            return ended_process(ROOT, "make", "-n", *words)
        if tool == ".":
            ended = ended_process(ROOT, "make", "-nB", "install")
            assert words[0].removesuffix("/bin/activate") in ended.output.split()
            return ended
        if tool == "pytest":  # of all tests, some
            some = [] if words[-1].startswith("tests") else ["tests/test_loss.py"]
            return ended_process(ROOT, sys.executable, "-m", "pytest", "-q", *words, *some)
        if tool == "pre-commit":
            return ended_process(world, sys.executable, "-m", "pre_commit", *words)
        if tool == "git":
            return ended_process(world, tool, *words)
        raise AssertionError(f"{tool}: give this test a way to run it, or mark the command")

    return run


def ended_process(folder: Path, *words: str) -> Ended:
    ended = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    return Ended(ended.returncode, ended.stdout + ended.stderr)


def benchmark(words: list[str], folder: Path) -> Ended:
    words = [STANDS_FOR.get(word, word) for word in words]
    if len(words) == 1 and words[0] in ALONE:
        words.append(ALONE[words[0]])
    if smaller := SMALLER.get(words[0], []):
        words += [*smaller, "model.backbone.pretrained=cache/pretraining/weights"]
    return here(*words, folder=folder)


def first_and_last(words: list[str]) -> list[str]:
    """Of the first swept setting the first and the last value, of any other the last."""
    found = 0
    for i, word in enumerate(words):
        key, _, value = word.partition("=")
        first, *others = value.split(",")
        if others and not set(value) & set("[]{}()'\""):
            words = [*words[:i], f"{key}={others[-1]}", *words[i + 1 :]]
            if not found:
                words[i] = f"{key}={first},{others[-1]}"
            found += 1
    return words


NUMBER = count()


def small(script: str, words: list[str], world: Path, models: dict[str, tuple[str, ...]]):
    """The words of a command with fewer cells, steps and images, and tiny models."""
    for key, value in AT_MOST.items():
        words = [re.sub(rf"^{key}=\d+$", f"{key}={value}", word) for word in words]
    if script == "train":
        return small_train(words, world, models)
    if script == "generate":
        return [*words, "images_per_prompt=1", "num_steps=2"]
    if script == "report" and not any(word.startswith("name=") for word in words):
        return [*words, f"name=report-{next(NUMBER)}"]
    if script == "check":
        return [*words, models["model=sdxl"][1]]
    if script == "pretrain":
        work = world / f"pretraining-{next(NUMBER)}"
        for part in ("text_encoder", "tokenizer"):
            shutil.copytree(SHIPPED / part, work / "weights" / part)
        own = [f"work={work}", "num_scenes=8"]
        for part in ("text", "base", "sr", "oracle", "clip", "dino"):
            own += [f"parts.{part}.num_steps=1", f"parts.{part}.batch_size=2"]
        return [*words, *own]
    if script == "evaluate":
        own = ["logger=csv"]
        own += PAPER if "metrics=paper" in words else []
        if "experiment=metric_validity" in words:
            own += ["bench.num_subjects=2", "bench.num_images=2"]
        if "experiment=frontier" in words:
            own += ["frontier.strengths=[0,1]", "frontier.num_class_images=2"]
        return [*words, *own]
    return words


def small_train(words: list[str], world: Path, models: dict[str, tuple[str, ...]]) -> list[str]:
    if "--cfg" in words:
        return words
    folder = f"runs/small-{next(NUMBER)}"
    own = [f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]
    if "stage=sr" in words:  # has the settings of the run that it builds on
        return [*words, own[0], "sr.max_steps=2"]
    if any(word.startswith("run=") for word in words):
        shutil.copytree(world / "DIR", world / folder)
        Run(world / folder, {}).set_status("preempted")
        return [*words, f"run={folder}"]
    experiments = ["smoke", *(w.partition("=")[2] for w in words if w.startswith("experiment="))]
    own += [f"experiment=[{','.join(dict.fromkeys(experiments))}]", "drawing.images_per_prompt=1"]
    if "callbacks=score_curves" in words:
        own += ["callbacks.score_curves.every_n_steps=1"]
    defaults = ["trainer=cpu", "logger=csv", "prior.cache=prior"]
    defaults += next((models[word] for word in words if word in models), models["miniature"])
    of_scores = re.compile("metrics|experiment=(?!smoke)|callbacks=score_curves|report=auto")
    if words and not any(of_scores.match(word) for word in words):
        defaults += ["metrics=none"]  # scores take most of the time
    words = [word.replace("dreambench=DIR", "dreambench=dreambench") for word in words]
    words = [*defaults, *first_and_last(words), *own]
    return sorted(words, key=lambda word: not word.startswith("-"))  # options first


@pytest.mark.parametrize("words", TO_RUN, ids=shlex.join)
def test_every_command_runs(words, run):
    ended = run(words)
    assert ended.code == 0, ended.output


def test_a_command_is_marked_where_it_needs_something_and_only_there():
    assert [command for command in COMMANDS if command.needs != needs_of(*command.words)] == []


def needs_of(tool: str, *words: str) -> str:
    if tool == "pip" or (tool == "make" and words[0] in ("install", "demo")):
        return "a network"
    if "train_dreambooth.py" in words:  # of diffusers
        return "a network"
    if words == ("slurm-test-cluster",):
        return "root"
    if any(word.startswith("trainer=gpu") for word in words):
        return "a GPU"
    return "SLURM" if "launcher=slurm" in words else ""


@pytest.mark.parametrize(
    "line",
    [
        "python src/train.py subject=olvie",
        "python src/train.py subjct=olive",
        "python src/trian.py",
        "python src/report.py sweep=runs/none",
        "python benchmarks/none.py",
        "bash sweeps/none.sh",
        "make tset",
        "git worktre add ../before main",
        "sometool run",
    ],
)
def test_a_command_with_a_typo_or_of_an_unknown_tool_is_detected(line, run, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n\n```sh\n{line}\n```\n")
    (command,) = commands_of(page)
    with pytest.raises((AssertionError, OSError, subprocess.CalledProcessError)):
        test_every_command_runs(command.words, run)


def test_the_commands_and_marks_of_a_page_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Run `make all` (needs a network) or `make lint`, or `model=sd15`.\n\n- First:\n\n"
        "  ```sh\n  python a.py b='c d' \\\n      e # needs a GPU\n  ```\n"
    )
    assert list(commands_of(page)) == [
        Command(("python", "a.py", "b=c d", "e"), "a GPU"),
        Command(("make", "all"), "a network"),
        Command(("make", "lint"), ""),
    ]
