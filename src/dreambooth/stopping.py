"""A stop that was asked for, as a cluster does before it takes a machine away."""

from threading import Event

from dreambooth.parallel import first

asked = Event()  # set by whoever hears it; a signal handler may


class StoppedError(RuntimeError):
    """The run stopped because it was asked to; what it has done is kept."""


def stop_if_asked() -> None:
    """StoppedError if a stop was asked for: called wherever all that is done is on the disk."""
    if first(asked.is_set):  # the ranks of a run hear of it at different moments
        asked.set()
        raise StoppedError("stopped as asked")
