"""Config to objects. Below this file nothing knows Hydra or OmegaConf, nor the two keywords `class`
and `lambda`; everything a user can say wrong is found here, before any long work starts."""

import inspect
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from dreambooth.backbones.stage import Backbone, Stage
from dreambooth.evaluation import Scorer
from dreambooth.experiment import Drawing, Experiment, Names, Prior, draw_pictures, to_device
from dreambooth.module import check_prior_weight
from dreambooth.run import Run
from dreambooth.sampling import Sampler, scheduler_of
from dreambooth.subjects.identifiers import check_identifier, random_identifier, rare_identifier
from dreambooth.subjects.subject import Subject


def plain_config(cfg: DictConfig, overrides: list[str]) -> dict[str, Any]:
    """The resolved config as plain YAML data: enough to load the run."""
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key
        raise ValueError(f"{key} has no default: give {key}=... on the command line") from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()} | {"overrides": overrides}


def start_run(cfg: DictConfig) -> Run:
    """A run folder where Hydra says, with the resolved config in it."""
    quieten_libraries()
    hydra = HydraConfig.get()
    config = plain_config(cfg, list(hydra.overrides.task))
    return Run.create(Path(hydra.runtime.output_dir), config)


def assemble(run: Run) -> Experiment:
    """The experiment of a run folder, from its config."""
    config = run.config
    prior = config["prior"]
    check_prior_weight(prior["lambda"])
    device = _device(config["trainer"]["accelerator"])
    subject = subject_of(config)
    noun = _class_noun(config["class"], subject)
    backbone: Backbone = _built(config["model"]["backbone"])
    identifier = _identifier(config["identifier"], config["model"], backbone)
    names = Names(identifier, noun, prior_noun=noun or subject.class_noun)
    for template in ("a {}", *subject.prompts):
        backbone.check_prompt(template.format(names.subject), identifier)
    backbone.check_prompt(names.class_prompt)
    sampling = config["model"]["sampling"]
    scorers = scorers_of(config["metrics"], subject)
    image_samplers = samplers(sampling["images"], backbone.stages)
    parts = {
        "run": run,
        "subject": subject,
        "names": names,
        "scorers": scorers,
        "draw": lambda jobs: draw_pictures(to_device(backbone, device), jobs, image_samplers),
    }
    return Experiment(
        run=run,
        subject=subject,
        names=names,
        backbone=backbone,
        prior=Prior(
            prior["lambda"],
            prior["num_images"],
            Path(prior["cache"]),
            prior["caption_dropout"],
        ),
        prior_sampling=samplers(sampling["prior"], backbone.stages),
        sampling=image_samplers,
        drawing=Drawing(**config["drawing"]),
        module=instantiate(config["method"]["module"]),
        trainer=instantiate(config["trainer"]),
        callbacks=[_callback(settings, parts) for settings in config["callbacks"].values()],
        logger=logger_of(config, run),
        scorers=scorers,
        max_steps=config["method"]["max_steps"],
        batch_size=config["method"]["batch_size"],
        seed=config["seed"],
        device=device,
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


def logger_of(config: Mapping[str, Any], run: Run) -> Any:
    return _partial(config["logger"])(folder=run.folder, config=dict(run.config))


def reload(run: Run) -> tuple[Backbone, Names]:
    """The fine-tuned model of a finished run and its words, from nothing but its folder."""
    quieten_libraries()
    config = run.config
    backbone: Backbone = _built(
        config["model"]["backbone"] | {"pretrained": str(run.weights.resolve())}
    )
    for stage in backbone.stages.values():
        stage.denoiser.to(_device("auto"))
    return backbone, Names(**run.read_names())


def quieten_libraries() -> None:
    """Progress bars and advice of libraries, which would bury our own lines."""
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning on a new torch
    logging.getLogger().addFilter(_is_no_step)


def _is_no_step(record: logging.LogRecord) -> bool:
    """open_clip tells what it does through the root logger, which nobody else writes to."""
    return record.levelno > logging.INFO


def _built(settings: dict[str, Any]) -> Any:
    """What `settings` names. A ValueError in there is the user's sentence, and Hydra hides it."""
    try:
        return instantiate(settings)
    except InstantiationException as error:
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


def samplers(settings: dict[str, Any], stages: Mapping[str, Stage]) -> dict[str, Sampler]:
    """A sampler for each stage of a model, checked against the stage's timesteps."""
    if missing := [name for name in stages if name not in settings]:
        raise ValueError(f"model.sampling has nothing for stage {missing[0]} of this model")
    found = {name: Sampler(**settings[name]) for name in stages}
    for name, sampler in found.items():
        scheduler_of(sampler, stages[name].schedule)
    return found


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
