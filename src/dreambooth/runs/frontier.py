"""What experiment=frontier draws. This module does not import torch."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from pydantic.dataclasses import dataclass

from dreambooth.runs.settings import as_typed, read
from dreambooth.runs.values import Count


@dataclass(frozen=True)
class FrontierSettings:
    """The strengths of a run's training that are drawn, and how many images of each."""

    strengths: list[float]  # rising from 0, the pretrained model
    images_per_prompt: Count
    num_class_images: Count


def frontier_of(config: Mapping[str, Any]) -> FrontierSettings | None:
    """The frontier that a command of src/evaluate.py asks for; None if it asks for none.

    ValueError if it has no run, or for strengths that do not rise from 0.
    """
    if config["frontier"] is None:
        return None
    if config["run"] is None:
        raise ValueError("experiment=frontier is of a finished run: give run=DIR")
    frontier = read(FrontierSettings, config["frontier"], "frontier")
    strengths = frontier.strengths
    if len(strengths) < 2 or strengths[0] != 0 or any(a >= b for a, b in pairwise(strengths)):
        raise ValueError(
            f"frontier.strengths={as_typed(strengths)}: give numbers that rise from 0, the "
            "pretrained model, as [0,0.5,1]"
        )
    return frontier
