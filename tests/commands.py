"""The project's commands as a user gives them, in this process (fast) or in one of their own."""

import contextlib
import io
import json
import logging
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    output: str  # stdout and stderr

    @property
    def sentence(self) -> str:
        """The one line that an unsuccessful command says instead of a traceback."""
        assert self.code == 1, self.output
        lines = self.output.strip().splitlines()
        assert len(lines) == 1, self.output
        return lines[0].partition("[ERROR] - ")[2] or lines[0]


def last_of_each(words: Iterable[object]) -> list[str]:
    """The words of a command without settings that a later word replaces, which it may not have."""
    texts = list(map(str, words))
    setting = re.compile(r"\+*([\w@][\w@./]*)=")
    last = {found[1]: i for i, text in enumerate(texts) if (found := setting.match(text))}
    return [t for i, t in enumerate(texts) if not (f := setting.match(t)) or last[f[1]] == i]


def command(script: str, *overrides: object) -> Ended:
    """`python src/SCRIPT.py OVERRIDES` in this process, from the repository's root.

    Of a setting that is given twice, the last counts, so that tests can change shared ones.
    """
    return typed(script, *last_of_each(overrides))


def typed(script: str, *overrides: object, folder: Path = ROOT) -> Ended:
    """`python src/SCRIPT.py OVERRIDES` in this process and in `folder`, with these words."""
    return here(f"src/{script}.py", *overrides, folder=folder)


def here(path: str, *words: object, folder: Path = ROOT) -> Ended:
    """`python PATH WORDS` in this process, which has imported all, and in `folder`."""
    out, code = io.StringIO(), 0
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        path = path if folder == ROOT else str(ROOT / path)
        patch.setattr(sys, "argv", [path, *map(str, words)])
        patch.setattr(sys, "path", [str((ROOT / path).parent), *sys.path])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                runpy.run_path(path, run_name="__main__")
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 1
                if isinstance(ended.code, str):  # Python's own way to say it
                    out.write(f"{ended.code}\n")
            finally:
                for handler in root.handlers:
                    if handler not in handlers:
                        handler.close()
                root.handlers[:] = handlers  # Hydra's own write into `out`
                root.setLevel(level)
    return Ended(code, out.getvalue())


def process(*arguments: object) -> Ended:
    """`python ARGUMENTS` from the repository's root, in a process of its own, as `command`."""
    # Without the W&B service of this process, which outlives the other's teardown.
    environment = {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"}
    ended = subprocess.run(
        [sys.executable, *last_of_each(arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout)


def in_turn_by_two(*runs: tuple[int, Iterable[object]]) -> Ended:
    """Runs of `python src/train.py` by the same two processes, each (its exit code, OVERRIDES)."""
    given = json.dumps([(code, last_of_each(words)) for code, words in runs])
    ended = process("tests/distributed/turns.py", given)
    assert ended.code == 0, ended.output
    return ended


def smoke(tiny: Path, prior: Path) -> tuple[str, ...]:
    """Overrides of a run of everything in about a second."""
    return (
        "experiment=smoke",
        "trainer=cpu",
        f"model.backbone.pretrained={tiny}",
        f"prior.cache={prior}",
    )


def train(tiny: Path, folder: Path, *overrides: object) -> Ended:
    """A smoke run into `folder`, with its prior cache beside it and losses in a CSV file."""
    own = smoke(tiny, folder.parent / "prior")
    return command("train", *own, "logger=csv", f"hydra.run.dir={folder}", *overrides)


def same_files(a: Path, b: Path, pattern: str) -> bool:
    """Whether two folders hold the same files of a pattern, with the same bytes."""
    left, right = ({p.relative_to(f): p.read_bytes() for p in f.rglob(pattern)} for f in (a, b))
    assert left, f"{a} has no {pattern}"
    return left == right


@contextlib.contextmanager
def stopped_before_step(step: int) -> Iterator[None]:
    """Commands in this process are asked to stop, as by SIGTERM, before this training step."""
    from dreambooth.distributed import preemption
    from dreambooth.training.checkpoints import Checkpoints

    begin = Checkpoints.on_train_batch_start

    def stop(self, trainer, module, batch, index):  # type: ignore[no-untyped-def]
        if trainer.global_step == step:
            preemption.stop_requested.set()
        begin(self, trainer, module, batch, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_start", stop)
        yield
    preemption.stop_requested.clear()
