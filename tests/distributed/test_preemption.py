"""Requests to stop, in a process of their own."""

import signal
import subprocess
import sys

import pytest

LISTENING = """
import signal, time
from dreambooth.distributed.preemption import listen_for, stop_requested
listen_for(signal.SIGINT, signal.SIGTERM)
print("listening", flush=True)
assert stop_requested.wait(60)
print("requested", flush=True)
time.sleep(60)
"""


@pytest.fixture
def listening():
    """A process that goes on after a request to stop, as a slow training step does."""
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENING],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout.readline() == "listening\n"
    yield process
    process.kill()


def test_a_second_ctrl_c_ends_at_once_without_a_traceback(listening):
    listening.send_signal(signal.SIGINT)
    while (line := listening.stdout.readline()) != "requested\n":
        assert "Traceback" not in line
    assert listening.poll() is None, "the first one is only a request"
    listening.send_signal(signal.SIGINT)
    assert listening.wait(20) == -signal.SIGINT
    assert listening.stdout.read() == ""


def test_sigterm_stays_a_request_however_often_it_comes(listening):
    for _ in range(2):
        listening.send_signal(signal.SIGTERM)
    assert listening.stdout.readline() == "requested\n"
    with pytest.raises(subprocess.TimeoutExpired):
        listening.wait(1)
