"""What metrics/sources.py knows of the libraries, without importing torch, is what they say."""

import pytest
from open_clip.pretrained import get_pretrained_cfg
from torch.hub import get_dir
from torchvision.models import get_model_weights

from dreambooth.metrics.sources import (
    CLIP_REPOSITORIES,
    LPIPS_URL,
    check_encoders,
    lpips_file,
)

NETS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


@pytest.mark.parametrize(("net", "model"), NETS.items())
@pytest.mark.parametrize("variable", [None, "TORCH_HOME", "XDG_CACHE_HOME"])
def test_lpips_files_are_where_torch_keeps_those_of_torchvision(net, model, variable, monkeypatch):
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "/elsewhere")
    file = lpips_file(net)
    assert str(file.parent) == f"{get_dir()}/checkpoints"
    assert LPIPS_URL + file.name == get_model_weights(model).DEFAULT.url


@pytest.mark.parametrize(("tag", "repository"), CLIP_REPOSITORIES.items())
def test_clip_repositories_are_those_of_open_clip(tag, repository):
    assert get_pretrained_cfg(*tag)["hf_hub"] == f"{repository}/"


def test_encoders_in_folders_and_unknown_ones_are_left_to_their_classes(tmp_path):
    encoders = "dreambooth.metrics.encoders"
    check_encoders(None)
    check_encoders({"own": {"_target_": "of.another.package"}})
    dino = {"_target_": f"{encoders}.DinoEncoder", "pretrained": str(tmp_path)}
    clip = {"_target_": f"{encoders}.ClipEncoder", "model": str(tmp_path), "pretrained": "openai"}
    lpips = {"_target_": f"{encoders}.LpipsDistance", "net": "alex", "backbone": "/nowhere"}
    check_encoders({"fidelity": {"dino": dino, "clip": clip, "distance": lpips}})
    with pytest.raises(
        ValueError, match=r"^the DINO encoder 'someone/dino' cannot be used \(no fo"
    ):
        check_encoders({"fidelity": {"dino": dino | {"pretrained": "someone/dino"}}})
