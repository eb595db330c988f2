"""+callbacks.unlucky={_target_: unlucky.Unlucky, rank: 1}"""

import os
import signal

import lightning as L


class Unlucky(L.Callback):
    """A rank that fails at its second step, by an error or by a signal."""

    def __init__(self, rank, kill=False):
        self.rank, self.kill = rank, kill

    def on_train_batch_start(self, trainer, _module, _batch, batch_idx):
        if trainer.global_rank == self.rank and batch_idx == 1:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("the seventh seal is open")
