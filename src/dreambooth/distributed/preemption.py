"""A stop that was asked for, as a cluster does before it takes a machine away, or `kill` does."""

import signal
from threading import Event, current_thread, main_thread
from types import FrameType

from dreambooth.distributed.ranks import on_rank_zero

stop_requested = Event()  # set by whoever hears it
received_signals: set[int] = set()  # the signals


class StoppedError(RuntimeError):
    """The run stopped because it was asked to; what it has done is kept."""


def listen_for(*signals: int) -> None:
    """From now on these signals ask for a stop (of the main thread, which alone hears them)."""
    if current_thread() is main_thread():
        for one in signals:
            signal.signal(one, _hear)


def _hear(signum: int, _frame: FrameType | None) -> None:
    received_signals.add(signum)
    stop_requested.set()


def stop_if_requested() -> None:
    """StoppedError if a stop was asked for: called wherever all that is done is on the disk."""
    if on_rank_zero(stop_requested.is_set):  # the ranks of a run hear of it at different moments
        stop_requested.set()
        raise StoppedError("stopped as asked")
