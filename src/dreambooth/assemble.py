"""Build the objects of a run from its config, and report a user's mistakes before any long work.

The objects receive explicit arguments. They know neither Hydra nor the config's keys `class` and
`lambda`, which are keywords in Python.
"""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning import Trainer

from dreambooth.backbones.drawing import Drawing, draw_pictures, on_device, release
from dreambooth.backbones.samplers import check_samplers, prior_samplers
from dreambooth.backbones.stage import Backbone, Sampling, Stage
from dreambooth.distributed.ranks import check_batch_size, merge_over_ranks, num_ranks, rank
from dreambooth.experiment import Experiment
from dreambooth.methods.fine_tuning import FineTuning
from dreambooth.methods.method import Method, check_method, check_photos
from dreambooth.metrics.detail import DetailScorer
from dreambooth.metrics.evaluation import Scorer
from dreambooth.metrics.loading import checked_scorers, load_scorers
from dreambooth.metrics.sources import metrics_are_chosen
from dreambooth.runs.building import build, callback_of, partial_of
from dreambooth.runs.checks import adapter_scale, check_config, check_identifier_differs, check_sr
from dreambooth.runs.earlier import changed_groups
from dreambooth.runs.overrides import assignment
from dreambooth.runs.pictures import Picture
from dreambooth.runs.provenance import record_model
from dreambooth.runs.run import Run
from dreambooth.runs.settings import Sampler, Settings, Training, read
from dreambooth.schedules import TimestepDistribution
from dreambooth.subjects.identifiers import check_identifier, random_identifier, rare_identifier
from dreambooth.subjects.photos import warn_of_photos
from dreambooth.subjects.prompts import PromptNames
from dreambooth.subjects.subject import Subject
from dreambooth.training.compiling import check_compiler
from dreambooth.training.fsdp import Sharded
from dreambooth.training.loggers import History
from dreambooth.training.presets import smaller_presets

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """The parts of a run that may turn out not to fit each other."""

    settings: Settings
    method: Method
    subject: Subject
    backbone: Backbone
    names: PromptNames
    scorers: list[Scorer]
    missing_encoders: str  # those without which there are no scorers; "" if none is missing
    samplers: dict[str, Sampler]  # of the prior images
    sampling: Sampling  # of all other images
    device: Any


def config_checker() -> Callable[[Mapping[str, Any]], Any]:
    """A function that checks the config of a run by building its parts. ValueError as `assemble`.

    What several runs share is built once, except that one model at a time is kept.
    """
    built: dict[tuple[str, str], Any] = {}  # (key, settings) -> object

    def build_once(settings: Any, key: str, builder: Callable[[Any, str], Any] = build) -> Any:
        name = (key, repr(settings))
        if name not in built:
            if key == "model.backbone":
                for other in [other for other in built if other[0] == key]:
                    del built[other]
            built[name] = builder(settings, key)
        return built[name]

    return lambda config: _parts(config, build_once)


def _parts(config: Mapping[str, Any], make: Callable[..., Any]) -> Parts:
    """Build and check the parts. `make(settings, key[, builder])` builds one of them."""
    quieten_libraries()
    settings = check_config(config)
    device = device_of(config["trainer"]["accelerator"])
    if settings.method.module.compile:
        check_compiler(device)
    method: Method = make(config["method"]["tuning"], "method.tuning")
    subject: Subject = make(config["subject"], "subject")
    noun = _class_noun(config["class"], subject)
    backbone: Backbone = make(config["model"]["backbone"], "model.backbone")
    identifier = _identifier(config["identifier"], config["model"], backbone)
    check_identifier_differs(identifier, (noun, subject.class_noun))
    names = PromptNames(identifier, noun, prior_noun=noun or subject.class_noun)
    names = method.names(names, subject, backbone)
    for template in ("a {}", *subject.prompts):
        backbone.check_prompt(template.format(names.subject), names.identifier)
    backbone.check_prompt(names.class_prompt)
    check_sr(config, settings, "sr" in backbone.stages)
    check_method(method, settings, method.prompts(names, backbone))
    check_photos(method, subject, names, backbone)
    _earlier_run(config, names)  # only checked here, for ValueError
    loaded = make(config["metrics"], "metrics", load_scorers)
    scorers = checked_scorers(loaded, subject, by_choice=metrics_are_chosen(config["overrides"]))
    return Parts(
        settings=settings,
        method=method,
        subject=subject,
        backbone=backbone,
        names=names,
        scorers=scorers,
        missing_encoders="" if loaded[1] is None else loaded[1].what,
        samplers=prior_samplers(settings, backbone.stages),
        sampling=_sampling(config, settings, backbone.stages),
        device=device,
    )


def assemble(run: Run) -> Experiment:
    """Build the experiment of a run folder. ValueError for a user's mistake in the config."""
    config = run.config
    parts = _parts(config, lambda settings, key, builder=build: builder(settings, key))
    settings, subject, backbone = parts.settings, parts.subject, parts.backbone
    names, device, precision = parts.names, parts.device, settings.trainer.precision
    # If any rank lacks encoders, none of them scores.
    missing = next(filter(None, merge_over_ranks({rank(): parts.missing_encoders}).values()), "")
    scorers = [] if missing else [*parts.scorers]
    _warn_of_unused_sr_settings(config)
    if rank() == 0:
        record_model(run)
    last_stage = list(backbone.stages.values())[-1]
    warn_of_photos(subject.originals(), last_stage.resolution_px, subject.crop)
    base_state = None
    if earlier := _earlier_run(config, names):
        base_state = parts.method.state(load_finished_model(earlier).backbone.stages["base"])
    if "sr" in backbone.stages and scorers:
        scorers.append(DetailScorer(backbone.stages["base"].resolution_px))

    def draw(jobs: Sequence[tuple[str, str, int]]) -> list[Picture]:
        with on_device(backbone, device, precision):
            pictures = draw_pictures(backbone, jobs, parts.sampling)
        release(backbone)  # training goes on
        return pictures

    given = {"run": run, "subject": subject, "names": names, "scorers": scorers, "draw": draw}
    loggers = loggers_of(config, run)
    fine_tuning = FineTuning(
        run=run,
        subject=subject,
        method=parts.method,
        prompts=parts.method.prompts(names, backbone),
        captions=[text and text.format(names.subject) for text in subject.captions],
        prior=settings.prior,
        stages=_trainings(config, settings, parts.method.stages),
        timesteps=TimestepDistribution(**asdict(settings.method.timesteps)),
        sr_noise_level=settings.sr.noise_level,
        ema_decay=settings.method.ema_decay,
        make_trainer=_trainer(config),
        callbacks=lambda stage: [
            callback_of(callback, given | {"stage": stage})
            for callback in config["callbacks"].values()
        ],
        loggers=loggers,
        seed=settings.seed,
    )
    if not scorers:
        log.warning(
            "%s: this run is not scored; to score its images later: %s"
            "python src/evaluate.py run=%s metrics=paper",
            f"{missing} not available" if missing else "metrics=none",
            "python src/fetch.py metrics=paper, where there is a network, and " if missing else "",
            run.folder,
        )
    return Experiment(
        run=run,
        subject=subject,
        names=names,
        backbone=backbone,
        # Now, since a method may add to the model.
        fingerprint=backbone.fingerprint() if settings.prior.has_images else "",
        method=parts.method,
        prior=settings.prior,
        prior_sampling=Sampling(parts.samplers),
        fine_tuning=fine_tuning,
        drawing=Drawing(run, backbone, parts.sampling, device, precision),
        drawing_settings=settings.drawing,
        loggers=loggers,
        scorers=scorers,
        seed=settings.seed,
        smaller_presets=smaller_presets(
            {a.key: a.value for a in map(assignment, config["overrides"])}.get("trainer", ""),
            takes_adapter="adapter" in config["method"]["tuning"],
        ),
        check=settings.check,
        base_state=base_state,
    )


def _trainings(
    config: Mapping[str, Any], settings: Settings, stages: Sequence[str]
) -> dict[str, Training]:
    """How to fine-tune those of `stages` that train: base, then SR if it has a noise level.

    With stage=sr and no noise level no stage trains: the pretrained SR stage then enlarges the
    images of the earlier run's base stage.
    """
    method, sr = settings.method, settings.sr
    make_module = instantiate(config["method"]["module"])
    trainings = {"base": Training(make_module, method.max_steps, method.batch_size)}
    if sr.noise_level is not None:
        make_sr_module = partial(make_module, learning_rate=sr.learning_rate)
        trainings["sr"] = Training(make_sr_module, sr.max_steps, sr.batch_size)
    selected = {
        name: training
        for name, training in trainings.items()
        if settings.stage in (None, name) and name in stages
    }
    for name, training in selected.items():
        check_batch_size("method" if name == "base" else name, training.batch_size, num_ranks())
    return selected


def _trainer(config: Mapping[str, Any]) -> Callable[..., Trainer]:
    """A function that makes a trainer from callbacks, loggers and a number of steps.

    ValueError for an unknown strategy, and for settings that FSDP does not support.
    """
    make_trainer = instantiate(config["trainer"])
    strategy = str(config["trainer"].get("strategy", "auto"))
    if strategy.startswith(("auto", "ddp")):
        return make_trainer
    if config["method"]["ema_decay"] is not None:
        raise ValueError(
            "trainer.strategy=fsdp does not support a moving average of the weights: "
            "give method.ema_decay=null"
        )
    if "score_curves" in config["callbacks"]:
        raise ValueError(
            "trainer.strategy=fsdp cannot generate images during training: give callbacks=default"
        )
    Sharded()  # raises now if there is only one device
    return lambda **arguments: make_trainer(**arguments, strategy=Sharded())


def _warn_of_unused_sr_settings(config: Mapping[str, Any]) -> None:
    keys = {f"sr.{key}" for key in ("learning_rate", "max_steps", "batch_size", "train")}
    unused = [text for text in config["overrides"] if assignment(text).key in keys]
    if unused and config["sr"]["noise_level"] is None:
        log.warning(
            "%s changes nothing: without sr.noise_level the SR stage is not trained", unused[0]
        )


def _earlier_run(config: Mapping[str, Any], names: PromptNames) -> Run | None:
    """With stage=sr, the earlier run (run=DIR) that has trained the base stage.

    ValueError if the earlier run had other settings.
    """
    if config["stage"] != "sr":
        return None
    earlier = Run.load_finished(Path(config["run"]))
    changed = changed_groups(earlier.config, config)
    if changed or PromptNames(**earlier.read_names()) != names:
        changes = " and ".join(changed) or "identifier"
        raise ValueError(
            f"{earlier.folder} was trained with another {changes}: stage=sr needs the same"
        )
    return earlier


def subject_of(config: Mapping[str, Any]) -> Subject:
    subject: Subject = build(config["subject"], "subject")
    return subject


def loggers_of(config: Mapping[str, Any], run: Run) -> list[Any]:
    """Build the logger of the group `logger`, if any, and the run folder's history."""
    history = History(run)
    if not config["logger"]:
        return [history]
    return [partial_of(config["logger"])(folder=run.folder, config=dict(run.config)), history]


@dataclass(frozen=True)
class FinishedModel:
    """The model of a finished run, the names in its prompts, and how it draws images."""

    backbone: Backbone
    names: PromptNames
    sampling: Sampling
    device: Any
    precision: str  # in Lightning's words

    def draw(
        self, jobs: Sequence[tuple[str, str, int]], sampling: Sampling, seed: int | None = None
    ) -> list[Picture]:
        """`draw_pictures` with this model, on its device."""
        with on_device(self.backbone, self.device, self.precision):
            return draw_pictures(self.backbone, jobs, sampling, seed)


def load_finished_model(run: Run, size_px: int | None = None) -> FinishedModel:
    """Load the model of a finished run. `size_px`: the size of its images, if not the run's.

    The pretrained model is loaded too if the run's method saves less than a whole model. ValueError
    if the model draws images of one size only.
    """
    quieten_libraries()
    config = run.config
    if size_px is not None and "resolution_px" not in config["model"]["backbone"]:
        raise ValueError(f"size_px={size_px}: this run's model has one size: leave size_px out")
    settings = read(Settings, config)
    method: Method = build(config["method"]["tuning"], "method.tuning")

    def pretrained(folder: Path | None = None) -> Backbone:
        source = {} if folder is None else {"pretrained": str(folder)}
        size = {} if size_px is None else {"resolution_px": size_px}
        settings_of_model = config["model"]["backbone"] | source | size
        backbone: Backbone = build(settings_of_model, "model.backbone")
        return backbone

    backbone = method.load(pretrained, run.weights.resolve())
    sampling, names = _sampling(config, settings, backbone.stages), PromptNames(**run.read_names())
    return FinishedModel(backbone, names, sampling, device_of("auto"), settings.trainer.precision)


def quieten_libraries() -> None:
    """Silence the progress bars and advice of libraries, which would bury our own messages."""
    import diffusers
    import transformers

    # diffusers also raises the errors that it logs.
    diffusers.utils.logging.set_verbosity(logging.CRITICAL)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning on a new torch
    # We never average sharded weights: see _trainer.
    warnings.filterwarnings("ignore", message=".*WeightAveraging doesn't support sharding.*")
    warnings.filterwarnings("ignore", message=".*in eval mode at the start.*")  # what is frozen
    # Our loader resumes at the right step: see Batches.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
    logging.getLogger().addFilter(_is_warning)


def _is_warning(record: logging.LogRecord) -> bool:
    """Let only warnings and errors pass: open_clip logs its steps to the root logger, as INFO."""
    return record.levelno > logging.INFO


def _sampling(
    config: Mapping[str, Any], settings: Settings, stages: Mapping[str, Stage]
) -> Sampling:
    """How to draw the images that are scored."""
    samplers = check_samplers(settings.model.sampling.images, stages)
    noise_level, scale = settings.sr.drawing_noise_level, adapter_scale(config)
    return Sampling(samplers, settings.sr.enabled, noise_level, adapter_scale=scale)


def device_of(accelerator: str) -> Any:
    """The torch device on which Lightning will train. ValueError if it is not available."""
    import torch

    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("trainer=gpu needs a GPU, and no GPU is available: give trainer=cpu")
    has_gpu = accelerator in ("auto", "gpu") and torch.cuda.is_available()
    return torch.device("cuda" if has_gpu else "cpu")


def _class_noun(choice: dict[str, Any], subject: Subject) -> str | None:
    """The noun of class=none, wrong or correct, or the value of class.noun."""
    if choice["noun"] is not None:
        return str(choice["noun"])
    return {"none": None, "wrong": subject.wrong_class_noun, "correct": subject.class_noun}[
        choice["choice"]
    ]


def _identifier(settings: dict[str, Any], model: dict[str, Any], backbone: Backbone) -> str:
    """The text of identifier=rare, common or random, or the value of identifier.text."""
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
