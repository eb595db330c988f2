"""Objects from the parts of a config that name their class or function by `_target_`."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from pydantic import ValidationError

from dreambooth.runs.settings import as_typed, sentence_of

_WORDS = {
    str: "text",
    Path: "a path",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    NoneType: "null",
}


def build(settings: Any, key: str) -> Any:
    """Build the objects that `settings`, at `key` of the config, describe.

    A ValueError inside is raised as it is: its message is for the user, and Hydra would hide it.
    """
    check_arguments(settings, key)
    try:
        return instantiate(settings)
    except InstantiationException as error:
        if isinstance(error.__cause__, ValidationError):
            raise ValueError(sentence_of(error.__cause__, key)) from None
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise


def partial_of(settings: dict[str, Any]) -> Any:
    """A `functools.partial` of the function or class that `settings` describes.

    Call it with objects as arguments. Hydra's `instantiate` would take the same objects for configs
    and instantiate what they contain.
    """
    return instantiate(settings, _partial_=True)


def callback_of(settings: dict[str, Any], arguments: dict[str, Any]) -> Any:
    """Build a callback. Its constructor gets those of `arguments` that it has parameters for."""
    make_callback = partial_of(settings)
    parameters = inspect.signature(make_callback.func).parameters
    return make_callback(**{name: value for name, value in arguments.items() if name in parameters})


def problems_of(settings: Any, key: str) -> list[ValueError]:
    """The errors of the objects in `settings` that cannot be built, each message once.

    An object is not tried if one of its parts cannot be built.
    """
    if not isinstance(settings, Mapping):
        return []
    found = [p for name, value in settings.items() for p in problems_of(value, f"{key}.{name}")]
    if "_target_" in settings and not found:
        try:
            build(settings, key)
        except ValueError as error:
            found = [error]
    return list({str(error): error for error in found}.values())


def check_arguments(settings: Any, key: str) -> None:
    """Check all objects that `settings`, at `key` of the config, describe.

    ValueError for a `_target_` that does not exist, an argument that it does not take, and text, a
    number or a list where its annotation asks for another of these.
    """
    if not isinstance(settings, Mapping):
        return
    for name, value in settings.items():
        check_arguments(value, f"{key}.{name}")
    if "_target_" not in settings:
        return
    try:
        target: Any = get_object(settings["_target_"])
    except Exception as error:
        raise ValueError(
            f"{key}._target_={settings['_target_']} cannot be imported: give the dotted name of a "
            "class or function"
        ) from error
    parameters = inspect.signature(target).parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    try:
        hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except NameError:  # a name that only type checkers import
        annotated = {name: p.annotation for name, p in parameters.items()}
        hints = {name: hint for name, hint in annotated.items() if not isinstance(hint, str)}
    for name, value in settings.items():
        if name in parameters and name in hints:
            _check_type(f"{key}.{name}", value, hints[name])
        elif name not in parameters and not name.startswith("_") and not takes_all:
            raise ValueError(f"{key}.{name} does not exist: {key} has {', '.join(parameters)}")


def _check_type(key: str, value: Any, hint: Any) -> None:
    allowed = get_args(hint) or (hint,)
    if not set(allowed) <= _WORDS.keys():
        return  # not a plain type
    plain = {float: (int, float), Path: (str,)}
    if type(value) not in {kind for each in allowed for kind in plain.get(each, (each,))}:
        # Of `str | Path | None` the path is left out, since it is a text.
        words = " or ".join(
            _WORDS[kind] for kind in allowed if kind is not Path or len(allowed) < 3
        )
        raise ValueError(f"{key}={as_typed(value)}: give {words}")
