"""Writes configuration.md, from "## Groups" on, out of conf/: python docs/configuration.py"""

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import get_object
from omegaconf import OmegaConf
from pydantic import TypeAdapter, ValidationError

from dreambooth.runs.settings import Settings

ROOT = Path(__file__).parents[1]
CONF, PAGE = ROOT / "conf", ROOT / "docs/configuration.md"


class File:
    """A file of conf/. `keys`: value and comment, as written, of its own keys and its parent's."""

    def __init__(self, path: Path):
        text, self.name, group = path.read_text(), path.stem, path.relative_to(CONF).parts[0]
        self.heading = "default" if path.parent == CONF else f"`{self.name}`"
        comments, root = re.findall(r"\A(?:# .*\n)*", text)[0], yaml.compose(text)
        own_prefix = f"{group}." if path.parent != CONF else ""
        own = dict(keys_of(text, root, "" if "@package _global_" in comments else own_prefix))
        line = r'^defaults:(?: \["?|\n  - (?=\S+@_here_))([\w/]+)'
        parent = "".join(re.findall(line, text, re.MULTILINE))
        before = File(path.parent / f"{parent}.yaml").keys if parent else {}
        self.keys = before | {k: (v, c or before.get(k, ("", ""))[1]) for k, (v, c) in own.items()}
        self.has_new_keys = any(k.startswith(own_prefix) for k in own if k not in before)
        line = r'^  - (?:override /)?(\w+)[@\w.]*: "?(\w+)"?(?: +# (.*))?$'
        self.chosen = {k: (v, c) for k, v, c in re.findall(line, text, re.MULTILINE)}
        said = [line[2:] for line in comments.splitlines() if "@package" not in line]
        values = [f"`{k.removeprefix(own_prefix)}: {v}`" for k, (v, _) in own.items() if v]
        chosen = [f"`{k}={v}`" for k, (v, _) in self.chosen.items()]
        said += [f"Sets {', '.join(values)}."] if values and not self.has_new_keys else []
        said += [f"All else is as in `{parent}`."] if parent and "/" not in parent else []
        said += [f"Chooses {', '.join(chosen)}."] if chosen else []
        self.says = " ".join(said) or comment_at(text, root)


def keys_of(text: str, node: Any, prefix: str) -> Iterator[tuple[str, tuple[str, str]]]:
    for key, value in node.value:
        name, inner = prefix + key.value, isinstance(value, yaml.MappingNode) and value.value
        raw = "" if inner else text[value.start_mark.index : value.end_mark.index]
        if key.value not in ("defaults", "_partial_"):
            yield name, (raw, comment_at(text, key if inner and not value.flow_style else value))
            yield from keys_of(text, value, f"{name}.") if inner else ()


def comment_at(text: str, node: Any) -> str:
    return "".join(re.findall(r"\A:? *# (.*)", text[node.end_mark.index :]))


def allowed(kind: Any, keys: Iterable[str], prefix: str = "") -> Iterator[tuple[str, str]]:
    """What a class of settings allows for each key, in the words with which it refuses the rest."""
    lines = [f"{key.removeprefix(prefix)}=refused" for key in keys if key.startswith(prefix)]
    try:
        TypeAdapter(kind).validate_python(OmegaConf.to_container(OmegaConf.from_dotlist(lines)))
    except ValidationError as error:
        for refused in (e for e in error.errors() if e["type"] == "allowed"):
            yield prefix + ".".join(map(str, refused["loc"])), refused["msg"]


def shown(name: str, value: str) -> str:
    if name.endswith("_target_") and value.startswith(("dreambooth.", "hydra_plugins.")):
        source = Path(str(inspect.getsourcefile(get_object(value)))).relative_to(ROOT)
        return f"[`{get_object(value).__qualname__}`](../{source.as_posix()})"
    optional = r"^\$\{oc\.select:([a-z_.]+),(.+)\}$"
    value = re.sub(optional, r"that of `\1` if given, else \2", value)
    value = re.sub(r"(^|else )\$\{([a-z_.]+)\}$", r"\1that of `\2`", value)
    return value if not value or "`" in value else "required" if value == "???" else f"`{value}`"


def table(rows: Sequence[Sequence[str]]) -> str:
    kept = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]  # not empty
    lines = [" | ".join(row[i].replace("|", "\\|") for i in kept) for row in rows]
    lines.insert(1, " | ".join("---" for _ in kept))
    return "".join(f"| {line} |\n" for line in lines)


def key_table(files: Sequence[File]) -> str:
    """A row for each key, and a column of values for each file."""
    keys = {name: value for file in files for name, (value, _) in file.keys.items()}
    words = dict(allowed(Settings, keys))
    for name, value in keys.items():
        if name.endswith("_target_") and is_dataclass(get_object(value)):
            words |= allowed(get_object(value), keys, name.removesuffix("_target_"))
    rows = [["key", *(file.heading for file in files), "allowed", "meaning"]]
    for name in keys:
        own = [(file.heading, *file.keys.get(name, ("", ""))) for file in files]
        meanings = list(dict.fromkeys(comment for *_, comment in own if comment))
        if len(meanings) > 1:
            meanings = [f"{heading}: {comment}" for heading, _, comment in own if comment]
        if meanings or (keys[name] and not name.startswith("hydra.")):
            values = [shown(name, value) for _, value, _ in own]
            rows.append([f"`{name}`", *values, words.get(name, ""), "; ".join(meanings)])
    return table(rows)


def page() -> str:
    names = ("train", "evaluate", "generate", "report", "plan", "check")
    scripts = [File(CONF / f"{name}.yaml") for name in names]
    groups, sections = [["group", "what it chooses"]], []
    for group, (default, purpose) in scripts[0].chosen.items():
        paths = sorted((CONF / group).glob("*.yaml"), key=lambda p: (p.stem != default, p.stem))
        files = [File(path) for path in paths]
        shown_as = [f"**{f.heading}**" if f.name == default else f.heading for f in files]
        groups.append([f"`{group}`", f"[{purpose}](#{group}): {', '.join(shown_as)}"])
        choices = [[name, file.says] for name, file in zip(shown_as, files, strict=True)]
        sections.append(f"## `{group}`\n\n{table([['choice', 'what it is'], *choices])}")
        if with_keys := [file for file in files if file.has_new_keys]:
            sections.append(key_table(with_keys))
    own = [f"## `src/{file.name}.py`\n\n{file.says}\n\n{key_table([file])}" for file in scripts]
    head = PAGE.read_text().partition("## Groups\n")[0] + f"## Groups\n\n{table(groups)}"
    return "\n".join([head, own[0], *sections, *own[1:]])


if __name__ == "__main__":
    PAGE.write_text(page())
