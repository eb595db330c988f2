"""docs/architecture.md and docs/extending.md: what they name exists, the code they show runs."""

import ast
import keyword
import re
from functools import cache
from pathlib import Path

import pytest
from commands import ROOT, command, smoke
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from test_architecture import names_in

PACKAGE = ROOT / "src/dreambooth"
ARCHITECTURE, EXTENDING = ROOT / "docs/architecture.md", ROOT / "docs/extending.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@cache
def defined() -> set[str]:
    """Every class, function, argument and variable of src/ and tests/; of a class also Class.x."""
    found: set[str] = set()
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            found |= set(names_of(node))
            if isinstance(node, ast.ClassDef):
                found |= {f"{node.name}.{name}" for child in node.body for name in names_of(child)}
    return found


def names_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    if isinstance(node, ast.arg):
        return [node.arg]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def unknown_in(text: str) -> list[str]:
    """The names in backticks that are no file, no class, function or variable, and no keyword;
    what has another form than a name or a path (a command, a setting) is passed over."""
    names = re.findall(r"`([\w./]+)`", _BLOCK.sub("", text))
    return [name for name in names if not is_known(name)]


def is_known(name: str) -> bool:
    if "/" in name or re.search(r"\.(py|yaml|md|csv|json)$", name):
        return any((folder / name).exists() for folder in (ROOT, PACKAGE)) or (
            "/" not in name and any(PACKAGE.rglob(name))
        )
    return name in defined() or keyword.iskeyword(name)


def test_everything_that_the_architecture_page_names_exists():
    assert unknown_in(ARCHITECTURE.read_text()) == []


def test_everything_that_the_page_on_extending_names_exists():
    of_configuration = {"base", "sr", "backbone", "training", "sampling", "model.sampling"}
    of_configuration |= {"adapter.targets", "adapter.text_encoder_targets"}
    of_others = {"PYTHONPATH", "ValueError", "scores.csv", "metrics.json", "sr_"}
    of_others |= {"pipeline.load_lora_weights"}
    unknown = set(unknown_in(EXTENDING.read_text()))
    assert unknown - of_configuration - of_others == set()


@pytest.mark.parametrize(
    "name", ["no_such_file.py", "src/none.py", "Stage.none", "NoSuchClass", "methods/none/"]
)
def test_a_name_that_does_not_exist_is_detected(name):
    assert unknown_in(f"`Stage.predict` and `methods/` and `{name}`") == [name]


def test_the_walk_to_the_loss_is_six_files_each_imported_by_one_before():
    walk = re.findall(r"^\d+\. `src/(\S+)\.py`", ARCHITECTURE.read_text(), re.MULTILINE)
    assert walk[0] == "train"
    assert walk[-1] == "dreambooth/loss"
    assert len(walk) <= 6
    for i, file in enumerate(walk[1:], 1):
        before = [names_in(ROOT / f"src/{earlier}.py") for earlier in walk[:i]]
        assert any(file.replace("/", ".") in names for names in before), file


def test_the_code_on_the_page_is_that_of_the_tests_where_it_runs():
    text = (ROOT / "tests/test_seams.py").read_text()
    parts = re.findall(r"^# docs: \w+\n(.*?)(?=^# docs: )", text, re.MULTILINE | re.DOTALL)
    shown = [
        code for language, code in _BLOCK.findall(EXTENDING.read_text()) if language == "python"
    ]
    assert len(parts) == 4
    assert sorted(shown) == sorted(f"{part.strip()}\n" for part in parts)


def write_own_configuration(folder: Path) -> list[str]:
    """Writes the files of the page into a folder; returns what chooses them."""
    chosen = []
    for language, code in _BLOCK.findall(EXTENDING.read_text()):
        if language == "yaml":
            path = Path(re.match(r"# my_conf/(\S+)", code)[1])
            (folder / path).parent.mkdir(parents=True)
            (folder / path).write_text(code)
            chosen.append(f"{path.parent}={path.stem}")
    return chosen


def test_the_configuration_files_on_the_page_compose_from_a_folder_of_ones_own(tmp_path):
    chosen = write_own_configuration(tmp_path)
    assert sorted(chosen) == [
        "adapter=rslora",
        "method=biases_only",
        "metrics=colourful",
        "model=trigonometric",
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", [f"hydra.searchpath=[file://{tmp_path}]", *chosen])
    assert dict(cfg.method.tuning) == {"_target_": "test_seams.BiasesOnly"}
    assert cfg.method.max_steps == 150
    assert cfg.adapter.learning_rate == 3e-3
    for built in (
        cfg.adapter.config,
        cfg.method.tuning,
        cfg.metrics.colourfulness,
        cfg.model.backbone,
    ):
        assert callable(get_object(built._target_))


@pytest.mark.slow
def test_a_folder_of_ones_own_serves_a_sweep_too_and_keys_that_are_added(tmp_path, tiny):
    write_own_configuration(tmp_path / "my_conf")
    words = [
        *smoke(tiny, tmp_path / "prior"),
        "logger=csv",
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
    ]
    words += [f"hydra.searchpath=[file://{tmp_path / 'my_conf'}]", "method=biases_only", "seed=0,1"]
    ended = command("train", "-m", *words, "++method.max_steps=1")
    assert ended.code == 0, ended.output
