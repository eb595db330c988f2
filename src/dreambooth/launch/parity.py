"""Checking a model: does training see what inference sees?"""

from collections.abc import Mapping
from typing import Any

from dreambooth.runs.building import build
from dreambooth.runs.hub import check_model


def all_pass(config: Mapping[str, Any]) -> bool:
    """Print a line for each check of the model, and return whether all of them pass.

    ValueError if the model cannot be loaded.
    """
    check_model(config)

    # Here, because these are slow to import.
    from dreambooth.assemble import device_of, quieten_libraries
    from dreambooth.backbones.drawing import on_device
    from dreambooth.backbones.parity import MEANING

    quieten_libraries()
    device = device_of(config["trainer"]["accelerator"])
    backbone = build(config["model"]["backbone"], "model.backbone")
    with on_device(backbone, device, config["trainer"]["precision"]):
        checks = backbone.parity()
    if not checks:
        print(
            f"{backbone.name}: nothing to check; this model has no pipeline of diffusers, and its "
            "images are drawn by the forward that training calls"
        )
    else:
        print("check     result  difference  what is compared (where it differs most)")
    for check in checks:
        result = "ok" if check.passed else "FAILED"
        compared = f"{MEANING[check.name]} ({check.where})"
        print(f"{check.name:8}  {result:6}  {check.difference:10.1e}  {compared}")
    return all(check.passed for check in checks)
