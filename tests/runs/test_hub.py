"""A model that is not here is refused within seconds when the Hub does not answer."""

import socket
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import huggingface_hub
import pytest
from commands import ROOT, process
from hydra.utils import get_object

from dreambooth.runs import hub


@pytest.fixture
def silent():
    """A server that takes connections and never answers, as a network that drops packets."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def folders():
    return {path for name in ("runs", "cache") for path in (ROOT / name).glob("*")}


def test_the_backbones_that_take_ids_of_the_hub_exist():
    assert all(map(get_object, hub._FROM_HUB))


def test_a_server_that_does_not_answer_is_asked_once_a_minute(monkeypatch):
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.2")
    monkeypatch.setattr(hub, "_silent_since", {})
    asked = []

    def ask():
        asked.append(None)
        time.sleep(1)
        return ""

    began = time.monotonic()
    assert [hub.answer_of("a", ask), hub.answer_of("a", ask)] == [None, None]
    assert time.monotonic() - began < 0.8
    assert len(asked) == 1
    assert hub.answer_of("b", lambda: "an answer") == "an answer"
    assert "a cannot be reached within 0.2 s" in hub.unreachable("a")


def test_what_is_no_name_of_a_model_is_not_looked_for():
    absence = hub.absence_of("a/b/c", "config.json")
    assert absence.startswith("there is no model 'a/b/c': no folder ")
    assert absence.endswith("the Hub has no such model, or none that you may read")


class Gated(BaseHTTPRequestHandler):
    """A Hub that describes some/gated to everyone, and refuses its files and some/refused."""

    def do_GET(self):
        described = self.path.endswith("some/gated")
        self.send_response(200 if described else 403)
        if self.path.endswith("auth-check"):
            self.send_header("X-Error-Code", "GatedRepo")
        self.end_headers()
        self.wfile.write(b'{"id": "some/gated", "gated": "auto"}' if described else b"")

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("model", ["some/gated", "some/refused"])
def test_a_model_for_some_accounts_is_refused_with_what_to_do(monkeypatch, model):
    with HTTPServer(("127.0.0.1", 0), Gated) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "_silent_since", {})
        problem = hub.problem_of(model)
        server.shutdown()
    assert problem == (
        "the Hub gives it only to accounts that may read it: accept its licence on "
        f"https://huggingface.co/{model}, and log in by `hf auth login`"
    )


@pytest.mark.slow
@pytest.mark.parametrize("network", ["silent", "closed"])
@pytest.mark.parametrize(
    ("words", "said", "most_s"),
    [
        (["train", "model=sd15"], "there is no model 'stable-diffusion-v1-5/", 10),
        (["train", "model=if"], "there is no model 'DeepFloyd/IF-I-XL-v1.0'", 10),
        (["train", "-m", "model=sd15", "seed=0,1"], "there is no model 'stable-diffusion-", 10),
        # These import torch before they ask.
        (["evaluate", "images=.", "subject=olive", "metrics=paper"], "the DINO encoder 'face", 40),
    ],
)
def test_without_a_network_the_command_ends_within_seconds(
    request, monkeypatch, tmp_path, network, words, said, most_s
):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for name in ("HF_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", request.getfixturevalue(network))
    before, began = folders(), time.monotonic()
    sentence = process(f"src/{words[0]}.py", *words[1:]).sentence
    assert time.monotonic() - began < most_s
    assert said in sentence
    assert "the Hub cannot be reached within 3 s" in sentence
    assert folders() == before


def test_one_file_is_read_by_models_that_can_and_by_those_of_others(tmp_path):
    file = tmp_path / "weights.safetensors"
    file.touch()
    flux = {"_target_": "dreambooth.backbones.flux.FluxBackbone.load", "pretrained": str(file)}
    with pytest.raises(ValueError, match="this model is not read from one file"):
        hub.check_model({"model": {"backbone": flux}})
    own = {"_target_": "mine.load", "pretrained": str(tmp_path / "mine.pt")}
    (tmp_path / "mine.pt").touch()
    assert hub.sources_of(own) == {"pretrained": own["pretrained"]}
    assert hub.commits_of(own) == {}


def test_a_revision_that_is_no_text_is_refused():
    target = "dreambooth.backbones.stable_diffusion.StableDiffusionBackbone.load"
    backbone = {"_target_": target, "pretrained": "org/model", "revision": 2024}
    with pytest.raises(ValueError, match=r"model\.backbone\.revision=2024: give text"):
        hub.check_model({"model": {"backbone": backbone}})
