"""Whether stage=sr builds on a run of the same settings, which an older version may have made."""

from collections.abc import Mapping
from typing import Any

_GROUPS = ("subject", "class", "identifier", "model", "method", "prior", "seed")
_CHANGE_NO_WEIGHT = ("cache", "checkpoint_every", "seed")  # within a group, `seed` is repeated
_RENAMED = {"dreambooth.methods.dreambooth.DreamBooth": "dreambooth.methods.adapters.dreambooth"}


def changed_groups(earlier: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """The groups whose settings differ, but for those that the earlier run's version lacked.

    These are at their defaults, which do what was done before they existed.
    """
    return [group for group in _GROUPS if _differ(earlier[group], config[group])]


def _differ(earlier: Any, now: Any) -> bool:
    if not isinstance(earlier, Mapping) or not isinstance(now, Mapping):
        return bool(_RENAMED.get(str(earlier), earlier) != now)
    removed = earlier.keys() - now.keys()
    shared = (earlier.keys() & now.keys()) - {*_CHANGE_NO_WEIGHT}
    return bool(removed) or any(_differ(earlier[key], now[key]) for key in shared)
