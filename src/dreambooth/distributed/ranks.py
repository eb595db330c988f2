"""The ranks of a run: one process for each device, sharing work and results.

Ranks are identified by torchrun's variables RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT. `run_ranks` sets them on one machine, launcher=slurm on a cluster. Without them there
is one rank, and every function runs locally.

All ranks must make the same calls in the same order. When a rank ends early, the others fail,
because they lose their connection to it.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K")

_SECONDS_TO_END = 10.0  # how long to wait for a process to end, before each stronger signal


class RanksError(RuntimeError):
    """A rank failed. The reason is in its output and in the run's status.

    A rank that was `killed` left no reason, and the others report only that they lost it.
    """

    def __init__(self, message: str, killed: bool = False) -> None:
        super().__init__(message)
        self.killed = killed


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def num_ranks() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_batch_size(group: str, size: Any, ranks: int) -> None:
    """ValueError if a training batch cannot be divided evenly among the ranks."""
    if isinstance(size, int) and size % ranks:
        raise ValueError(
            f"{group}.batch_size={size} is split over {ranks} devices: give a multiple of {ranks}"
        )


def connect() -> None:
    """Connect this rank to the others. Does nothing for a single rank or if already connected."""
    import torch
    from torch import distributed

    if num_ranks() == 1 or distributed.is_initialized():
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # the meaning of "cuda" from here on
        backend = "cpu:gloo,cuda:nccl"
    # The timeout is long because ranks wait while rank 0 waits for another run's prior images. A
    # dead rank is noticed without it: the process that started the ranks ends the others.
    distributed.init_process_group(backend, timeout=timedelta(days=1))


def disconnect() -> None:
    """Disconnect this rank. Call it only where all ranks end together.

    Otherwise gloo's threads may outlive the interpreter, which then aborts. A rank that fails on
    its own must not call this: the others would lose it before it has recorded why.
    """
    if num_ranks() > 1:
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()


def on_rank_zero(make: Callable[[], T]) -> T:
    """Call `make` on rank 0; return its result, or raise its error, on every rank."""
    if num_ranks() == 1:
        return make()
    from torch import distributed

    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = make()
        except Exception as error:
            outcome[1] = error
    distributed.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result


def batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Split items, in order, into batches of `size`; the last one may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def map_over_ranks(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """[work(item) for item in items] on every rank, with the items shared out among the ranks."""
    parts = _all_gather([work(item) for item in items[rank() :: num_ranks()]])
    return [parts[i % len(parts)][i // len(parts)] for i in range(len(items))]


def merge_over_ranks(entries: Mapping[K, T]) -> dict[K, T]:
    """Merge the mappings of all ranks; the order is the same on every rank."""
    return {key: value for part in _all_gather(dict(entries)) for key, value in part.items()}


def _all_gather(value: T) -> list[T]:
    """The values of all ranks, in the order of the ranks."""
    if num_ranks() == 1:
        return [value]
    from torch import distributed

    parts: list[Any] = [None] * num_ranks()
    distributed.all_gather_object(parts, value)
    return parts


def run_ranks(
    commands: Sequence[Sequence[str]], stop_requested: Callable[[], bool] = lambda: False
) -> None:
    """Run the commands of all ranks on this machine.

    RanksError as soon as one rank fails. The others lose their connection to it; they get some
    seconds to record that, and are then ended. A request to stop is passed on to all ranks, which
    then have all the time that they need to save.
    """
    env = dict(os.environ, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()))
    env.setdefault("OMP_NUM_THREADS", str(num_threads(len(commands))))
    processes: list[subprocess.Popen] = []
    try:
        for i, command in enumerate(commands):
            ids = {"RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": str(len(commands))}
            processes.append(start_process(command, env | ids))
        interrupted = False
        while any(process.poll() is None for process in processes):
            if stop_requested() and not interrupted:
                interrupt_processes(processes)
                interrupted = True
            if not interrupted:
                _raise_if_failed(processes)
            time.sleep(0.05)
        if not interrupted:
            _raise_if_failed(processes)
    finally:
        end_processes(processes)


def _raise_if_failed(processes: Sequence[subprocess.Popen]) -> None:
    for i, process in enumerate(processes):
        if process.poll():
            how = f"rank {i} of {len(processes)} {exit_in_words(process.returncode)}"
            raise RanksError(how, killed=process.returncode < 0)


def exit_in_words(code: int) -> str:
    """Describe how a process ended."""
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by {signal.Signals(-code).name}"


def num_threads(num_processes: int) -> int:
    """The number of threads for each of several processes that share this machine's cores."""
    return max(1, num_cores() // num_processes)


def num_cores() -> int:
    """The cores that this process may use; those of the machine where the system has no such limit,
    as macOS."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start_process(
    command: Sequence[str], env: Mapping[str, str], output: Any = None
) -> subprocess.Popen:
    """Start a process that writes to `output`, an open file.

    The terminal's Ctrl-C does not reach it. With setpriv (Linux) it ends when this process ends,
    even if this process is killed.
    """
    end_with_parent = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    return subprocess.Popen(
        [*end_with_parent, *command],
        env=env,
        stdout=output,
        stderr=output and subprocess.STDOUT,
        process_group=0,
    )


def interrupt_processes(processes: Sequence[subprocess.Popen]) -> None:
    """Send SIGINT, as Ctrl-C does, to the processes that still run; SIGTERM if they ignore it, as
    those that a shell has started with `&`."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM if ignored else signal.SIGINT)


def end_processes(processes: Sequence[subprocess.Popen]) -> None:
    """Wait ten seconds for processes to end, then send SIGTERM, and ten seconds later SIGKILL."""
    for signum in (None, signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            if signum is not None and process.poll() is None:
                process.send_signal(signum)
        deadline = time.monotonic() + _SECONDS_TO_END
        while any(p.poll() is None for p in processes) and time.monotonic() < deadline:
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
