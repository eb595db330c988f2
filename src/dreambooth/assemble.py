"""Config to objects. Below this file nothing knows Hydra or OmegaConf, nor the two keywords `class`
and `lambda`; everything a user can say wrong is found here, before any long work starts."""

import inspect
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Trainer
from pydantic import ValidationError

from dreambooth.backbones.stage import Backbone, Sampling, Stage
from dreambooth.distributed.ranks import check_batch_size, num_ranks
from dreambooth.experiment import Experiment, draw_pictures, to_device
from dreambooth.methods.method import Method
from dreambooth.metrics.detail import DetailScorer
from dreambooth.metrics.evaluation import Scorer
from dreambooth.runs.overrides import assignment
from dreambooth.runs.run import Run
from dreambooth.runs.settings import Sampler, Settings, Training, read, sentence_of
from dreambooth.schedules import TimestepDistribution
from dreambooth.subjects.identifiers import check_identifier, random_identifier, rare_identifier
from dreambooth.subjects.prompts import PromptNames
from dreambooth.subjects.subject import Subject
from dreambooth.training.fsdp import Sharded
from dreambooth.training.loggers import History

log = logging.getLogger(__name__)


def assemble(run: Run) -> Experiment:
    """The experiment of a run folder, from its config."""
    quieten_libraries()
    config = run.config
    settings = read(Settings, config)
    device = _device(config["trainer"]["accelerator"])
    method: Method = _built(config["method"]["tuning"], "method.tuning")
    subject = subject_of(config)
    noun = _class_noun(config["class"], subject)
    backbone: Backbone = _built(config["model"]["backbone"])
    identifier = _identifier(config["identifier"], config["model"], backbone)
    names = PromptNames(identifier, noun, prior_noun=noun or subject.class_noun)
    for template in ("a {}", *subject.prompts):
        backbone.check_prompt(template.format(names.subject), identifier)
    backbone.check_prompt(names.class_prompt)
    if "sr" not in backbone.stages:
        _check_without_sr(config, backbone.name)
    _warn_of_unused(config)
    base_state = _base_state(config, names, method)
    scorers = scorers_of(config["metrics"], subject)
    _warn_of_small_photos(subject, backbone)
    if "sr" in backbone.stages and scorers:
        scorers.append(DetailScorer(backbone.stages["base"].resolution_px))
    sampling = _sampling(settings, backbone.stages)
    parts = {
        "run": run,
        "subject": subject,
        "names": names,
        "scorers": scorers,
        "draw": lambda jobs: draw_pictures(to_device(backbone, device), jobs, sampling),
    }
    return Experiment(
        run=run,
        subject=subject,
        names=names,
        backbone=backbone,
        method=method,
        prior=settings.prior,
        prior_sampling=Sampling(_checked(settings.model.sampling.prior, backbone.stages)),
        sampling=sampling,
        drawing=settings.drawing,
        training=_training(config, settings),
        timesteps=TimestepDistribution(**asdict(settings.method.timesteps)),
        ema_decay=settings.method.ema_decay,
        sr=settings.sr,
        base_state=base_state,
        trainer=_trainer(config),
        callbacks=lambda stage: [
            _callback(c, parts | {"stage": stage}) for c in config["callbacks"].values()
        ],
        loggers=loggers_of(config, run),
        scorers=scorers,
        seed=settings.seed,
        device=device,
    )


def _training(config: Mapping[str, Any], settings: Settings) -> dict[str, Training]:
    """How each stage is fine-tuned that is: the base, then SR if it is given a noise level; with
    stage=sr and no level none is, and the earlier run's base is drawn with that SR."""
    method, sr = settings.method, settings.sr
    make = instantiate(config["method"]["module"])
    training = {"base": Training(make, method.max_steps, method.batch_size)}
    if sr.noise_level is not None:
        of_sr = partial(make, learning_rate=sr.learning_rate)
        training["sr"] = Training(of_sr, sr.max_steps, sr.batch_size)
    chosen = {name: how for name, how in training.items() if settings.stage in (None, name)}
    for name, how in chosen.items():
        check_batch_size("method" if name == "base" else name, how.batch_size, num_ranks())
    return chosen


def _trainer(config: Mapping[str, Any]) -> Callable[..., Trainer]:
    """A trainer, of its callbacks and loggers. ValueError for what FSDP cannot do."""
    make, strategy = instantiate(config["trainer"]), str(config["trainer"].get("strategy", "auto"))
    if strategy.startswith(("auto", "ddp")):
        return make
    if strategy != "fsdp":
        raise ValueError(f"trainer.strategy={strategy} is not known: give auto (ddp) or fsdp")
    if config["method"]["ema_decay"] is not None:
        raise ValueError("trainer.strategy=fsdp has no moving average: method.ema_decay=null")
    if "score_curves" in config["callbacks"]:
        raise ValueError("trainer.strategy=fsdp draws after training only: callbacks=default")
    Sharded()  # refuses one device, now
    return lambda **parts: make(**parts, strategy=Sharded())


def _check_without_sr(config: Mapping[str, Any], model: str) -> None:
    if config["sr"]["enabled"]:
        raise ValueError(f"the model {model} has no SR stage: take sr=off")
    overrides = {text: assignment(text) for text in config["overrides"]}
    useless = [t for t, one in overrides.items() if one.key.startswith("sr.") or t == "stage=sr"]
    if useless:
        raise ValueError(f"the model {model} has no SR stage: leave out {useless[0]}")


def _warn_of_unused(config: Mapping[str, Any]) -> None:
    keys = {f"sr.{key}" for key in ("learning_rate", "max_steps", "batch_size", "train")}
    unused = [text for text in config["overrides"] if assignment(text).key in keys]
    if unused and config["sr"]["noise_level"] is None:
        log.warning(
            "%s changes nothing: without sr.noise_level the SR stage is not trained", unused[0]
        )


def _base_state(
    config: Mapping[str, Any], names: PromptNames, method: Method
) -> dict[str, Any] | None:
    """With stage=sr, that of the run that it goes on from."""
    if config["stage"] != "sr":
        return None
    earlier = Run.load_finished(Path(config["run"]))
    same = ("subject", "class", "identifier", "model", "method", "prior", "seed")
    changed = [key for key in same if _of_result(earlier.config[key]) != _of_result(config[key])]
    if changed or PromptNames(**earlier.read_names()) != names:
        raise ValueError(
            f"{earlier.folder} was trained with another {' and '.join(changed) or 'identifier'}: "
            "with stage=sr leave that as it was"
        )
    return method.state(reload(earlier).backbone.stages["base"])


def _of_result(settings: Any) -> Any:
    """Without those that no weight depends on."""
    if not isinstance(settings, Mapping):
        return settings
    return {k: v for k, v in settings.items() if k not in ("cache", "checkpoint_every")}


def _warn_of_small_photos(subject: Subject, backbone: Backbone) -> None:
    resolution_px = list(backbone.stages.values())[-1].resolution_px
    sizes = [min(photo.shape[-2:]) for photo in subject.originals()]
    small = [size for size in sizes if size < resolution_px]
    if small:
        log.warning(
            "%d of %d photos are smaller than the model's %d px (the smallest: %d): they are "
            "enlarged, and the detail that they lack is learnt as blur",
            len(small),
            len(sizes),
            resolution_px,
            min(small),
        )


def subject_of(config: Mapping[str, Any]) -> Subject:
    found: Subject = _built(config["subject"])
    return found


def scorers_of(metrics: dict[str, Any], subject: Subject | None = None) -> list[Scorer]:
    """What `metrics` names, checked against the subject, if there is one."""
    found: list[Scorer] = list(_built(metrics).values())
    for scorer in found:
        if subject is not None:
            scorer.check(subject)
    return found


def loggers_of(config: Mapping[str, Any], run: Run) -> list[Any]:
    """The run folder's history, and what `logger` names beside it."""
    history = History(run)
    if not config["logger"]:
        return [history]
    return [_partial(config["logger"])(folder=run.folder, config=dict(run.config)), history]


@dataclass(frozen=True)
class Reloaded:
    """A finished run: the fine-tuned model, its words, and how its pictures are drawn."""

    backbone: Backbone
    names: PromptNames
    sampling: Sampling


def reload(run: Run) -> Reloaded:
    """From nothing but the run's folder and, where its method keeps less, the pretrained model."""
    quieten_libraries()
    config = run.config
    settings = read(Settings, config)
    method: Method = _built(config["method"]["tuning"], "method.tuning")

    def pretrained(folder: Path | None = None) -> Backbone:
        other = {} if folder is None else {"pretrained": str(folder)}
        found: Backbone = _built(config["model"]["backbone"] | other)
        return found

    backbone = method.load(pretrained, run.weights.resolve())
    for stage in backbone.stages.values():
        stage.denoiser.to(_device("auto"))
    return Reloaded(backbone, PromptNames(**run.read_names()), _sampling(settings, backbone.stages))


def quieten_libraries() -> None:
    """Progress bars and advice of libraries, which would bury our own lines."""
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning on a new torch
    # Where it averages weights nothing is sharded: see _trainer.
    warnings.filterwarnings("ignore", message=".*WeightAveraging doesn't support sharding.*")
    # Our loader goes on where the training does: see Batches.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
    logging.getLogger().addFilter(_is_no_step)


def _is_no_step(record: logging.LogRecord) -> bool:
    """open_clip tells what it does through the root logger, which nobody else writes to."""
    return record.levelno > logging.INFO


def _built(settings: dict[str, Any], key: str = "") -> Any:
    """What `settings` names. A ValueError in there is the user's sentence, and Hydra hides it."""
    try:
        return instantiate(settings)
    except InstantiationException as error:
        if isinstance(error.__cause__, ValidationError):
            raise ValueError(sentence_of(error.__cause__, key)) from None
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise


def _partial(settings: dict[str, Any]) -> Any:
    """What `settings` names, to be called with objects (given to `instantiate`, Hydra would take
    them for configs and instantiate what is inside)."""
    return instantiate(settings, _partial_=True)


def _callback(settings: dict[str, Any], parts: dict[str, Any]) -> Any:
    """A callback, of those parts of the experiment that its constructor names."""
    make = _partial(settings)
    wanted = inspect.signature(make.func).parameters
    return make(**{name: part for name, part in parts.items() if name in wanted})


def _sampling(settings: Settings, stages: Mapping[str, Stage]) -> Sampling:
    """Of the pictures that are scored."""
    samplers = _checked(settings.model.sampling.images, stages)
    return Sampling(samplers, settings.sr.enabled, settings.sr.drawing_noise_level)


def _checked(samplers: Mapping[str, Sampler], stages: Mapping[str, Stage]) -> dict[str, Sampler]:
    """A sampler for each stage of a model, which can draw from it."""
    if missing := [name for name in stages if name not in samplers]:
        raise ValueError(f"model.sampling has nothing for stage {missing[0]} of this model")
    for name, stage in stages.items():
        stage.schedule.solver(samplers[name].name, samplers[name].num_steps)
    return {name: samplers[name] for name in stages}


def _device(accelerator: str) -> Any:
    """Where Lightning will train, as a torch device. ValueError if it is not there."""
    import torch

    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("trainer=gpu needs a GPU, and there is none here: take trainer=cpu")
    has_gpu = accelerator in ("auto", "gpu") and torch.cuda.is_available()
    return torch.device("cuda" if has_gpu else "cpu")


def _class_noun(choice: dict[str, Any], subject: Subject) -> str | None:
    """class=none, wrong or correct, or class.noun=anything."""
    if choice["noun"] is not None:
        return str(choice["noun"])
    return {"none": None, "wrong": subject.wrong_class_noun, "correct": subject.class_noun}[
        choice["choice"]
    ]


def _identifier(settings: dict[str, Any], model: dict[str, Any], backbone: Backbone) -> str:
    """identifier=rare, common or random, or identifier.text=anything."""
    text: str | None = settings["text"]
    if text is None and settings["kind"] == "rare":
        first, end = model["rare_token_ids"]
        return rare_identifier(
            backbone.tokenizer, (first, end), settings["num_tokens"], settings["seed"]
        )
    if text is None:
        text = random_identifier(settings["seed"])
    check_identifier(backbone.tokenizer, str(text))
    return str(text)
