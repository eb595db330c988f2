"""W&B out of reach, or with a wrong key: the run goes on offline."""

import socket
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from commands import process, smoke
from offline_wandb import read_offline

from dreambooth.runs.run import Run

pytestmark = pytest.mark.slow


class Refusing(BaseHTTPRequestHandler):
    """As W&B's server answers a key that it does not know."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b'{"errors": [{"message": "user is not logged in"}]}')

    def log_message(self, *_):
        pass


@pytest.fixture
def refusing():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


@pytest.fixture
def closed():
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.parametrize(
    ("server", "said"),
    [("closed", "context deadline exceeded"), ("refusing", "user is not logged in")],
)
def test_the_run_goes_on_offline_and_says_so(tiny, tmp_path, request, monkeypatch, server, said):
    port = request.getfixturevalue(server)
    for name, value in {
        "WANDB_BASE_URL": f"http://127.0.0.1:{port}",
        "WANDB_API_KEY": "0123456789" * 4,
        "WANDB_CONFIG_DIR": str(tmp_path / "config"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_MODE")
    own = (*smoke(tiny, tmp_path / "prior"), "metrics=none", "prior=off")
    ended = process("-c", CODE, *own, f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 0, ended.output
    told = [line for line in ended.output.splitlines() if "continues offline" in line]
    assert len(told) == 1
    assert said in told[0]
    assert Run.load_finished(tmp_path / "run").status().state == "finished"
    assert len(read_offline(tmp_path / "run").history["loss/subject"]) == 2


# The wait for a server that does not answer, made short.
CODE = """
import runpy, sys
from dreambooth.training import loggers
loggers._CONNECTION_TIMEOUT_S = 3.0
sys.argv[0] = "src/train.py"
runpy.run_path("src/train.py", run_name="__main__")
"""
