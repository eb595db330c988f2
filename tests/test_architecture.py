"""Where things are and who may know of whom: the rooms of src/dreambooth, by their imports.

Every import counts, also one inside a function and one for types only (TYPE_CHECKING): a module
whose annotations need another is not to be understood without it.
"""

import ast
import re
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from commands import ROOT

SRC = ROOT / "src"
MOST_LINES = 400
SCIENCE = {"loss", "schedules", "sampling", "randomness"}
# A room, or a module of the top level -> what it may import, besides itself. Each is below it here.
MAY_IMPORT = {
    "hydra_plugins": {"launch", "distributed", "runs"},
    "train": {"launch", "assemble", "distributed", "runs"},
    "generate": {"launch"},
    "evaluate": {"launch", "assemble", "metrics", "miniature", "runs"},
    "report": {"launch", "reporting", "runs"},
    "plan": {"launch", "reporting", "runs"},
    "pretrain": {"launch", "miniature", "runs"},
    "check": {"launch", "runs"},
    "fetch": {"launch"},
    "launch": {"assemble", "methods", "training", "metrics", "backbones", "reporting", "subjects"}
    | {"runs", "distributed"},
    "assemble": {"experiment", "methods", "training", "metrics", "backbones", "subjects", "runs"}
    | {"distributed"}
    | SCIENCE,
    "experiment": {"methods", "training", "metrics", "backbones", "subjects", "runs"}
    | {"distributed"}
    | SCIENCE,
    # Of metrics, the intervals and where scores are; of subjects, what prompts ask for.
    "reporting": {"metrics", "subjects", "runs"},
    # One more backbone, one more source of subjects: nothing above but the entry points knows it.
    "miniature": {"methods", "metrics", "backbones", "subjects", "runs", "distributed"} | SCIENCE,
    "methods": {"training", "backbones", "subjects", "runs", "distributed"} | SCIENCE,
    "training": {"metrics", "backbones", "subjects", "runs", "distributed"} | SCIENCE,
    "metrics": {"subjects", "runs", "distributed"} | SCIENCE,
    "backbones": {"subjects", "runs", "distributed"} | SCIENCE,
    "subjects": {"distributed"} | SCIENCE,
    "runs": {"distributed"},
    "distributed": set(),
    "sampling": {"schedules"},
    "loss": {"schedules"},
    "schedules": set(),
    "randomness": set(),
}
TOP_LEVEL = {"__init__", "loss", "schedules", "sampling", "randomness", "assemble", "experiment"}
# Of tests/, besides the rooms: what tests src/hydra_plugins, without a cluster and on one.
OTHER_TESTS = {"launchers", "slurm"}


def modules_of(source: Path) -> dict[str, Path]:
    """Dotted name -> file, of all modules below a folder; a package by its __init__."""
    files = {".".join(p.relative_to(source).with_suffix("").parts): p for p in source.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in files.items()}


def imports_of(source: Path) -> dict[str, set[str]]:
    """Module -> the modules of the same folder that it imports, wherever in it."""
    modules = modules_of(source)
    return {name: names_in(path) & modules.keys() - {name} for name, path in modules.items()}


def names_in(path: Path) -> set[str]:
    """What a module imports, wherever in it: modules, and what is taken from them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import: write it in full"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def undeclared_in(source: Path, requirements: list[str]) -> list[str]:
    """Packages of others that a folder's modules import and the requirements do not name."""
    imported = {name.partition(".")[0] for path in source.rglob("*.py") for name in names_in(path)}
    others = imported - sys.stdlib_module_names - {"dreambooth", "hydra_plugins"}
    declared = {plain(re.split(r"[\[<>=!~; ]", text)[0]) for text in requirements}
    owners = packages_distributions()
    return sorted(
        name for name in others if not declared & set(map(plain, owners.get(name, [name])))
    )


def plain(package: str) -> str:
    """A package's name as PyPI compares it: PyYAML is pyyaml, open_clip_torch open-clip-torch."""
    return re.sub("[-_.]+", "-", package).lower()


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "dreambooth" and len(parts) > 1 else parts[0]


def circle_in(imports: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, if there is one."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def upward_in(imports: dict[str, set[str]]) -> list[str]:
    """Imports of a room that the importing one may not know."""
    return [
        f"{module} imports {other}"
        for module, others in imports.items()
        for other in sorted(others)
        if room_of(module) != room_of(other)
        if room_of(other) not in {"dreambooth", *MAY_IMPORT[room_of(module)]}
    ]


def too_long(folder: Path) -> list[str]:
    counts = {path: len(path.read_text().splitlines()) for path in folder.rglob("*.py")}
    return [f"{path}: {count} lines" for path, count in counts.items() if count > MOST_LINES]


def test_no_modules_import_each_other_in_a_circle():
    assert circle_in(imports_of(SRC)) == []


def test_imports_point_one_way():
    assert upward_in(imports_of(SRC)) == []


def test_each_room_is_above_all_that_it_may_import():
    order = list(MAY_IMPORT)
    for room, below in MAY_IMPORT.items():
        assert below <= set(order[order.index(room) + 1 :]), room


def test_every_module_is_in_a_room():
    children = {p for p in (SRC / "dreambooth").iterdir() if p.name != "__pycache__"}
    assert {p.stem for p in children if p.is_file()} == TOP_LEVEL
    rooms = {p.name for p in children if any(p.rglob("*.py"))}
    assert rooms | TOP_LEVEL - {"__init__"} <= set(MAY_IMPORT)


def test_the_tests_are_in_the_same_rooms():
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("*.py")}
    rooms = set(MAY_IMPORT)
    assert {folder.as_posix() for folder in folders} - {"."} <= rooms | OTHER_TESTS


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks"])
def test_no_file_is_too_long(folder):
    assert too_long(ROOT / folder) == []


def test_every_imported_package_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    declared = project["dependencies"] + optional["pretrain"] + optional["memory"]
    assert undeclared_in(SRC, declared) == []


@pytest.fixture
def house(tmp_path):
    """A house of two rooms, whose modules are given as text."""

    def house(**modules: str) -> Path:
        for name, text in modules.items():
            path = tmp_path / "dreambooth" / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return house


LATE = "def f():\n    from dreambooth.{} import {}"
FOR_TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dreambooth.{} import {}"


@pytest.mark.parametrize("late", [LATE, FOR_TYPES])
def test_every_form_of_circular_import_is_detected(house, late):
    a, b = "from dreambooth.runs import b", late.format("runs.a", "thing")
    assert set(circle_in(imports_of(house(runs__a=a, runs__b=b)))) == {
        "dreambooth.runs.a",
        "dreambooth.runs.b",
    }


@pytest.mark.parametrize("late", [LATE, FOR_TYPES])
def test_every_form_of_upward_import_is_detected(house, late):
    source = house(runs__a=late.format("launch", "b"), launch__b="import dreambooth.runs.a")
    assert upward_in(imports_of(source)) == ["dreambooth.runs.a imports dreambooth.launch.b"]


def test_every_form_of_undeclared_import_is_detected(house):
    text = "import os\nimport numpy.linalg\ndef f():\n    from yaml import safe_load"
    source = house(runs__a=text, runs__b="from dreambooth.runs import a")
    assert undeclared_in(source, ["numpy>=2.0"]) == ["yaml"]
    assert undeclared_in(source, ["numpy", "PyYAML>=6.0"]) == []


def test_a_long_file_is_detected(house):
    assert too_long(house(runs__a="\n" * MOST_LINES)) == []
    assert len(too_long(house(runs__a="\n" * (MOST_LINES + 1)))) == 1
