"""Whether training sees what the pipelines of DeepFloyd IF see: the checks of parity.py.

A stage has no VAE. So `latents` compares the image that the denoiser is given; for the SR
stage, with the enlarged and noised low-resolution image.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dreambooth.backbones.parity import (
    GUIDANCE_SCALE,
    PROMPTS,
    Step,
    compared,
    denoiser_calls,
    method_calls,
    predicted,
    target_check,
)
from dreambooth.backbones.stage import Condition, ParityCheck, Stage
from dreambooth.sampling import evaluation_mode


class PixelStage(Stage, Protocol):
    """A stage that a pipeline of DeepFloyd IF draws."""

    pipeline: Any
    low_resolution_px: int | None

    def level_of(self, noise_level: float | None) -> int:
        """The timestep of the image-noising schedule for a variance."""


def if_checks(stage: PixelStage, t5: Any) -> list[ParityCheck]:
    """The six checks of a stage, whose prompts are encoded already. `t5`: the text encoder."""
    x = 2 * torch.rand(2, *stage.x_shape, generator=_generator()) - 1
    with evaluation_mode(stage.denoiser), torch.no_grad():
        theirs = first_if_step(stage, t5, PROMPTS, 1.0, x)
        ours, prediction = _ours(stage, theirs, PROMPTS, x)
        guided = first_if_step(stage, t5, PROMPTS[:1], GUIDANCE_SCALE, x[:1])
        ours_guided, _ = _ours(stage, guided, ["", PROMPTS[0]], x[[0, 0]])
    pairs = [
        ("text", _text(ours), _text(theirs.arguments)),
        *((name, {key: ours[key]}, {key: theirs.arguments[key]}) for name, key in _NAMED.items()),
        ("sign", {"output": prediction}, {"output": theirs.output}),
        ("guidance", _text(ours_guided), _text(guided.arguments)),
    ]
    checks = [compared(*pair) for pair in pairs]
    checks.insert(4, target_check(stage.schedule, stage.pipeline.scheduler, x))
    return [ParityCheck(c.name, c.difference, f"{c.where}, stage {stage.name}") for c in checks]


_NAMED = {"latents": "sample", "timestep": "timestep"}  # check -> argument of the denoiser


def first_if_step(
    stage: PixelStage, t5: Any, prompts: Sequence[str], guidance_scale: float, x: Tensor
) -> Step:
    """The first step of the pipeline's own call, with the text of the pipeline's own encoding."""
    from diffusers import IFPipeline

    parts: dict[str, Any] = dict.fromkeys(["safety_checker", "feature_extractor", "watermarker"])
    parts |= {"tokenizer": stage.tokenizer, "text_encoder": t5}
    parts |= {"unet": stage.denoiser, "scheduler": stage.pipeline.scheduler}
    of_text = IFPipeline(**parts, requires_safety_checker=False)
    text, null = of_text.encode_prompt(list(prompts), guidance_scale > 1, device=t5.device)
    device = next(stage.denoiser.parameters()).device
    of_sr: dict[str, Any] = {}
    if stage.low_resolution_px is not None:
        of_sr["image"] = F.adaptive_avg_pool2d(x, stage.low_resolution_px)
        of_sr["noise_level"] = stage.level_of(None)
    pipeline = type(stage.pipeline)(**stage.pipeline.components, requires_safety_checker=False)
    pipeline.scheduler = pipeline.scheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    with (
        denoiser_calls(stage.denoiser) as arguments,
        method_calls(pipeline.scheduler, "step") as steps,
    ):
        pipeline(
            prompt_embeds=text.to(device),
            negative_prompt_embeds=None if null is None else null.to(device),
            num_inference_steps=2,
            guidance_scale=guidance_scale,
            generator=[_generator() for _ in prompts],
            output_type="pt",
            **of_sr,
        )
    output, t, *_ = steps[0]
    return Step(arguments[0], t, output)


def _ours(
    stage: PixelStage, theirs: Step, prompts: Sequence[str], x: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """The same step as training makes it: what the denoiser is given, and the prediction."""
    z_t = theirs.arguments["sample"][:, : stage.x_shape[0]]
    conditions: list[Condition] = []
    for row in x:
        draws = _generator()
        torch.randn(stage.x_shape, generator=draws)  # z_t, which the pipeline draws first
        conditions.append(stage.added_condition(row, draws, None))
    added = {
        key: torch.stack([each[key] for each in conditions]).to(z_t.device) for key in conditions[0]
    }
    condition = {**stage.encode_prompts(prompts), **added}
    t = theirs.t.reshape(1).expand(len(z_t)).to(z_t.device)
    return predicted(stage, z_t, t, condition, theirs.arguments)


def _text(arguments: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the denoiser is given besides image and timestep."""
    return {k: v for k, v in arguments.items() if k not in _NAMED.values()}


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
