"""The adapters of conf/adapter as methods, as a run builds them."""

from functools import cache

from commands import ROOT
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

NAMES = sorted(p.stem for p in (ROOT / "conf/adapter").glob("*.yaml") if p.stem != "none")


@cache
def adapter_method(name, *overrides):
    return instantiate(composed(f"adapter={name}", *overrides)["method"]["tuning"])


def composed(*overrides):
    """The resolved config of a run."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", [*overrides])
    return OmegaConf.to_container(config, resolve=True)
