"""Hydra's messages about a command line, each as one sentence with the right spelling."""

import difflib
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreambooth.runs.checks import NOT_FOR_TRAINER
from dreambooth.runs.overrides import assignment

_FULL_ERROR = "HYDRA_FULL_ERROR"  # Hydra's variable: it raises its errors instead of printing them


def one_sentence(main: Callable[[], Any]) -> Callable[[], Any]:
    """Wrap an entry point, so that Hydra's errors end the command with one sentence."""

    @wraps(main)
    def wrapped() -> Any:
        if os.environ.get(_FULL_ERROR) == "1":
            return main()
        sys.argv[1:] = _without_replaced(sys.argv[1:])
        if mistake := _option_message(sys.argv[1:]) or _given_twice_message(sys.argv[1:]):
            sys.exit(mistake)
        os.environ[_FULL_ERROR] = "1"
        try:
            return main()
        except (HydraException, OmegaConfBaseException) as error:
            sys.exit(hydra_sentence(error))
        except (ValueError, TypeError, AssertionError, AttributeError) as error:
            if _in_a_run(error) or not (sentence := _choice_message()):
                raise
            sys.exit(sentence)
        finally:
            del os.environ[_FULL_ERROR]

    return wrapped


def _without_replaced(words: Sequence[str]) -> list[str]:
    """Drop the settings before "--" that are given again after it.

    The scripts of sweeps/ thus have settings of their own that their user replaces.
    """
    if "--" not in words:
        return list(words)
    end = list(words).index("--")
    own, users = words[:end], words[end + 1 :]
    keys = {_key(text) for text in users if "=" in text}
    return [*(text for text in own if "=" not in text or _key(text) not in keys), *users]


def _key(text: str) -> str:
    return text.lstrip("+").partition("=")[0]


def _option_message(words: Sequence[str]) -> str:
    """A sentence for the first word without a key, or with a dash that is no option of Hydra."""
    known = get_args_parser()._option_string_actions
    for text in words:
        if text in ("-m", "--multirun") and not _is_training():
            return f"{text} is for src/train.py alone: leave it out"
        name, equals, value = text.partition("=")
        if value and not name:
            return f"{text} has no key: write KEY=VALUE"
        if text.startswith("-") and not any(option.startswith(name) for option in known):
            setting = f"{name.lstrip('-')}={value}" if equals else "KEY=VALUE"
            return f"{text} is no option: write a setting without dashes, as {setting}"
    return ""


def _is_training() -> bool:
    return Path(sys.argv[0]).stem == "train"


def _given_twice_message(words: Sequence[str]) -> str:
    """A sentence for the first setting that is given with two values; Hydra takes the last."""
    given: dict[str, str] = {}
    for text in words:
        key, value = _key(text), text.partition("=")[2]
        if "=" not in text or text.startswith(("-", "~")) or re.match(r"hydra[./]", key):
            continue  # of Hydra's own settings the last counts, as our child processes need
        first = given.setdefault(key, text)
        if first.partition("=")[2] != value:
            return f"{key} is given twice, as {first} and {text}: leave one out"
    return ""


def _in_a_run(error: Exception) -> bool:
    return any(frame.name == "run_job" for frame in traceback.extract_tb(error.__traceback__))


def _choice_message() -> str:
    """A sentence for the first choice of a group that is no string, as in class=1; "" if none."""
    for text in sys.argv[1:]:
        if "=" in text.strip("=") and (options := choices(assignment(text).key)):
            values = OverridesParser.create().parse_override(text).value()
            if not all(
                isinstance(v, str) for v in (values if isinstance(values, list) else [values])
            ):
                return f"{text} is no choice: choose from {', '.join(options)}"
    return ""


def choices(group: str) -> list[str]:
    """The files of a config group, without their ending; [] if there is no such group."""
    return sorted(path.stem for path in (_conf() / group).glob("*.yaml"))


def _conf() -> Path:
    return Path(sys.argv[0]).resolve().parents[1] / "conf"


def hydra_sentence(error: Exception) -> str:
    """One sentence for an error of Hydra or OmegaConf; the message of any other error."""
    text = str(error)
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return text
    if isinstance(error, OverrideParseException):
        return _spelling_message(error.override)
    if isinstance(error, MissingConfigException) and error.options:
        given = str(error.missing_cfg_file)
        groups = (given[:i] for i, c in enumerate(given) if c == "/")
        group = next((g for g in groups if choices(g)), given.rpartition("/")[0])
        choice = given.removeprefix(f"{group}/")
        return f"{group}={choice} does not exist: choose from {_listed(choice, error.options)}"
    several = "Ambiguous value for argument '(.*)'|Sweep parameters '(.*)' requires"
    if found := re.search(several, text):
        remedy = "add -m for a run with each of them" if _is_training() else "give one, or [A,B]"
        return f"{found[1] or found[2]} has several values: {remedy}"
    if found := re.search(r"Multiple values for .*'override (.*): (.*)'", text):
        return f"{found[1]} has a choice: give {found[1]}={found[2]}, without + before it"
    if "does not support sweep type" in text:
        return "an interval is for a search: add hydra/sweeper=optuna, or list values, as seed=0,1"
    if found := re.search(r"Could not override '([^'@]*)", text):
        return no_such_setting(found[1])
    if found := re.search(r"Could not delete from config\. '?([^' ]*)", text):
        return no_such_setting(found[1])
    if found := re.search(r"Error merging override (.*)", text):
        return f"{found[1]}: give a value of another kind"
    if found := re.search(r"Could not append to config\. .* '(.*)'", text):
        return f"{found[1]} exists: leave out the + before it"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if found := re.search(r"Interpolation key '([^']*)' not found", f"{text} {cause}"):
        key = getattr(error, "full_key", None) or getattr(cause, "full_key", None) or "a setting"
        return f"{key} refers to {found[1]}, which does not exist"
    first = " ".join(line.strip() for line in (text or str(cause)).splitlines()[:2])
    key = getattr(cause, "full_key", None)
    return f"{key}: {first}" if key and key not in first else first


def no_such_setting(key: str, config: Any = None) -> str:
    """ "there is no setting modle: did you mean model?" """
    group, _, name = key.partition(".")
    if group == "trainer" and name in NOT_FOR_TRAINER:
        return f"trainer.{name} is not for a run: {NOT_FOR_TRAINER[name]}"
    known = list(dict.fromkeys(_keys(_default() if config is None else config)))
    if key in known:
        parts = ", ".join(f"{k}=..." for k in known if k.startswith(f"{key}."))
        return f"{key} has no choices here: give {parts or f'{key}=... without a group'}"
    if near := nearest(key, known):
        return f"there is no setting {key}: did you mean {near}?"
    parent = max((k for k in known if key.startswith(f"{k}.")), key=len, default="")
    here = [k for k in known if k.rpartition(".")[0] == parent]
    where = f"{parent} has" if parent else "there are"
    return f"there is no setting {key}: {where} {', '.join(k.rpartition('.')[2] for k in here)}"


def nearest(key: str, known: list[str]) -> str:
    """The known dotted key nearest to `key`, in full or by its last part; "" if none is near."""
    if found := difflib.get_close_matches(key, known, 1, 0.75):
        return found[0]
    last = key.rpartition(".")[2]
    by_last = {k.rpartition(".")[2]: k for k in reversed(known)}
    found = difflib.get_close_matches(last, list(by_last), 1, 0.75)
    return by_last[found[0]] if found else ""


def _default() -> Any:
    """The config of the command with its choices of groups alone, or without any override."""
    chosen = [text for text in sys.argv[1:] if choices(text.partition("=")[0])]
    with initialize_config_dir(str(_conf()), version_base="1.3"):
        try:
            return compose(Path(sys.argv[0]).stem, chosen)
        except (HydraException, OmegaConfBaseException):
            return compose(Path(sys.argv[0]).stem)


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    if not OmegaConf.is_dict(config):
        return
    assert isinstance(config, DictConfig)
    for key in map(str, config):
        if key.startswith("_") or f"{prefix}{key}" == "hydra":
            continue
        yield f"{prefix}{key}"
        if not OmegaConf.is_missing(config, key) and not OmegaConf.is_interpolation(config, key):
            yield from _keys(config._get_node(key), f"{prefix}{key}.")


def _listed(choice: str, options: Any) -> str:
    near = difflib.get_close_matches(choice, list(options), 1)
    return ", ".join(options) + (f" (did you mean {near[0]}?)" if near else "")


def _spelling_message(override: str) -> str:
    """The right spelling of an override that Hydra's parser does not take."""
    key, equals, value = (part.strip() for part in override.partition("="))
    if not equals:
        return f"{override} is no setting: write KEY=VALUE, without spaces"
    if override.partition("=")[0] != key or override.partition("=")[2] != value:
        return f"{override!r} has spaces around =: write {_spelled(key, value)}"
    parts = value.split(",")
    if "" in parts and not set(value) & set("[]{}'\""):
        rest = ",".join(part for part in parts if part)
        return f"{override} has an empty value between its commas: write {key}={rest}"
    return f"{override} cannot be read: write {_spelled(key, value)}"


def _spelled(key: str, value: str) -> str:
    """KEY=VALUE as a shell takes it, with the value in quotes where Hydra needs them."""
    plain = value.strip("\"'")
    quoted = '"' + plain.replace('"', "'") + '"'
    if value.startswith("[") and value.endswith("]"):
        items = [item.strip().strip("\"'") for item in value[1:-1].split(",")]
        quoted = "[" + ",".join(f'"{item}"' for item in items) + "]"
    for spelling in (value, quoted):
        try:
            OverridesParser.create().parse_override(f"{key}={spelling}")
        except HydraException:
            continue
        return (
            shlex.quote(f"{key}={spelling}")
            if set(spelling) & set(" \"'[]{}()$&;<>|*")
            else f"{key}={spelling}"
        )
    return "KEY=VALUE, with a key as docs/configuration.md lists them"
