"""From the command line to a run folder, without loading torch."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from dreambooth.distributed.preemption import listen_for
from dreambooth.distributed.ranks import on_rank_zero
from dreambooth.launch.outcome import record_outcome
from dreambooth.runs.cells import EXECUTION_KEYS, affects_result
from dreambooth.runs.files import claimed
from dreambooth.runs.overrides import assignment
from dreambooth.runs.run import Run


@contextmanager
def start_run(cfg: DictConfig) -> Iterator[Run]:
    """The run that the command line asks for, for this process alone; its status tells how it ends.

    It is in the folder that Hydra says, with the resolved config; or it is the unfinished run
    `run`. FinishedRunError if it is finished, unless `force`; then it is done again.
    """
    folder, begin = _asked_for(cfg)
    listen_for(signal.SIGTERM)
    with ExitStack() as stack:

        def claim_and_begin() -> Run:
            stack.enter_context(claimed(folder))
            return begin("running")

        run = on_rank_zero(claim_and_begin)
        with record_outcome(run):
            yield run


def queue_run(cfg: DictConfig) -> Run:
    """The same run, in a folder that says that it waits to be started."""
    folder, begin = _asked_for(cfg)
    with claimed(folder):
        return begin("queued")


def plain_config(cfg: DictConfig, overrides: list[str]) -> dict[str, Any]:
    """The resolved config as plain YAML data: enough to load the run."""
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key
        raise ValueError(f"{key} has no default: give {key}=... on the command line") from None
    assert isinstance(plain, dict)
    kept = {str(key): value for key, value in plain.items() if key not in EXECUTION_KEYS}
    return kept | {"overrides": overrides}


def _asked_for(cfg: DictConfig) -> tuple[Path, Callable[[str], Run]]:
    """A run's folder, and what begins it there, in the state that it is given."""
    hydra = HydraConfig.get()
    force = cfg.force
    overrides = [text for text in hydra.overrides.task if affects_result(text)]
    if cfg.run is not None and cfg.stage != "sr":
        if others := [text for text in overrides if assignment(text).key != "run"]:
            raise ValueError(
                f"run={cfg.run} goes on with that run as it was started: leave out {others[0]}"
            )
        there = Run.load(Path(cfg.run))
        return there.folder, there.resume
    if cfg.stage == "sr":
        cfg, overrides = compose_sr_stage(cfg.run, overrides)
    folder, config = Path(hydra.runtime.output_dir), plain_config(cfg, overrides)
    return folder, lambda state: Run.create(folder, config, replace=force, state=state)


def compose_sr_stage(folder: str | None, overrides: list[str]) -> tuple[DictConfig, list[str]]:
    """The config of the run whose base stage is taken over, with what the command line changes: a
    group of it (`sr=...`) replaces all that was said of that group."""
    if folder is None:
        raise ValueError("stage=sr goes on from a finished run: give run=DIR")
    earlier = Run.load_finished(Path(folder)).config["overrides"]
    said = [assignment(text).key for text in overrides]
    kept = [t for t in earlier if not assignment(t).key.startswith(tuple(f"{k}." for k in said))]
    if any(key.startswith("sr.") for key in said):
        kept = [text for text in kept if text != "sr=off"]  # which has no settings
    last = {assignment(text)[:2]: text for text in [*kept, *overrides]}
    return compose("train", overrides=list(last.values())), list(last.values())
