"""Whether training sees what inference sees: our forward beside one step of the model's pipeline.

The pipeline's own call, from a prompt, with the model's own scheduler, is recorded in its first
step: what the denoiser is given, and what the scheduler is given as its output. The same step is
then made as training makes it, by `Stage.encode_prompts` and `Stage.predict`. Six checks:

    text      what the denoiser is given besides the image and the timestep: text, pooled text,
              masks, sizes
    latents   the image that the denoiser is given; and an encoded image, which the pipeline must
              decode from the latents that the VAE's encoder returned: scale, shift, mean
    timestep  the timestep that the denoiser is given
    sign      what `predict` makes of the denoiser's output, beside what the scheduler is given
    target    a perfect prediction, from which a scheduler of diffusers must get back the image
    guidance  what the denoiser is given in a step with guidance: our empty prompt to guide away
              from, or the scale where the denoiser guides itself

If all agree, the forward of training is that of the pipeline.
"""

import copy
import functools
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from dreambooth.backbones.stage import Backbone, Condition, ParityCheck, Stage
from dreambooth.sampling import evaluation_mode
from dreambooth.schedules import NoiseSchedule, VariancePreserving

PROMPTS = ("a photo of a dog", "a cat on the beach")  # of different lengths
GUIDANCE_SCALE = 3.0
MEANING = {
    "text": "text, sizes and all else that the denoiser is given",
    "latents": "images to latents and back",
    "timestep": "the timestep that the denoiser is given",
    "sign": "what becomes of the denoiser's output",
    "target": "what a perfect denoiser predicts",
    "guidance": "the empty prompt, which guidance leads away from, or its scale",
}


def check_parity(backbone: Backbone) -> str:
    """A sentence that says that a model passes its checks; "" if it has none.

    ValueError that names the checks that fail.
    """
    checks = backbone.parity()
    failed = [check for check in checks if not check.passed]
    if failed:
        found = ", ".join(f"{c.name} by {c.difference:.2g} in {c.where}" for c in failed)
        raise ValueError(
            f"training does not see what this model's own pipeline sees: they differ in {found}; "
            "src/check.py shows all checks, and check=false trains nevertheless"
        )
    largest = max((check.difference for check in checks), default=0)
    return f"training sees what the model's pipeline sees, to {largest:.0e}" if checks else ""


class PipelineStage(Stage, Protocol):
    """A stage that a pipeline of diffusers draws."""

    embedded_guidance: float | None  # the guidance scale that the denoiser is given, if any

    def to_pipeline(self, x: Tensor) -> Tensor:
        """x (B, *x_shape) as the pipeline lays it out, such as in packed patches."""

    def from_pipeline(self, x: Tensor) -> Tensor:
        """The inverse of `to_pipeline`."""

    def guided_prompts(self, prompt: str) -> list[str]:
        """The prompts that the pipeline's denoiser is given in a step with guidance, in order."""


@dataclass(frozen=True)
class Step:
    """The first step of a pipeline's call."""

    arguments: dict[str, Tensor]  # of the denoiser, by name; of several calls as one batch
    t: Tensor  # the scheduler's timestep, a scalar
    output: Tensor  # what the scheduler is given as the denoiser's output


def checks_of(pipeline: Any, stage: PipelineStage) -> list[ParityCheck]:
    """The six checks of a stage and its pipeline, which has a VAE and is on the stage's device."""
    with evaluation_mode(stage.denoiser), torch.no_grad():
        images = 2 * torch.rand(2, 3, *[stage.resolution_px] * 2, generator=_generator()) - 1
        x, device = stage.encode(images).mean, next(stage.denoiser.parameters()).device
        scale = stage.embedded_guidance
        unguided, guided = (1.0, GUIDANCE_SCALE) if scale is None else (scale, scale)
        with method_calls(pipeline.vae, "decode") as decoded:
            theirs = first_step(pipeline, stage, PROMPTS, unguided, x.to(device))
        z_name = next(iter(theirs.arguments))
        z_t = stage.from_pipeline(theirs.arguments[z_name])
        t = _t_of(stage.schedule, pipeline.scheduler, theirs.t).expand(2)
        ours, prediction = predicted(stage, z_t, t, _condition(stage, PROMPTS, x), theirs.arguments)
        latents = [pipeline.vae.encode(image[None].to(device)).latent_dist.mean for image in images]
        checks = [
            compared("text", _others(ours), _others(theirs.arguments)),
            compared(
                "latents",
                {z_name: ours[z_name], "decoded latents": decoded[0][0]},
                {z_name: theirs.arguments[z_name], "decoded latents": torch.cat(latents)},
            ),
            compared("timestep", _only(ours, "timestep"), _only(theirs.arguments, "timestep")),
            compared(
                "sign", {"output": prediction}, {"output": stage.from_pipeline(theirs.output)}
            ),
            target_check(stage.schedule, pipeline.scheduler, x),
        ]

        theirs = first_step(pipeline, stage, PROMPTS[:1], guided)
        z_t = stage.from_pipeline(theirs.arguments[z_name])
        condition = _condition(stage, stage.guided_prompts(PROMPTS[0]), x)
        ours, _ = predicted(stage, z_t, t[: len(z_t)], condition, theirs.arguments)
        return [*checks, compared("guidance", _others(ours), _others(theirs.arguments))]


def first_step(
    pipeline: Any,
    stage: PipelineStage,
    prompts: Sequence[str],
    guidance_scale: float,
    x: Tensor | None = None,
) -> Step:
    """The first step of the pipeline's own call.

    `x` (B, *x_shape): if given, the pipeline decodes it in place of what the step leads to.
    """
    pipeline = copy.copy(pipeline)
    pipeline.scheduler = copy.deepcopy(pipeline.scheduler)
    pipeline.set_progress_bar_config(disable=True)

    def stop(running: Any, _i: int, _t: Any, values: dict[str, Any]) -> dict[str, Any]:
        running._interrupt = True  # no more steps
        return values if x is None else {"latents": stage.to_pipeline(x)}

    with (
        denoiser_calls(stage.denoiser) as arguments,
        method_calls(pipeline.scheduler, "step") as steps,
    ):
        pipeline.encode_prompt = _encoding_where_the_encoder_is(pipeline)
        pipeline(
            prompt=list(prompts),
            num_inference_steps=2,
            guidance_scale=guidance_scale,
            height=stage.resolution_px,
            width=stage.resolution_px,
            generator=[_generator() for _ in prompts],
            callback_on_step_end=stop,
            output_type="latent" if x is None else "pt",
        )
    output, t, *_ = steps[0]
    first, *others = arguments
    if others:  # some pipelines call the denoiser once for each prompt
        first = {key: torch.cat([call[key] for call in arguments]) for key in first}
    return Step(first, t, output)


def _encoding_where_the_encoder_is(pipeline: Any) -> Any:
    """The pipeline's `encode_prompt`, with text encoders on another device than the rest."""
    encode, signature = pipeline.encode_prompt, inspect.signature(pipeline.encode_prompt)

    def encode_prompt(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(*args, **kwargs).arguments
        device, arguments["device"] = arguments["device"], pipeline.text_encoder.device
        return tree_map_only(Tensor, lambda encoded: encoded.to(device), encode(**arguments))

    return encode_prompt


def predicted(
    stage: Stage, z_t: Tensor, t: Tensor, condition: Condition, given: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Tensor]:
    """What `stage.predict` gives the denoiser, by name, and what it returns where the denoiser is
    given the arguments `given` of the pipeline in their place."""
    with denoiser_calls(stage.denoiser, given) as arguments:
        prediction = stage.predict(z_t, t, condition)
    return arguments[0], prediction


@contextmanager
def denoiser_calls(
    denoiser: nn.Module, given: Mapping[str, Tensor] | None = None
) -> Iterator[list[dict[str, Tensor]]]:
    """The tensors among the arguments of each call of a denoiser, in nested ones by dotted names.

    `given`: such tensors that the denoiser is given in their place.
    """
    calls: list[dict[str, Tensor]] = []
    signature = inspect.signature(denoiser.forward)

    def keep(_module: nn.Module, args: Any, kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        calls.append(dict(_tensors(bound.arguments)))
        if given is None:
            return None
        return (), bound.arguments | _nested(given)

    handle = denoiser.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


@contextmanager
def method_calls(owner: Any, name: str) -> Iterator[list[tuple[Any, ...]]]:
    """The positional arguments of each call of a method."""
    calls: list[tuple[Any, ...]] = []
    method = getattr(owner, name)

    @functools.wraps(method)  # pipelines look at the signature
    def keep(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return method(*args, **kwargs)

    setattr(owner, name, keep)
    try:
        yield calls
    finally:
        delattr(owner, name)


def target_check(schedule: NoiseSchedule, scheduler: Any, x: Tensor) -> ParityCheck:
    """Whether our corruption and target are those of diffusers, at a few timesteps.

    `scheduler`: the model's own, of which a variance-preserving schedule takes its betas and its
    parametrisation. x (B, ...) on CPU.
    """
    ours: dict[str, Tensor] = {}
    theirs: dict[str, Tensor] = {}
    eps = torch.randn(x.shape, generator=_generator())
    for u in (0.1, 0.5, 0.9):
        z_t, x_hat, t = _denoised(schedule, scheduler, x, eps, u)
        ours |= {f"z_t at {u}": schedule.corrupt(x, eps, t), f"x at {u}": x_hat}
        theirs |= {f"z_t at {u}": z_t, f"x at {u}": x}
    return compared("target", ours, theirs)


def _denoised(
    schedule: NoiseSchedule, scheduler: Any, x: Tensor, eps: Tensor, u: float
) -> tuple[Tensor, Tensor, Tensor]:
    """With diffusers: z_t at the share u of all timesteps, x from our target there; our t (B,)."""
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    t: Any
    if isinstance(schedule, VariancePreserving):
        t = torch.tensor(int(u * schedule.num_timesteps)).expand(len(x))
        ddim = DDIMScheduler.from_config(scheduler.config, clip_sample=False, thresholding=False)
        ddim.set_timesteps(2)
        z_t = ddim.add_noise(x, eps, t)
        return z_t, ddim.step(schedule.target(x, eps, t), t[0], z_t).pred_original_sample, t
    euler = FlowMatchEulerDiscreteScheduler()  # on the straight line, whatever the model's shift
    euler.set_timesteps(sigmas=[u])
    t = torch.tensor(u).expand(len(x))
    z_t = euler.scale_noise(x, euler.timesteps, eps)
    return z_t, euler.step(schedule.target(x, eps, t), euler.timesteps[0], z_t).prev_sample, t


def _t_of(schedule: NoiseSchedule, scheduler: Any, t: Any) -> Tensor:
    """The timestep of the schedule for one of the model's scheduler, (1,)."""
    given = torch.as_tensor(t).reshape(1)
    if isinstance(schedule, VariancePreserving):
        return given.round().long()
    return given.float() / scheduler.config.num_train_timesteps


def compared(name: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> ParityCheck:
    """A check of tensors by name. One that only one side has, or of another shape, is infinitely
    different. A timestep may stand for the whole batch."""
    worst = max(
        ((_difference(ours.get(key), theirs.get(key)), key) for key in {**theirs, **ours}),
        key=lambda pair: pair[0],
        default=(math.inf, "nothing"),
    )
    return ParityCheck(name, *worst)


def _difference(ours: Tensor | None, theirs: Tensor | None) -> float:
    if ours is None or theirs is None:
        return math.inf
    a, b = ours.detach().double().cpu(), theirs.detach().double().cpu()
    if b.numel() == 1:
        b = b.expand_as(a)
    if a.shape != b.shape or not (a - b).isfinite().all():
        return math.inf
    largest, scale = (a - b).abs().max().item(), b.abs().max().item()
    return largest / scale if scale else (math.inf if largest else 0.0)


def _condition(stage: Stage, prompts: Sequence[str], x: Tensor) -> Condition:
    added = [stage.added_condition(each, _generator(), None) for each in x[: len(prompts)]]
    stacked = {key: torch.stack([each[key] for each in added]) for key in added[0]}
    return {**stage.encode_prompts(prompts), **stacked}


def _others(arguments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The arguments of the denoiser besides image, which is the first, and timestep."""
    return {key: v for key, v in list(arguments.items())[1:] if key != "timestep"}


def _only(arguments: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in arguments.items() if key == name}


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors and numbers in nested arguments, by dotted names."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _tensors(each, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        yield from _tensors(dict(enumerate(value)), name)
    elif isinstance(value, Tensor | int | float) and not isinstance(value, bool):
        yield name, torch.as_tensor(value)


def _nested(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The inverse of `_tensors`, for arguments that are tensors or dictionaries of them."""
    nested: dict[str, Any] = {}
    for name, value in tensors.items():
        key, _, inner = name.partition(".")
        if inner:
            nested.setdefault(key, {})[inner] = value
        else:
            nested[key] = value
    return nested


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
