"""Time to be disturbed in: +callbacks.slow={_target_: slow.Slow, seconds: 0.1}"""

import time

import lightning as L


class Slow(L.Callback):
    """Sleeps after each step; the bits of a training do not change."""

    def __init__(self, seconds):
        self.seconds = seconds

    def on_train_batch_end(self, *_):
        time.sleep(self.seconds)
