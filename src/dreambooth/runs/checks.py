"""Checks that need only a run's config, before anything is loaded. It does not import torch.

What needs photos, a tokenizer or weights is checked in assemble.py.
"""

import tempfile
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dreambooth.runs.overrides import assignment
from dreambooth.runs.settings import Settings, as_typed, check_count, read
from dreambooth.runs.values import Scale

_STEPS = "method.max_steps=... sets the number of steps"
_VALIDATION = "a run has no validation; callbacks=score_curves scores images during training"
_RUN_SETS = "the run sets it itself"
# Arguments of lightning.Trainer that a run does not take, and what to use instead.
NOT_FOR_TRAINER = {
    "accumulate_grad_batches": "give method.batch_size, which trainer.devices share",
    "barebones": "it turns off the checkpoints that a run needs",
    "callbacks": "give callbacks=..., or +callbacks.NAME._target_=...",
    "check_val_every_n_epoch": _VALIDATION,
    "default_root_dir": "hydra.run.dir=... is the folder of a run",
    "enable_autolog_hparams": "config.yaml and the logger have all settings",
    "enable_checkpointing": "method.checkpoint_every=... sets how often a run is saved",
    "enable_progress_bar": "~callbacks.progress takes the progress bar away",
    "fast_dev_run": "experiment=smoke is a run of everything in seconds",
    "inference_mode": _VALIDATION,
    "limit_predict_batches": _STEPS,
    "limit_test_batches": _VALIDATION,
    "limit_train_batches": _STEPS,
    "limit_val_batches": _VALIDATION,
    "logger": "give logger=wandb or logger=csv",
    "max_epochs": _STEPS,
    "max_steps": _STEPS,
    "max_time": "stop a run with Ctrl-C, and go on with run=DIR",
    "min_epochs": _STEPS,
    "min_steps": _STEPS,
    "model_registry": "the model is saved in weights/ of the run folder",
    "num_sanity_val_steps": _VALIDATION,
    "overfit_batches": _STEPS,
    "plugins": _RUN_SETS,
    "profiler": "its report is not shown; provenance.json has the seconds of each phase",
    "reload_dataloaders_every_n_epochs": _STEPS,
    "sync_batchnorm": "no model here has batch normalization",
    "use_distributed_sampler": _RUN_SETS,
    "val_check_interval": _VALIDATION,
}
FOR_TRAINER = (
    *("accelerator", "benchmark", "detect_anomaly", "deterministic", "devices"),
    *("enable_model_summary", "gradient_clip_algorithm", "gradient_clip_val"),
    *("log_every_n_steps", "num_nodes", "precision", "strategy"),
)
# The configs of peft whose adapters can be scaled: `set_scale` of the others only warns.
_SCALED = ("LoraConfig", "LoHaConfig", "LoKrConfig", "ShiraConfig")
# The scores of each entry of the group `metrics`, and of the SR stage.
SCORES = {
    "fidelity": ("dino", "clip_i", "clip_t", "pres", "div", "copy", "copied", "copied_null"),
    "oracle": ("identity", "clean", "class_accuracy", "context_accuracy", "drift", "diversity"),
}
SR_SCORES = {
    "": ("detail", "sr_detail", "sr_kept", "sr_invented", "sr_psnr", "sr_ssim"),
    "fidelity": ("sr_dino",),
    "fidelity.distance": ("sr_lpips",),
    "oracle": ("sr_identity", "sr_layout_error"),
}


def check_config(config: Mapping[str, Any]) -> Settings:
    """Check the plain config of a run. ValueError for the first mistake."""
    settings = read(Settings, config)
    _check_trainer(config["trainer"])
    if settings.method.module.compile and settings.trainer.devices * settings.trainer.num_nodes > 1:
        raise ValueError(
            "method.module.compile=true is for one device: give trainer.devices=1, or false"
        )
    _check_adapter(config)
    _check_optimizer(config["method"]["module"].get("optimizer", {}))
    if settings.prior.weight and "prior=off" in config["overrides"]:
        raise ValueError(
            f"prior=off has no prior term: leave out prior.lambda={settings.prior.weight:g}, or "
            "give another prior"
        )
    for group in ("metrics", "callbacks"):
        _check_entries(group, config[group])
    _check_nouns(config)
    check_sr(config, settings, "sr" in settings.model.sampling.images)
    if settings.prior.has_images:
        check_writable("prior.cache", settings.prior.cache)
    return settings


def _check_trainer(trainer: Mapping[str, Any]) -> None:
    for name in trainer:
        if name in NOT_FOR_TRAINER and name != "max_epochs":
            raise ValueError(f"trainer.{name} is not for a run: {NOT_FOR_TRAINER[name]}")
        if name not in (*FOR_TRAINER, "max_epochs", "_target_", "_partial_"):
            known = ", ".join(FOR_TRAINER)
            raise ValueError(f"trainer.{name} is no argument of lightning.Trainer: give {known}")


def _check_optimizer(optimizer: Mapping[str, Any]) -> None:
    """ValueError for 8-bit AdamW without its package."""
    if str(optimizer.get("_target_")).endswith(".adamw_8bit") and not find_spec("bitsandbytes"):
        raise ValueError(
            "the 8-bit AdamW of trainer=gpu_16gb needs a package: pip install -e '.[memory]', "
            "or give another trainer"
        )


def _check_entries(group: str, entries: Any) -> None:
    """ValueError for a scorer or callback that is not described by its class."""
    for name, entry in (entries or {}).items():
        if not isinstance(entry, Mapping) or "_target_" not in entry:
            raise ValueError(
                f"{group}.{name}={as_typed(entry)}: give +{group}.{name}._target_=..., or leave it "
                f"out by ~{group}.{name}"
            )
        if "every_n_steps" in entry:
            check_count(f"{group}.{name}.every_n_steps", entry["every_n_steps"])


def _check_adapter(config: Mapping[str, Any]) -> None:
    """ValueError for an adapter with a method that would ignore it, or that cannot be scaled."""
    adapter = config.get("adapter", {}).get("config")  # older runs have no such group
    if adapter is not None and "adapter" not in config["method"]["tuning"]:
        raise ValueError("this method trains no adapter: give adapter=none")
    if isinstance(adapter, Mapping) and "r" in adapter:  # the rank, in almost all of them
        check_count("adapter.config.r", adapter["r"])
    adapter_scale(config)


def adapter_scale(config: Mapping[str, Any], scale: Any = None) -> float:
    """The factor (0 and up, 1 as trained) of the adapter's change when images are drawn.

    It is `scale` or, if that is None, the config's. ValueError for a factor other than 1 if the run
    has no adapter, or one that peft cannot scale.
    """
    adapter = config.get("adapter", {})  # older runs have no such group
    scale = read(Scale, adapter.get("scale", 1) if scale is None else scale, "adapter.scale")
    if scale == 1:
        return scale
    if (config_of_peft := adapter.get("config")) is None:
        raise ValueError(f"adapter.scale={scale:g} scales nothing: this run has no adapter")
    name = str(config_of_peft.get("_target_")).rpartition(".")[2]
    if name not in _SCALED:
        raise ValueError(
            f"adapter.scale={scale:g}: peft cannot scale an adapter of {name}, only one of "
            f"{', '.join(_SCALED)}: leave it at 1"
        )
    return scale


def _check_nouns(config: Mapping[str, Any]) -> None:
    """ValueError for a class noun that contradicts the other words of the config."""
    choice, noun = config["class"]["choice"], config["class"]["noun"]
    subject = config["subject"] if isinstance(config["subject"], Mapping) else {}
    true = subject.get("class_noun")
    for key, word in {
        "class_noun": true,
        "wrong_class_noun": subject.get("wrong_class_noun"),
    }.items():
        if word is not None and (not isinstance(word, str) or set(word) & set("{}")):
            raise ValueError(f"subject.{key}={word}: give a noun, such as dog")
    if text := config["identifier"]["text"]:
        check_identifier_differs(text, (noun, true))
    if choice == "none" and noun is not None:
        raise ValueError(f"class=none has no noun: leave out class.noun={noun}, or class=none")
    if choice == "wrong" and noun and true and noun.casefold() == true.casefold():
        raise ValueError(
            f"class.noun={noun} is the subject's true class noun, and class=wrong needs another"
        )


def check_identifier_differs(identifier: str, nouns: Collection[str | None]) -> None:
    """ValueError if the identifier is one of the class nouns."""
    if identifier.casefold() in {noun.casefold() for noun in nouns if noun}:
        raise ValueError(
            f"the identifier {identifier!r} is the class noun: give another identifier.text"
        )


def check_sr(config: Mapping[str, Any], settings: Settings, has_stage: bool) -> None:
    """ValueError for settings of the SR stage that the model or the other settings rule out."""
    if not has_stage:
        if settings.sr.enabled:
            raise ValueError("this model has no SR stage: give sr=off")
        for override in config["overrides"]:
            if assignment(override).key.startswith("sr.") or override == "stage=sr":
                raise ValueError(f"this model has no SR stage: leave out {override}")
    for key in ("noise_level", "inference_noise_level"):
        if getattr(settings.sr, key) is not None and not settings.sr.enabled:
            raise ValueError(f"sr=off does not use sr.{key}: leave it out, or give sr=frozen")


def check_objective(objective: str | None, config: Mapping[str, Any]) -> None:
    """ValueError if a finished run will not have the score that a search optimizes."""
    metrics = config["metrics"] or {}
    if objective is None or any(name not in SCORES for name in metrics):
        return  # the names of other scorers' scores are not known here
    known = [name for group in metrics for name in SCORES[group]]
    if metrics and "sr" in config["model"]["sampling"]["images"]:
        groups = ["", *metrics]
        if metrics.get("fidelity", {}).get("distance") is not None:
            groups.append("fidelity.distance")
        known += [name for group in groups for name in SR_SCORES[group]]
    if not known:
        raise ValueError(f"objective={objective} needs scores: give metrics=miniature or =paper")
    if objective not in known:
        raise ValueError(
            f"objective={objective} is not a score of these metrics: choose from {', '.join(known)}"
        )


def check_writable(key: str, folder: Any) -> None:
    """ValueError unless a folder can be made and written to."""
    if not isinstance(folder, str | Path):
        raise ValueError(f"{key}={as_typed(folder)}: give a folder")
    path = Path(folder)
    try:
        existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    except OSError as error:  # its name is too long
        raise ValueError(f"{key}={path}: give a folder that can be made ({error})") from error
    if not existing.is_dir():
        raise ValueError(f"{key}={path}: {existing} is a file, give a folder")
    try:  # a trial, because the permissions do not tell: of /proc, or of a disk that is read-only
        Path(tempfile.mkdtemp(prefix=".", dir=existing)).rmdir()
    except OSError:
        raise ValueError(
            f"{key}={path}: {existing} cannot be written to, give another folder"
        ) from None
