"""What README.md and docs/ say: links lead somewhere, commands compose, the code of README runs."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
from commands import ROOT
from docs_commands import CODE, COMMANDS, INLINE, Command, commands_of, prose
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from dreambooth.launch.start import plain_config

README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
MODEL_CARD = ROOT / "src/dreambooth/miniature/weights/README.md"
PAGES = [*sorted(ROOT.glob("*.md")), *DOCS, MODEL_CARD]
# Linked to already, and checked as any page once they exist.
COMING = {ROOT / "docs" / f"{name}.md" for name in ("architecture", "configuration", "extending")}

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    plain = [
        re.sub(r"[^\w\- ]", "", heading.lower())
        for heading in _HEADING.findall(prose(page.read_text()))
    ]
    return {heading.strip().replace(" ", "-") for heading in plain}


def broken_links(page: Path) -> list[str]:
    broken = []
    for target in _LINK.findall(INLINE.sub("", prose(page.read_text()))):
        if re.match(r"\w+:", target):
            continue  # of the web
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if file in COMING and not file.exists():
            continue
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    return broken


def is_of_hydra(command: Command) -> bool:
    return command.words[0] == "python" and command.words[1].startswith("src/")


@cache
def composed(script: str, overrides: tuple[str, ...]) -> dict[str, object]:
    """The resolved config of a command, with all that it must be given."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return plain_config(compose(script, overrides=list(overrides)), [])


def cells_of(words: list[str]) -> list[list[str]]:
    """The overrides of each run of a command; with -m, of each cell of its sweep."""
    overrides = [word for word in words if not word.startswith("-")]
    if "-m" not in words:
        return [overrides]
    parsed = OverridesParser.create().parse_overrides(overrides)
    return [list(cell) for cell in BasicSweeper.split_arguments(parsed, None)[0]]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page):
    assert broken_links(page) == []


def test_a_broken_link_is_detected(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One, two\n[a](#one-two) [b](#three) [c](none.md) [d](page.md#one-two)\n")
    assert broken_links(page) == ["#three", "none.md"]


@pytest.mark.parametrize("command", [c for c in COMMANDS if is_of_hydra(c)], ids=str)
def test_every_command_composes(command):
    script, *words = [word for word in command.words[1:] if word not in ("--cfg", "job")]
    assert (ROOT / script).is_file()
    cells = cells_of(words)
    assert cells
    seen: set[str] = set()
    for overrides in cells:  # those that have a word that none before had
        if not cells[0] or not seen.issuperset(overrides):
            composed(Path(script).stem, tuple(overrides))
            seen |= {*overrides}


def test_the_commands_of_every_entry_point_are_among_them():
    scripts = {command.words[1] for command in COMMANDS if is_of_hydra(command)}
    assert scripts == {path.relative_to(ROOT).as_posix() for path in (ROOT / "src").glob("*.py")}
    sweep = ["-m", "prior.lambda=0,1", "class=none,wrong,correct"]
    assert ("python", "src/train.py", *sweep) in [command.words for command in commands_of(README)]
    assert len(cells_of(sweep)) == 6


def test_a_command_that_does_not_compose_is_detected():
    with pytest.raises(Exception, match="no_such_option"):
        composed("train", ("class=no_such_option",))
    with pytest.raises(ValueError, match="dreambench"):
        composed("train", ("subject=dreambench",))


def test_metrics_given_with_stable_diffusion_are_taken():
    own = ("model=sd15", "subject=folder", "photos=my_dog", "class_noun=dog")
    paper = composed("train", (*own, "metrics=paper"))["metrics"]
    assert paper == composed("train", own)["metrics"] != {}
    assert composed("train", (*own, "metrics=none"))["metrics"] == {}


def test_the_readme_is_short():
    text = README.read_text()
    assert len(text.split()) <= 1200
    assert [line for line in text.splitlines() if len(line) > 120] == []


def test_the_readmes_code_loads_what_a_run_saves(tmp_path, monkeypatch, stable_diffusion):
    from dreambooth.backbones.stable_diffusion import StableDiffusionBackbone

    (code,) = [code for language, code in CODE.findall(README.read_text()) if language == "python"]
    monkeypatch.chdir(tmp_path)
    run = Path("runs/2026-01-31_12-00-00")
    pretrained = next(o for o in stable_diffusion if o.startswith("model.backbone.pretrained="))
    StableDiffusionBackbone.load(pretrained.partition("=")[2]).save(run / "weights")
    names = {"identifier": "qa", "class_noun": "dog", "prior_noun": "dog"}
    (run / "names.json").write_text(json.dumps(names))
    assert ".to(" in code
    exec(code.replace("cuda", "cpu"), {})
    assert Path("beach.png").is_file()
