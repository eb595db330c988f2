"""The samplers of a run, checked against the stages that they draw with."""

from collections.abc import Mapping
from dataclasses import replace

from dreambooth.backbones.stage import Stage
from dreambooth.runs.settings import Sampler, Settings

_NUM_STEPS = {"ancestral": 100, "dpm": 25}


def prior_samplers(settings: Settings, stages: Mapping[str, Stage]) -> dict[str, Sampler]:
    """The samplers of the prior images: those of the model, unless `prior.sampler` is another.

    ValueError as by `check_samplers`.
    """
    samplers, name = settings.model.sampling.prior, settings.prior.sampler
    if name is None:
        return check_samplers(samplers, stages)
    other = {
        stage: s if s.name == name else replace(s, name=name, num_steps=_NUM_STEPS[name])
        for stage, s in samplers.items()
    }
    try:
        return check_samplers(other, stages)
    except ValueError as error:
        raise ValueError(f"prior.sampler={name} is none of this model: leave it out") from error


def check_samplers(
    samplers: Mapping[str, Sampler], stages: Mapping[str, Stage]
) -> dict[str, Sampler]:
    """The samplers of the stages. ValueError if one is missing or not supported by its stage."""
    for name, stage in stages.items():
        if name not in samplers:
            raise ValueError(f"model.sampling has no sampler for stage {name} of this model")
        stage.schedule.solver(samplers[name].name, samplers[name].num_steps)
    return {name: samplers[name] for name in stages}
