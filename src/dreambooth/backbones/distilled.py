"""Models distilled to few steps. They are refused: their base models are to be trained instead.

Distillation makes a model that draws in one to eight steps, without guidance. The loss of
pretraining, which fine-tuning goes on with, does not keep that.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_NAMES = re.compile(r"(^|[-_. ])(turbo|lcm|lightning|hyper-sd\w*)([-_. ]|$)", re.IGNORECASE)
_SCHEDULERS = ("LCMScheduler", "TCDScheduler")


def check_name(pretrained: str | Path, base: str) -> None:
    """ValueError if the name of a model says that it is distilled. `base`: what to give instead."""
    if found := _NAMES.search(Path(pretrained).name):
        raise ValueError(
            f"model {str(pretrained)!r} is distilled to few steps ({found[2]}), and fine-tuning "
            f"would undo that: give model.backbone.pretrained={base}"
        )


def check_parts(
    index: Mapping[str, Any], config_of: Callable[[str], Mapping[str, Any]], base: str
) -> None:
    """The same from the configs of a pipeline, where they leave no doubt.

    A U-Net that is given the scale of guidance (`time_cond_proj_dim`) and the schedulers of latent
    consistency models are those of distilled ones. So is what SDXL Turbo has: Euler's ancestral
    scheduler with trailing timesteps, and images of 512 pixels. SD Turbo's configs are those of
    other models too: only its name tells.
    """
    scheduler, unet = index["scheduler"][1], config_of("unet")
    turbo = "text_encoder_2" in index and scheduler == "EulerAncestralDiscreteScheduler"
    turbo = turbo and config_of("scheduler").get("timestep_spacing") == "trailing"
    reason = ""
    if unet.get("time_cond_proj_dim") is not None:
        reason = "its U-Net is given the scale of guidance"
    elif scheduler in _SCHEDULERS:
        reason = f"its scheduler is {scheduler}"
    elif turbo and unet["sample_size"] == 64:
        reason = "it has the scheduler and the size of SDXL Turbo"
    if reason:
        raise ValueError(
            f"it is distilled to few steps, {reason}, and fine-tuning would undo that: the base "
            f"model is {base}"
        )
