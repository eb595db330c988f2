"""Several processes of one run, its ranks: one for each device. Who is first, work split over all,
and the same answer on each of them.

RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT say who is who, as torchrun has them;
`run_ranks` sets them here, and launcher=slurm on a cluster. Without them there is one rank, and
every function is the plain thing. All ranks go through the same calls in the same order. A rank
that ends early ends the others: they lose their connection to it.
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

_SECONDS_TO_END = 10.0  # that a process has to end by itself


class RanksError(RuntimeError):
    """A rank failed; what it said itself is in its output, and in the run's status. One that was
    `killed` has said nothing, and the others only that they lost it."""

    def __init__(self, message: str, killed: bool = False) -> None:
        super().__init__(message)
        self.killed = killed


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def num_ranks() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_batch_size(group: str, size: Any, ranks: int) -> None:
    """ValueError where the batch of a training is not to be divided among so many ranks."""
    if isinstance(size, int) and size % ranks:
        raise ValueError(
            f"{group}.batch_size={size} is of all {ranks} devices: give a multiple of {ranks}"
        )


def connect() -> None:
    """This rank to the others, if there are any and it is not yet."""
    import torch
    from torch import distributed

    if num_ranks() == 1 or distributed.is_initialized():
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # what "cuda" means from now on
        backend = "cpu:gloo,cuda:nccl"
    # Long, since a rank may wait while the first one waits for another run's prior images. A rank
    # that is gone needs no timeout to be noticed: whoever started the ranks ends the others.
    distributed.init_process_group(backend, timeout=timedelta(days=1))


def disconnect() -> None:
    """Where all ranks end alike: else gloo's threads may outlive the interpreter, which aborts. A
    rank that ends early must not, or the others would find it gone before it has said why."""
    if num_ranks() > 1:
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()


def on_rank_zero(make: Callable[[], T]) -> T:
    """What rank 0 makes, or the error that it meets, on every rank. None goes on before it has."""
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
    found: T = outcome[0]
    return found


def batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Items in order, `size` at a time; the last batch has what is left."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def map_over_ranks(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """[work(item) for item in items], each item done by one rank; in order, on every rank."""
    own = [work(item) for item in items[rank() :: num_ranks()]]
    parts = _gathered(own)
    return [parts[i % len(parts)][i // len(parts)] for i in range(len(items))]


def merge_over_ranks(own: Mapping[K, T]) -> dict[K, T]:
    """The entries of all ranks' mappings, in one order everywhere."""
    return {key: value for part in _gathered(dict(own)) for key, value in part.items()}


def _gathered(own: T) -> list[T]:
    if num_ranks() == 1:
        return [own]
    from torch import distributed

    parts: list[Any] = [None] * num_ranks()
    distributed.all_gather_object(parts, own)
    return parts


def run_ranks(commands: Sequence[Sequence[str]]) -> None:
    """Run the command of each rank, all on this machine.

    RanksError as soon as one fails. The others, which lose their connection to it, have some
    seconds to say so, and are then ended. Ctrl-C goes to all of them.
    """
    env = dict(os.environ, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()))
    env.setdefault("OMP_NUM_THREADS", str(num_threads(len(commands))))
    processes: list[subprocess.Popen] = []
    try:
        for i, command in enumerate(commands):
            own = {"RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": str(len(commands))}
            processes.append(start_process(command, env | own))
        while any(process.poll() is None for process in processes):
            _check(processes)
            time.sleep(0.05)
        _check(processes)
    except KeyboardInterrupt:
        interrupt_processes(processes)
        raise
    finally:
        end_processes(processes)


def _check(processes: Sequence[subprocess.Popen]) -> None:
    for i, process in enumerate(processes):
        if process.poll():
            how = f"rank {i} of {len(processes)} {exit_in_words(process.returncode)}"
            raise RanksError(how, killed=process.returncode < 0)


def exit_in_words(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by {signal.Signals(-code).name}"


def num_threads(num_processes: int) -> int:
    """Of each of so many processes that share this machine's cores."""
    return max(1, len(os.sched_getaffinity(0)) // num_processes)


def start_process(
    command: Sequence[str], env: Mapping[str, str], output: Any = None
) -> subprocess.Popen:
    """A process, `output` being an open file. It does not hear the terminal's Ctrl-C, but ends with
    this process, even if that is killed (on Linux, which has setpriv)."""
    with_this = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    return subprocess.Popen(
        [*with_this, *command],
        env=env,
        stdout=output,
        stderr=output and subprocess.STDOUT,
        process_group=0,
    )


def interrupt_processes(processes: Sequence[subprocess.Popen]) -> None:
    """As Ctrl-C does."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)


def end_processes(processes: Sequence[subprocess.Popen]) -> None:
    """Of those that are left: ten seconds to end by themselves, ten once asked to, then none."""
    for stop in (None, signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            if stop is not None and process.poll() is None:
                process.send_signal(stop)
        last = time.monotonic() + _SECONDS_TO_END
        while any(p.poll() is None for p in processes) and time.monotonic() < last:
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
