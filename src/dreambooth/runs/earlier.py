"""Whether stage=sr builds on a run of the same settings, which an older version may have made."""

from collections.abc import Collection, Mapping
from typing import Any

from dreambooth.runs.configs import CHANGE_NO_RESULT
from dreambooth.runs.overrides import assignment

_GROUPS = ("subject", "class", "identifier", "model", "method", "prior", "seed")
# `seed` itself is in `_GROUPS`; the identifier that was drawn is in names.json.
_CHANGE_NO_WEIGHT = (*CHANGE_NO_RESULT, "method.tuning.seed", "identifier.seed")
_RENAMED = {"dreambooth.methods.dreambooth.DreamBooth": "dreambooth.methods.adapters.dreambooth"}


def changed_groups(earlier: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """The groups whose settings differ.

    Keys that the earlier run's version lacked count only if the command line sets them. At their
    defaults they do what was done before they existed.
    """
    typed = {*config["overrides"]} - {*earlier["overrides"]}
    keys = {assignment(override).key for override in typed}
    return [group for group in _GROUPS if _differ(group, earlier[group], config[group], keys)]


def _differ(key: str, earlier: Any, now: Any, typed: Collection[str]) -> bool:
    """Whether the settings at a dotted key differ. `typed`: the keys that the command line sets."""
    if key in _CHANGE_NO_WEIGHT:
        return False
    if not isinstance(earlier, Mapping) or not isinstance(now, Mapping):
        return bool(_RENAMED.get(str(earlier), earlier) != now)
    added = [f"{key}.{name}" for name in now.keys() - earlier.keys()]
    return (
        bool(earlier.keys() - now.keys())
        or any(one == new or one.startswith(f"{new}.") for one in typed for new in added)
        or any(_differ(f"{key}.{k}", earlier[k], now[k], typed) for k in earlier if k in now)
    )
