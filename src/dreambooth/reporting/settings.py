"""The settings of a run as axis -> value, in the words of the tables.

They are read from the resolved config, so that runs with the same settings belong to the same cell
however their overrides were typed. Subject and seed are no axes: a cell averages over them. Left
out are settings without effect on the images (loggers, devices, caches), metrics, which a protocol
describes, and what a run does not use: the prior term's settings at lambda 0, the settings of an
SR stage that is not trained, the prior term's with method=textual_inversion, and those of training
and identifier with method=prompt_only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

KNOWN = ("method", "model", "adapter", "lambda", "class", "sr", "num_photos", "identifier")
ABSENT = "-"  # the value on an axis that a run lacks: images of another system have no lambda

_NO_AXES = (  # covered by a known axis or by the subject, or without effect on the images
    *("class", "identifier", "sr.enabled", "sr.noise_level", "sr.inference_noise_level"),
    *("prior.lambda", "prior.kind", "prior.cache", "subject", "photos", "class_noun", "seed"),
    "dreambench",
    *("model.backbone", "model.training", "method.tuning._target_", "method.tuning.train_sr"),
    *("method.tuning.like", "method.tuning.num_vectors"),  # the subject's noun; method.num_vectors
    *("method.tuning.adapter", "method.tuning.seed"),  # as the group `adapter` and `seed`
    *("method.tuning.train_text_encoder", "method.tuning.text_encoder_learning_rate"),
    *("adapter.config._target_", "adapter.learning_rate"),  # in `adapter`; method's learning rate
    "adapter.save_format",
    *("method.module._target_", "method.checkpoint_every", "callbacks", "logger", "metrics"),
    *("overrides", "drawing", "stage", "run", "launcher", "force", "report", "images"),
)
_TRAINER_AXES = ("trainer.precision",)  # other trainer settings do not change what is computed
_NAMES = {
    "method": {
        "dreambooth": "DreamBooth",
        "textual_inversion": "Textual Inversion",
        "prompt_only": "prompt only",
        "external": "another system",
    },
    "adapter": {
        "none": "no adapter",
        **{name.lower(): name for name in ("LoRA", "DoRA", "LoHa", "LoKr", "OFT", "BOFT", "HRA")},
        **{name.lower(): name for name in ("VeRA", "RandLoRA", "IA3", "MiSS", "HiRA", "SHiRA")},
        **{name.lower(): name for name in ("DeLoRA", "FourierFT")},
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
    "adapter": "{}",
}


def settings_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return axis -> value for every axis of a run, known axes first."""
    method = _method(config.get("method", {}))
    if method == "external":
        return {"method": method}
    known: dict[str, str | None] = {
        "method": method,
        "model": _model(config.get("model", {}).get("backbone", {})),
        "adapter": _adapter(config.get("adapter", {})) if method == "dreambooth" else None,
        "lambda": _prior(config.get("prior", {})),
        "class": _class(config.get("class", {}), config.get("subject", {})),
        "sr": _super_resolution(config.get("sr", {}), config.get("stage")),
        "num_photos": words(config.get("subject", {}).get("num_photos")),
        "identifier": _identifier(config.get("identifier", {})),
    }
    settings = {axis: value for axis, value in known.items() if value is not None}
    unused = ["prior"] if settings.get("lambda") == "0" else []
    if method == "prompt_only":  # its images have neither training nor identifier
        unused += ["method", "adapter"]
        settings = {k: v for k, v in settings.items() if k in ("method", "model", "sr")}
    if method == "textual_inversion":  # it has no prior term
        settings.pop("lambda", None)
        unused += ["prior"]
    if settings.get("adapter") and not config["method"].get("train_text_encoder"):
        unused += ["method.text_encoder_learning_rate", "adapter.text_encoder_targets"]
    unused += ["sr"] if settings.get("sr") in ("off", "frozen") else []
    for key, value in leaves(config):
        of_trainer = key.startswith("trainer.") and key not in _TRAINER_AXES
        partial = key.endswith("._partial_")
        of_none = key == "adapter.config"  # null: there is no adapter
        if not (of_trainer or partial or of_none) and not _within(key, (*_NO_AXES, *unused)):
            settings[key] = words(value) or "none"
    return settings


def words(value: Any) -> str | None:
    """Format a value as people write it: 1e-5 for 0.00001, 0.5, and 0 for 0.0."""
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, float):
        return str(value)
    if 0 < abs(value) < 0.01 or abs(value) >= 1e6:
        mantissa, exponent = f"{value:.6e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:g}"


def setting_in_words(axis: str, value: str) -> str:
    """Return a setting in words: "lambda 0", "no class noun", "learning_rate 1e-4"."""
    if value == ABSENT:
        return ""
    if axis == "num_photos" and value == "1":
        return "1 photo"
    template = _TEMPLATES.get(axis, axis.rpartition(".")[2].replace("{", "") + " {}")
    return _NAMES.get(axis, {}).get(value) or template.format(value)


def label_of(settings: Mapping[str, str]) -> str:
    """Return several settings in words: "lambda 0, no class noun"."""
    parts = (setting_in_words(axis, value) for axis, value in settings.items())
    return ", ".join(filter(None, parts))


def key_of(label: str) -> str:
    """Turn a label into a key of letters, digits and "-"."""
    return re.sub("[^a-z0-9]+", "-", label.lower()).strip("-")[:80] or "all"


def order_of(axis: str, value: str) -> tuple[int, float, str]:
    """Return the sort key of a value in the tables.

    Values with a name come first, in the order of `_NAMES`, then numbers from the smallest (SR
    noise levels from the largest), then other words.
    """
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
    """Return the last part of the hub id or folder, and the revision if one is given; without
    them, the package that defines the backbone.
    """
    if pretrained := backbone.get("pretrained"):
        revision = f" at {backbone['revision']}" if backbone.get("revision") else ""
        return str(pretrained).rstrip("/").rpartition("/")[2] + revision
    parts = str(backbone.get("_target_", "")).split(".")
    return parts[1] if len(parts) > 1 else None


def _adapter(adapter: Mapping[str, Any]) -> str:
    """Return the adapter by the class of its peft configuration: "lora"; "none" without one."""
    config = adapter.get("config") or {}
    name = str(config.get("_target_", "none")).rpartition(".")[2].removesuffix("Config").lower()
    return "dora" if name == "lora" and config.get("use_dora") else name


def _class(choice: Mapping[str, Any], subject: Mapping[str, Any]) -> str | None:
    noun = choice.get("noun")
    if noun is None:
        return words(choice.get("choice"))
    return "correct" if noun == subject.get("class_noun") else str(noun)


def _prior(prior: Mapping[str, Any]) -> str | None:
    """Return lambda, and what keeps the class if it is not prior images: "1 (output)"."""
    weight, kind = words(prior.get("lambda")), prior.get("kind", "images")
    return weight if weight in (None, "0") or kind == "images" else f"{weight} ({kind})"


def _super_resolution(sr: Mapping[str, Any], stage: Any) -> str | None:
    if not sr:
        return None
    if not sr.get("enabled", True):
        return "off"
    level, inference_level = sr.get("noise_level"), words(sr.get("inference_noise_level"))
    name = "frozen" if level is None or stage == "base" else str(words(float(level)))
    return name if inference_level is None else f"{name}, generated at {inference_level}"


def _identifier(identifier: Mapping[str, Any]) -> str | None:
    kind = words(identifier.get("kind"))
    if kind is None:
        return None
    if (text := identifier.get("text")) and not (kind == "common" and text == "special"):
        return f'{kind} "{text}"' if kind == "common" else f'chosen "{text}"'
    parts = [kind] + [f"{n} tokens" for n in [identifier.get("num_tokens", 1)] if n != 1]
    return ", ".join(parts + [f"seed {s}" for s in [identifier.get("seed", 0)] if s])


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of each leaf of nested mappings."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _within(key: str, prefixes: tuple[str, ...]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)
