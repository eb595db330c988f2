"""+callbacks.unlucky={_target_: unlucky.Unlucky, rank: 1}"""

import gc
import json
import os
import signal
import time
from pathlib import Path

import lightning as L
from torch.distributed.tensor import DTensor

from dreambooth.distributed.preemption import stop_requested
from dreambooth.distributed.ranks import rank


class Unlucky(L.Callback):
    """A rank that fails at a step, by an error or by a signal; or does so once only: if a file is
    not there, which it then makes."""

    def __init__(self, rank, kill=False, step=1, once=None):
        self.rank, self.kill, self.step, self.once = rank, kill, step, once and Path(once)

    def on_train_batch_start(self, trainer, _module, _batch, batch_idx):
        if self.once and self.once.exists():
            return
        if trainer.global_rank == self.rank and trainer.global_step == self.step:
            if self.once:
                self.once.touch()
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("the seventh seal is open")


class Slow(L.Callback):
    """Steps that a signal can come between."""

    def on_train_batch_start(self, *_):
        time.sleep(0.3)


class Held(L.Callback):
    """Writes how many numbers this rank holds parts of as the SR stage's training begins, but for
    that stage's own."""

    def __init__(self, file):
        self.file = f"{file}-{rank()}"

    def on_train_start(self, _trainer, pl_module):
        if pl_module.prefix == "sr/":
            own = {id(parameter) for parameter in pl_module.parameters()}
            tensors = [one for one in gc.get_objects() if isinstance(one, DTensor)]
            others = [one.numel() for one in tensors if id(one) not in own]
            Path(self.file).write_text(json.dumps([len(tensors), sum(others)]))


class Parts(L.Callback):
    """Writes how many numbers this rank holds at the end, of the weights and of Adam's averages of
    them, and how many there are."""

    def __init__(self, file):
        self.file = f"{file}-{rank()}"

    def on_train_batch_end(self, trainer, pl_module, *_):
        states = trainer.optimizers[0].state
        weights = [weight for weight in pl_module.parameters() if weight in states]
        here = [
            sum(held.to_local().numel() for held in tensors)
            for tensors in (weights, [states[weight]["exp_avg"] for weight in weights])
        ]
        total = sum(weight.numel() for weight in weights)
        Path(self.file).write_text(json.dumps([*here, total]))


class Told(L.Callback):
    """Asks the run to stop at a step, as SIGTERM would: if a file is not there, which it makes."""

    def __init__(self, step, once):
        self.step, self.once = step, Path(once)

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step and rank() == 0 and not self.once.exists():
            self.once.touch()
            stop_requested.set()
