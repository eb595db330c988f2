"""The commands that a reader is given, and what their page says that they need."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from commands import ROOT

# A code block, also one in a list; code within a sentence, and the remark after it.
CODE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`( \(needs [^)]*\))?")
# What code within a sentence begins with if it is a command.
TOOLS = {"python", "bash", "make", "pip", "pre-commit", "pytest", "git"}
NEEDS = re.compile(r"\bneeds (a GPU|a network|SLURM|root)\b")

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "src/dreambooth/miniature/weights/README.md"]
SOURCES = [*sorted((ROOT / "sweeps").glob("*.sh")), *sorted((ROOT / "src").glob("*.py"))]


class Command(NamedTuple):
    """The words of a command, and what it needs that a test does not have, or ""."""

    words: tuple[str, ...]
    needs: str

    @classmethod
    def read(cls, text: str, remark: str = "") -> "Command":
        needs = NEEDS.search(remark)
        return cls(tuple(shlex.split(text)), needs[1] if needs else "")

    def __str__(self) -> str:
        return shlex.join(self.words)


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return CODE.sub("", text)


def commands_of(page: Path) -> Iterator[Command]:
    """Every line of a page's shell code, and every command within its sentences.

    Of a shell script the sentences of its comments; of a Python file the lines of its docstring
    that are commands, up to the two spaces before what they do.
    """
    text = page.read_text()
    if page.suffix == ".py":
        for line in (ast.get_docstring(ast.parse(text)) or "").splitlines():
            if line.strip().startswith("python "):
                yield Command.read(re.split(" {2,}", line.strip())[0])
        return
    if page.suffix == ".sh":
        text = "\n".join(line for line in text.splitlines() if line.startswith("# "))
    for language, code in CODE.findall(text):
        for line in code.replace("\\\n", " ").splitlines() if language == "sh" else ():
            command, _, comment = f" {line}".partition(" #")
            if command.strip():
                yield Command.read(command, comment)
    for code, remark in INLINE.findall(prose(text)):
        if code.split()[0] in TOOLS and " " in code:
            yield Command.read(code, remark)


COMMANDS = sorted({command for page in (*PAGES, *SOURCES) for command in commands_of(page)})
