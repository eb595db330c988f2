"""Stopping on request: by the signal of a cluster that needs the machine, or by `kill`."""

import signal
from threading import Event, current_thread, main_thread
from types import FrameType

from dreambooth.distributed.ranks import on_rank_zero

stop_requested = Event()
received_signals: set[int] = set()  # of those that `listen_for` handles


class StoppedError(RuntimeError):
    """The run stopped on request; its work so far is saved."""


def listen_for(*signals: int) -> None:
    """Treat these signals as requests to stop, from now on. Only works in the main thread."""
    if current_thread() is main_thread():
        for signum in signals:
            signal.signal(signum, _request_stop)


def _request_stop(signum: int, _frame: FrameType | None) -> None:
    received_signals.add(signum)
    stop_requested.set()


def stop_if_requested() -> None:
    """Raise StoppedError if a stop was requested. Call it only when all work is on the disk."""
    if on_rank_zero(stop_requested.is_set):  # the ranks receive the signal at different moments
        stop_requested.set()
        raise StoppedError("stopped as asked")
