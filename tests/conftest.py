"""Settings of all tests: one thread, or OMP_NUM_THREADS, no network, and CI's rule on skips."""

import gc
import os

os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", WANDB_SILENT="true")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of the processes that tests start

import pytest
import torch
from quick_hydra import speed_up

speed_up()
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A tiny random cascade: the miniature's shape in milliseconds."""
    from tiny_models import cascade_folder

    return cascade_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory):
    """Overrides of model=sd15 that put a tiny random Stable Diffusion in its place, unscored."""
    from tiny_models import stable_diffusion_folder

    folder = stable_diffusion_folder(tmp_path_factory.mktemp("models") / "stable-diffusion")
    return (
        *("model=sd15", f"model.backbone.pretrained={folder}", "model.rare_token_ids=[592,722]"),
        "metrics=none",
    )


@pytest.fixture(scope="session")
def stable_diffusion_xl(tmp_path_factory):
    """Overrides of model=sdxl that put a tiny random Stable Diffusion XL in its place."""
    from tiny_models import stable_diffusion_xl_folder

    folder = stable_diffusion_xl_folder(tmp_path_factory.mktemp("models") / "stable-diffusion-xl")
    return ("model=sdxl", f"model.backbone.pretrained={folder}", "model.rare_token_ids=[592,722]")


@pytest.fixture(scope="session")
def flux(tmp_path_factory):
    """Overrides of model=flux1 that put a tiny random FLUX.1 in its place."""
    from tiny_deepfloyd import RARE_TOKEN_IDS
    from tiny_flux import flux_folder

    folder = flux_folder(tmp_path_factory.mktemp("models") / "flux")
    ids = "[{},{}]".format(*RARE_TOKEN_IDS)
    return (
        *("model=flux1", f"model.backbone.pretrained={folder}", f"model.rare_token_ids={ids}"),
        "model.backbone.resolution_px=64",
    )


@pytest.fixture(scope="session")
def flux2_klein(tmp_path_factory):
    """Overrides of model=flux2_klein that put a tiny random FLUX.2 klein in its place."""
    from tiny_flux2 import RARE_TOKEN_IDS, flux2_klein_folder

    folder = flux2_klein_folder(tmp_path_factory.mktemp("models") / "flux2-klein")
    ids = "[{},{}]".format(*RARE_TOKEN_IDS)
    return (
        *("model=flux2_klein", f"model.backbone.pretrained={folder}"),
        *(f"model.rare_token_ids={ids}", "model.backbone.resolution_px=64"),
    )


@pytest.fixture(scope="session")
def deepfloyd(tmp_path_factory):
    """Overrides of model=if that put a tiny random DeepFloyd IF in its place."""
    from tiny_deepfloyd import RARE_TOKEN_IDS, deepfloyd_folder

    folder = deepfloyd_folder(tmp_path_factory.mktemp("models") / "deepfloyd")
    ids = "[{},{}]".format(*RARE_TOKEN_IDS)
    return ("model=if", f"model.backbone.pretrained={folder}", f"model.rare_token_ids={ids}")


@pytest.fixture(scope="session")
def encoders(tmp_path_factory):
    """Overrides of metrics=miniature with tiny random encoders."""
    from tiny_encoders import miniature_folder

    folder = miniature_folder(tmp_path_factory.mktemp("encoders"))
    return ("metrics=miniature", f"metrics.fidelity.weights={folder}")


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny):
    """A finished run of the tiny cascade, its prior cache in ../prior. Only to be read: copy it."""
    from commands import train

    folder = tmp_path_factory.mktemp("finished") / "run"
    ended = train(tiny, folder)
    assert ended.code == 0, ended.output
    return folder


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that all processes end at about the same time, and
    before them those on SLURM, which mostly wait."""
    slow, slurm = (
        {item.path for item in items if item.get_closest_marker(mark)} for mark in ("slow", "slurm")
    )
    items.sort(key=lambda item: (item.path not in slurm, item.path not in slow))


def pytest_collection_finish():
    gc.freeze()  # what is imported stays: to look through it for garbage takes a tenth of all time


def pytest_unconfigure():
    gc.unfreeze()


def _no_skip(report):
    """A skip is a failure where DREAMBOOTH_NO_SKIPS is set (CI); an expected failure is no skip."""
    if os.environ.get("DREAMBOOTH_NO_SKIPS") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and DREAMBOOTH_NO_SKIPS is set: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport():
    return _no_skip((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report():
    return _no_skip((yield))
