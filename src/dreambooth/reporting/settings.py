"""What a run's config says, in the words of the tables: axis -> value.

Read from the resolved config, so that two runs with the same settings are the same cell however
they were typed. Subject and seed are no axes: a cell is measured over them. What has no effect on
the pictures (loggers, devices, caches) or is told as a protocol (metrics) is left out, and so is
what a run does not use: settings of the prior term at lambda 0, of an SR stage that is not trained.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

KNOWN = ("method", "model", "lambda", "class", "sr", "num_photos", "identifier")
ABSENT = "-"  # of an axis that a run does not have, as another system's pictures have no lambda

_ELSEWHERE = (  # told by a known axis, by the subject, or without effect on the pictures
    *("class", "identifier", "sr.enabled", "sr.noise_level", "sr.inference_noise_level"),
    *("prior.lambda", "prior.cache", "subject", "photos", "class_noun", "seed", "overrides"),
    *("model.backbone", "model.training", "method.tuning._target_", "method.tuning.train_sr"),
    *("method.module._target_", "method.checkpoint_every", "callbacks", "logger", "metrics"),
    *("drawing", "stage", "run", "launcher", "force", "report", "images"),
)
_OF_TRAINER = ("trainer.precision",)  # the rest of it says where and how often, not what
_NAMES = {
    "method": {
        "dreambooth": "DreamBooth",
        "textual_inversion": "Textual Inversion",
        "prompt_only": "prompt engineering",
        "external": "another system",
    },
    "class": {
        "none": "no class noun",
        "wrong": "wrong class noun",
        "correct": "correct class noun",
    },
    "sr": {"off": "no SR", "frozen": "SR as pretrained"},
}
_TEMPLATES = {
    "lambda": "lambda {}",
    "class": 'class noun "{}"',
    "sr": "SR noise {}",
    "num_photos": "{} photos",
    "identifier": "{} identifier",
    "method": "{}",
    "model": "{}",
}


def settings_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Every axis of a run, known ones first."""
    method = _method(config.get("method", {}))
    if method == "external":
        return {"method": method}
    known: dict[str, str | None] = {
        "method": method,
        "model": _model(config.get("model", {}).get("backbone", {})),
        "lambda": words(config.get("prior", {}).get("lambda")),
        "class": _class(config.get("class", {}), config.get("subject", {})),
        "sr": _super_resolution(config.get("sr", {}), config.get("stage")),
        "num_photos": words(config.get("subject", {}).get("num_photos")),
        "identifier": _identifier(config.get("identifier", {})),
    }
    found = {axis: value for axis, value in known.items() if value is not None}
    unused = ["prior"] if found.get("lambda") == "0" else []
    unused += ["sr"] if found.get("sr") in ("off", "frozen") else []
    for key, value in _leaves(config):
        trainers = key.startswith("trainer.") and key not in _OF_TRAINER
        partial = key.endswith("._partial_")
        if not trainers and not partial and not _within(key, (*_ELSEWHERE, *unused)):
            found[key] = words(value) or "none"
    return found


def subject_of(config: Mapping[str, Any]) -> str:
    """The subject's name; of a drawn one without a name, its class and number: "dog 501"."""
    subject = config.get("subject", {})
    if not isinstance(subject, Mapping):
        return str(subject)
    if name := subject.get("name"):
        return str(name)
    if photos := subject.get("photos"):
        return str(photos).rstrip("/").rpartition("/")[2]
    return " ".join(str(subject[key]) for key in ("class_noun", "seed") if key in subject)


def drawn(config: Mapping[str, Any]) -> str:
    """What makes a drawn subject who it is, named or not: "dog 501"; "" for photos."""
    subject = config.get("subject", {})
    if not isinstance(subject, Mapping) or "photos" in subject or "seed" not in subject:
        return ""
    return f"{subject.get('class_noun')} {subject['seed']}"


def words(value: Any) -> str | None:
    """A value as people write it: 1e-5 for 0.00001, 0.5, and 0 for 0.0."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if 0 < abs(value) < 0.01 or abs(value) >= 1e6:
        mantissa, exponent = f"{value:.6e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:g}"


def told(axis: str, value: str) -> str:
    """A setting in words: "lambda 0", "no class noun", "learning_rate 1e-4"."""
    if value == ABSENT:
        return ""
    if axis == "num_photos" and value == "1":
        return "1 photo"
    template = _TEMPLATES.get(axis, axis.rpartition(".")[2].replace("{", "") + " {}")
    return _NAMES.get(axis, {}).get(value) or template.format(value)


def label_of(settings: Mapping[str, str]) -> str:
    """Several settings in words: "lambda 0, no class noun"."""
    return ", ".join(filter(None, (told(axis, value) for axis, value in settings.items())))


def key_of(label: str) -> str:
    """Letters, digits and "-" only."""
    return re.sub("[^a-z0-9]+", "-", label.lower()).strip("-")[:80] or "all"


def order_of(axis: str, value: str) -> tuple[int, float, str]:
    """Values in the order of the tables: numbers upwards, words as the paper has them."""
    if value == ABSENT:
        return (9, 0.0, "")
    names = list(_NAMES.get(axis, {}))
    if value in names:
        return (0, names.index(value), "")
    try:
        number = float(value)
    except ValueError:
        return (2, 0.0, "" if value == "rare" else value)
    return (1, -number if axis == "sr" else number, value)


def _method(method: Any) -> str | None:
    if isinstance(method, str):
        return method
    target = method.get("tuning", {}).get("_target_")
    if target is None:
        return None
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(target).rpartition(".")[2]).lower()
    return "dreambooth" if name == "dream_booth" else name


def _model(backbone: Mapping[str, Any]) -> str | None:
    """The hub id or folder it was loaded from, or the part of the project that has it."""
    if pretrained := backbone.get("pretrained"):
        return str(pretrained).rstrip("/").rpartition("/")[2]
    parts = str(backbone.get("_target_", "")).split(".")
    return parts[1] if len(parts) > 1 else None


def _class(choice: Mapping[str, Any], subject: Mapping[str, Any]) -> str | None:
    noun = choice.get("noun")
    if noun is None:
        return words(choice.get("choice"))
    return "correct" if noun == subject.get("class_noun") else str(noun)


def _super_resolution(sr: Mapping[str, Any], stage: Any) -> str | None:
    if not sr:
        return None
    if not sr.get("enabled", True):
        return "off"
    level, drawn_at = sr.get("noise_level"), words(sr.get("inference_noise_level"))
    name = "frozen" if level is None or stage == "base" else str(words(float(level)))
    return name if drawn_at is None else f"{name}, drawn at {drawn_at}"


def _identifier(identifier: Mapping[str, Any]) -> str | None:
    kind = words(identifier.get("kind"))
    if kind is None:
        return None
    if (text := identifier.get("text")) and not (kind == "common" and text == "special"):
        return f'{kind} "{text}"' if kind == "common" else f'chosen "{text}"'
    parts = [kind] + [f"{n} tokens" for n in [identifier.get("num_tokens", 1)] if n != 1]
    return ", ".join(parts + [f"seed {s}" for s in [identifier.get("seed", 0)] if s])


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _within(key: str, prefixes: tuple[str, ...]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)
