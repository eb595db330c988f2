"""Stopping on request: by Ctrl-C, by `kill`, or by a cluster that needs the machine.

The first request lets the step that runs finish and saves what there is; a second Ctrl-C ends the
process at once.
"""

import os
import signal
import sys
from threading import Event, current_thread, main_thread
from types import FrameType

from dreambooth.distributed.ranks import on_rank_zero

stop_requested = Event()
received_signals: set[int] = set()  # of those that `listen_for` handles


class StoppedError(RuntimeError):
    """The run stopped on request; its work so far is saved."""


def listen_for(*signals: int) -> None:
    """Treat these signals as requests to stop, from now on. Only works in the main thread.

    A signal that the process was started to ignore, as a shell does for SIGINT with `&`, stays
    ignored.
    """
    if current_thread() is main_thread():
        for signum in signals:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, _request_stop)


def _request_stop(signum: int, _frame: FrameType | None) -> None:
    if signum == signal.SIGINT:
        if signum in received_signals:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        if os.environ.get("RANK", "0") == "0":
            sys.stderr.write("\nstopping: what is done is being saved (Ctrl-C again: at once)\n")
    received_signals.add(signum)
    stop_requested.set()


def exit_code_of_stop() -> int | None:
    """128 + the signal that asked for a stop, as a shell has it; None without one.

    The signals of a cluster that queues the job again are not errors, and have none.
    """
    for signum in (signal.SIGTERM, signal.SIGINT):
        if signum in received_signals:
            return 128 + signum
    return None


def stop_if_requested() -> None:
    """Raise StoppedError if a stop was requested. Call it only when all work is on the disk."""
    if on_rank_zero(stop_requested.is_set):  # the ranks receive the signal at different moments
        stop_requested.set()
        raise StoppedError("stopped as asked")
