"""Refuse a command that cannot work: before anything is written, and before torch is imported."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreambooth.distributed.ranks import rank
from dreambooth.launch.hydra_messages import choices, hydra_sentence, no_such_setting
from dreambooth.launch.processes import check_one_node, checked_num_ranks
from dreambooth.launch.start import compose_sr_stage, plain_config
from dreambooth.metrics.sources import check_encoders, metrics_are_chosen
from dreambooth.runs.cells import affects_result
from dreambooth.runs.checks import check_config, check_objective, check_writable
from dreambooth.runs.frontier import frontier_of
from dreambooth.runs.hub import check_model
from dreambooth.runs.overrides import assignment
from dreambooth.runs.run import Run
from dreambooth.runs.settings import Evaluate, Execution, as_typed, check_count, read
from dreambooth.subjects.dreambench import DreamBench
from dreambooth.subjects.files import photo_files, read_subject_file
from dreambooth.subjects.prompts import check_one_word, kind_of_noun, resolve_kind

_REQUIRED_GROUPS = (
    *("subject", "class", "prior", "identifier", "method", "metrics", "callbacks", "trainer"),
    *("sr", "model", "logger", "launcher"),
)
_USER_ERRORS = (ValueError, HydraException, OmegaConfBaseException)
_EXTENSIBLE_GROUPS = ("callbacks", "hydra", "logger", "metrics", "trainer")  # new keys allowed


class Checks(Callback):
    """Checks the command of a single run; `Folders` in sweep.py checks the cells of a sweep."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        with refuse():
            for text in config.hydra.overrides.task:
                key, value = assignment(text)[1:]
                if key.startswith("launcher.") or (key == "report" and value != "none"):
                    raise ValueError(f"{text} is for a sweep: add -m, or leave it out")
            cell = check_cell(config)
            check_one_node(config)
            check_writable("hydra.run.dir", config.hydra.run.dir)
            if cell:
                _check_weights(cell, config.objective)


def check_search(config: DictConfig) -> None:
    """ValueError if the runs of a search cannot have the score that it optimizes."""
    groups = OmegaConf.masked_copy(config, ["metrics", "model"])
    plain: Any = OmegaConf.to_container(groups, resolve=True)
    check_objective(config.objective, plain)
    if config.objective is not None and not _is_for_slurm(config):
        check_encoders(plain["metrics"])


def _is_for_slurm(config: DictConfig) -> bool:
    """Whether runs are for other machines: a login node may be unable to load a model."""
    return config.hydra.runtime.choices.get("launcher") == "slurm"


def _check_weights(cell: dict[str, Any], objective: str | None) -> None:
    """ValueError if the model's weights are unavailable, or encoders that the command requires.

    Encoders are required if the command sets the metrics or the objective. If the metrics are only
    the model's default, missing encoders are no error: the run is not scored. They are looked for
    all the same, because this asks all servers at once and remembers those without an answer.
    """
    check_model(cell)
    needed = metrics_are_chosen(cell["overrides"]) or objective is not None
    with nullcontext() if needed else suppress(ValueError):
        check_encoders(cell["metrics"])


@contextmanager
def refuse() -> Iterator[None]:
    """End the command with one sentence if it cannot work.

    Hydra turns other exceptions of a callback into warnings.
    """
    try:
        yield
    except _USER_ERRORS as error:
        sys.exit(hydra_sentence(error) if rank() == 0 else 1)


def check_cell(config: DictConfig) -> dict[str, Any]:
    """Check the composed config of one run, and return it as plain data.

    {} if the command resumes a run, which has its own config.
    """
    execution = read(Execution, {key: config.get(key) for key in ("force", "objective", "run")})
    overrides = list(config.hydra.overrides.task)
    if config.get("stage") != "sr" and execution.run is not None:
        Run.load(Path(execution.run))
        return {}
    for group in _REQUIRED_GROUPS:
        if config.get(group) is None:
            raise ValueError(f"{group} is left out: choose from {', '.join(choices(group))}")
    for experiment, key in (("metric_validity", "bench"), ("frontier", "frontier")):
        if key in config:
            raise ValueError(f"experiment={experiment} is for src/evaluate.py")
    _check_added(config, overrides)
    kept = [text for text in overrides if affects_result(text)]
    if config.stage == "sr":
        config, kept = compose_sr_stage(execution.run, kept)
    groups = [str(key) for key in config if key != "hydra"]
    plain = plain_config(OmegaConf.masked_copy(config, groups), kept)
    check_config(plain)
    check_subject(plain)
    if plain["identifier"]["text"] is not None:
        check_one_word(plain["identifier"]["text"])
    checked_num_ranks(config)
    check_objective(execution.objective, plain)
    check_count("launcher.jobs", config.launcher.jobs)
    return plain


def check_evaluation(config: Mapping[str, Any]) -> str:
    """Check a command of src/evaluate.py; return what is scored: run, frontier, images or bench."""
    given = [key for key in ("run", "images", "bench") if config[key] is not None]
    if len(given) != 1:
        raise ValueError(
            "give one of run=DIR (a finished run), images=PATH (any system's images, in a "
            "folder or a CSV file) and experiment=metric_validity, "
            f"not {' and '.join(given) or 'none'}"
        )
    read(Evaluate, config)
    check_subject(config)
    check_writable("into", config["into"])
    frontier = frontier_of(config)
    check_encoders(config["metrics"])
    return given[0] if frontier is None else "frontier"


def check_subject(config: Mapping[str, Any]) -> None:
    """ValueError for missing photos, and for a kind that contradicts the class noun.

    Only new commands are checked: older runs may have such a kind.
    """
    subject = config.get("subject")
    if not isinstance(subject, Mapping) or "kind" not in subject:
        return  # a subject of the drawn world
    photos = subject.get("photos")
    if photos is None:
        raise ValueError("photos has no default: give photos=... on the command line")
    if not isinstance(photos, str) or not photos:
        raise ValueError(f"photos={as_typed(photos)}: give the folder with photos of the subject")
    if "dreambench" in config:
        DreamBench.read(config["dreambench"]).check(subject["name"])
    folder = Path(photos).expanduser()
    photo_files(folder)
    read_subject_file(folder)
    if subject["class_noun"] is None:
        raise ValueError(
            "class_noun has no default: give class_noun=... on the command line, or the line "
            f"class_noun: ... in {folder / 'subject.yaml'}"
        )
    noun, given = as_typed(subject["class_noun"]), subject["kind"]
    kind, known = resolve_kind(given, noun), kind_of_noun(noun)
    if known not in (kind, None):
        raise ValueError(
            f"subject.kind={kind} contradicts class_noun={noun}, a subject of the kind {known}: "
            "leave subject.kind out"
        )


def check_jobs(config: DictConfig, jobs: Sequence[Sequence[str]], finished: Sequence[bool]) -> None:
    """Check the cells of a sweep, each given by its overrides, and whether it is finished.

    ValueError for the first cell that cannot run, and for two cells that are the same run.
    """
    loader = GlobalHydra.instance().config_loader()
    shared = set.intersection(*map(set, jobs))
    labels = [" ".join(text for text in job if text not in shared) for job in jobs]
    cells: list[dict[str, Any]] = []
    seen: dict[str, str] = {}
    for job, label in zip(jobs, labels, strict=True):
        with _named(label):
            cells.append(check_cell(loader.load_sweep_config(config, list(job))))
        content = repr(_canonical({k: v for k, v in cells[-1].items() if k != "overrides"}))
        if cells[-1] and content in seen:
            twice = f"{seen[content]} and {label}" if label else f"{' '.join(job)}, twice,"
            raise ValueError(f"{twice} are the same run: leave one out")
        seen[content] = label
    new = [
        pair
        for pair, done in zip(zip(cells, labels, strict=True), finished, strict=True)
        if pair[0] and not done
    ]
    if not new or _is_for_slurm(config):
        return
    for cell, label in new:
        with _named(label):
            _check_weights(cell, config.objective)
    from dreambooth.assemble import config_checker  # here, because it is slow to import

    check = config_checker()
    for cell, label in new:
        with _named(label):
            check(cell)


@contextmanager
def _named(label: str) -> Iterator[None]:
    """Raise what goes wrong as a ValueError that names the cell."""
    try:
        yield
    except _USER_ERRORS as error:
        cell = f"no cell is started, because {label} cannot run: " if label else ""
        raise ValueError(f"{cell}{hydra_sentence(error)}") from error


def _canonical(value: Any) -> Any:
    """Plain data in which 1.0 is 1, for comparison."""
    if isinstance(value, dict):
        return {key: _canonical(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_canonical(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_added(config: DictConfig, overrides: Sequence[str]) -> None:
    """ValueError for a key added by `+` where nothing reads it.

    A class that the config names by `_target_` refuses what it does not take when it is built.
    """
    added = [text for text in overrides if assignment(text).prefix.startswith("+")]
    if not added:
        return
    of_hydra = config.hydra.overrides.hydra
    others = [text for text in of_hydra if assignment(text).key == "hydra.searchpath"]
    others += [text for text in overrides if text not in added]
    loader = GlobalHydra.instance().config_loader()
    default = loader.load_configuration(
        config.hydra.job.config_name, others, run_mode=config.hydra.mode
    )
    for text in added:
        key = assignment(text).key
        parents = [key.rpartition(".")[0]]
        while parents[-1]:
            parents.append(parents[-1].rpartition(".")[0])
        nodes = [OmegaConf.select(default, parent) for parent in parents if parent]
        has_reader = any(OmegaConf.is_dict(node) and "_target_" in node for node in nodes)
        open_group = key.partition(".")[0] in _EXTENSIBLE_GROUPS or key.startswith(
            ("launcher.additional_parameters.", "model.sampling.")
        )
        is_group = "." not in key and loader.get_group_options(key.partition("@")[0])
        exists = OmegaConf.select(default, key) is not None
        if not (has_reader or open_group or is_group or exists):
            raise ValueError(no_such_setting(key, default))
