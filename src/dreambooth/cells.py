"""The folders of a sweep and of its cells, named by what is swept and not by the time: the same
command finds what it has done.

runs/class+lambda/class-none+lambda-0         of prior.lambda=0,1 class=none,wrong,correct
runs/class+lambda+subject-olive/...           the same with subject=olive
"""

import re
from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from itertools import groupby

_LONGEST = 100  # characters of a name
_HOW = re.compile(r"[+~]*(force|launcher|objective)\b")


def of_the_result(override: str) -> bool:
    """Whether a key or an override says what is run, and not just how."""
    return not _HOW.match(override)


def sweep_name(swept: Collection[str], fixed: Mapping[str, str]) -> str:
    """Of the keys that are swept, and the keys and values that all cells have besides."""
    short = _short([*swept, *fixed])
    return _name([short[key] for key in sorted(swept)] + _pairs(fixed, short))


def cell_name(overrides: Sequence[str], fixed: Collection[str] = ()) -> str:
    """Of a cell's overrides, but for the keys that all cells share."""
    own = {key: value for key, value in settings(overrides).items() if key not in fixed}
    return _name(_pairs(own, _short(own))) or "all"


def settings(overrides: Sequence[str]) -> dict[str, str]:
    """Keys and values of the overrides that say what is run; of a key said twice, the last."""
    said = (text.partition("=") for text in overrides if of_the_result(text))
    return {key.lstrip("+"): value for key, _, value in said}


def _pairs(chosen: Mapping[str, str], short: Mapping[str, str]) -> list[str]:
    return [f"{short[key]}-{value}" for key, value in sorted(chosen.items())]


def _short(keys: Collection[str]) -> dict[str, str]:
    """`lambda` of `prior.lambda`, where only one key ends so."""
    by_end = groupby(sorted(keys, key=_end), _end)
    alone = {end for end, group in by_end if len(list(group)) == 1}
    return {key: _end(key) if _end(key) in alone else key for key in keys}


def _end(key: str) -> str:
    return key.rpartition(".")[2]


def _name(parts: Sequence[str]) -> str:
    """Parts joined by "+"; where that is long, or has what a file system or a shell may not take,
    shortened to what they do, with a hash of it all."""
    whole = "+".join(parts)
    plain = "+".join(re.sub("[^a-z0-9._-]+", "-", part.lower()).strip("-.") for part in parts)
    if plain == whole and len(whole) <= _LONGEST and not whole.startswith((".", "-")):
        return whole
    return f"{plain[: _LONGEST - 20]}_{blake2b(whole.encode(), digest_size=4).hexdigest()}"
