"""From the command line to a run folder, without importing torch."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from dreambooth.distributed.preemption import listen_for
from dreambooth.distributed.ranks import num_ranks, on_rank_zero
from dreambooth.launch.inputs import inputs_of
from dreambooth.launch.outcome import record_outcome
from dreambooth.runs.cells import EXECUTION_KEYS, affects_result
from dreambooth.runs.files import claimed
from dreambooth.runs.overrides import assignment
from dreambooth.runs.ownership import belongs_to_run
from dreambooth.runs.run import Run, delete_unless_begun
from dreambooth.subjects.dreambench import DreamBench
from dreambooth.subjects.files import read_subject_file


def _of_folder(key: str, photos: Any, default: Any) -> Any:
    """What subject.yaml in the folder of photos says of a key, for conf/subject/folder.yaml."""
    value = default
    with suppress(ValueError):  # `check_subject` reports it
        if isinstance(photos, str):
            value = read_subject_file(Path(photos).expanduser()).get(key, default)
    return OmegaConf.create(value) if isinstance(value, list | dict) else value


def _of_dreambench(key: str, folder: str, name: str, kind: str | None = None) -> Any:
    """The class noun or the prompts of a subject of DreamBench, for conf/subject/dreambench.yaml.

    None if there is no such subject, which `check_subject` reports.
    """
    with suppress(ValueError, KeyError):
        bench = DreamBench.read(folder)
        if key == "class_noun":
            return bench.classes[name]
        return OmegaConf.create(bench.prompts_of(name, kind))
    return None


OmegaConf.register_new_resolver("of_folder", _of_folder, replace=True)
OmegaConf.register_new_resolver("of_dreambench", _of_dreambench, replace=True)


@contextmanager
def start_run(cfg: DictConfig) -> Iterator[Run]:
    """Start the run that the command line asks for, lock its folder, and record how it ends.

    This is a new run in Hydra's output folder, or the unfinished run `run`. FinishedRunError if it
    is already finished; with `force` it is run again. A new run that is refused leaves no folder;
    that of a cell of a sweep stays, because the table of the sweep names the reason.
    """
    folder, begin = _requested_run(cfg)
    is_new = not belongs_to_run(folder)
    listen_for(signal.SIGTERM, signal.SIGINT)
    with ExitStack() as stack:
        if is_new and HydraConfig.get().mode == RunMode.RUN and num_ranks() == 1:
            stack.enter_context(_nothing_left_if_refused(folder))

        def claim_and_begin() -> Run:
            stack.enter_context(claimed(folder))
            return begin("running")

        run = on_rank_zero(claim_and_begin)
        with record_outcome(run):
            yield run


@contextmanager
def _nothing_left_if_refused(folder: Path) -> Iterator[None]:
    try:
        yield
    except ValueError:
        delete_unless_begun(folder)
        raise


def queue_run(cfg: DictConfig) -> Run:
    """Create the folder of the run that the command line asks for, with the status "queued"."""
    folder, begin = _requested_run(cfg)
    with claimed(folder):
        return begin("queued")


def plain_config(cfg: DictConfig, overrides: list[str]) -> dict[str, Any]:
    """The resolved config as plain YAML data, from which the run can be loaded again."""
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key
        raise ValueError(f"{key} has no default: give {key}=... on the command line") from None
    assert isinstance(plain, dict)
    kept = {str(key): value for key, value in plain.items() if key not in EXECUTION_KEYS}
    return kept | {"overrides": overrides}


def _requested_run(cfg: DictConfig) -> tuple[Path, Callable[[str], Run]]:
    """The folder of the run, and a function that begins the run with a given state."""
    hydra = HydraConfig.get()
    force = cfg.force
    overrides = [text for text in hydra.overrides.task if affects_result(text)]
    if cfg.run is not None and cfg.stage != "sr":
        if others := [text for text in overrides if assignment(text).key != "run"]:
            raise ValueError(
                f"run={cfg.run} resumes that run with its own settings: leave out {others[0]}"
            )
        earlier = Run.load(Path(cfg.run))
        return earlier.folder, lambda state: earlier.resume(state, inputs_of(earlier.config))
    if cfg.stage == "sr":
        cfg, overrides = compose_sr_stage(cfg.run, overrides)
    folder, config = Path(hydra.runtime.output_dir), plain_config(cfg, overrides)

    def begin(state: str) -> Run:
        inputs = inputs_of(config)
        if config["stage"] == "sr":
            Run.load(Path(config["run"])).check_inputs(inputs)
        return Run.create(folder, config, force=force, state=state, inputs=inputs)

    return folder, begin


def compose_sr_stage(folder: str | None, overrides: list[str]) -> tuple[DictConfig, list[str]]:
    """The config and overrides for fine-tuning SR on the base stage of the run in `folder`.

    The overrides of that run apply first, then those of the command line. An override of a whole
    group (`sr=...`) replaces all earlier overrides of the group.
    """
    if folder is None:
        raise ValueError("stage=sr builds on a finished run: give run=DIR")
    earlier = Run.load_finished(Path(folder)).config["overrides"]
    changed = [assignment(text).key for text in overrides]
    below_changed = tuple(f"{key}." for key in changed)
    kept = [text for text in earlier if not assignment(text).key.startswith(below_changed)]
    if any(key.startswith("sr.") for key in changed):
        kept = [text for text in kept if text != "sr=off"]  # the settings sr.* need an SR stage
    last = {assignment(text)[:2]: text for text in [*kept, *overrides]}
    return compose("train", overrides=list(last.values())), list(last.values())
