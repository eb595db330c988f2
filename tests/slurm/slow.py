"""Time to be disturbed in: +callbacks.slow={_target_: slow.Slow, seconds: 0.1}"""

import time
from pathlib import Path

import lightning as L


class Slow(L.Callback):
    """Sleeps after each step; after the first of all it waits for a file `go`, if it is given a
    folder for it, where it leaves a file `waits`. The bits of a training do not change."""

    def __init__(self, seconds, folder=None):
        self.seconds, self.folder = seconds, folder and Path(folder)

    def on_train_batch_end(self, *_):
        time.sleep(self.seconds)
        if self.folder and not (self.folder / "go").exists():
            (self.folder / "waits").touch()
            while not (self.folder / "go").exists():
                time.sleep(0.1)
