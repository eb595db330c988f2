"""Stable Diffusion XL: two text encoders, pooled text, and the size of the image as a condition.

Podell et al., arXiv 2307.01952. The condition of the U-Net is

    text (B, tokens, width)  the penultimate layers of both text encoders, side by side
    pooled (B, width)        the projected output of the second text encoder at the end token
    time_ids (B, 6)          original height and width, top and left of the crop, target height and
                             width, in pixels (section 2.2)

The size conditions of training are those of drawing: an image of the model's resolution, not
cropped. The empty prompt is the pipeline's own null condition: zeros, where the model's
`force_zeros_for_empty_prompt` says so.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from dreambooth.backbones.latent import LatentBackbone
from dreambooth.backbones.latent_stage import LatentStage
from dreambooth.backbones.stable_diffusion import SCHEDULER_SETTINGS, SCHEDULERS
from dreambooth.backbones.stage import Condition


class StableDiffusionXLStage(LatentStage):
    """The U-Net of a StableDiffusionXLPipeline."""

    text_encoders: ClassVar[Mapping[str, str]] = {
        "text_encoder": "tokenizer",
        "text_encoder_2": "tokenizer_2",
    }
    arguments: ClassVar[Mapping[str, str]] = {
        "prompt_embeds": "text",
        "pooled_prompt_embeds": "pooled",
    }

    def added_condition(
        self, x: Tensor, generator: torch.Generator, noise_level: float | None
    ) -> Condition:
        size = (self.resolution_px, self.resolution_px)
        return {"time_ids": torch.tensor([*size, 0, 0, *size], dtype=torch.float32)}

    def _encode_prompt(self, prompt: str) -> Condition:
        device = self._text_device
        if prompt:
            text, _, pooled, _ = self._pipeline.encode_prompt(
                prompt, device=device, do_classifier_free_guidance=False
            )
        else:  # as the pipeline does without a negative prompt
            _, text, _, pooled = self._pipeline.encode_prompt(prompt, device=device)
        return {"text": text[0], "pooled": pooled[0]}

    def predict(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        text, pooled, time_ids = (
            condition[key].to(z_t.device) for key in ("text", "pooled", "time_ids")
        )
        added = {"text_embeds": pooled, "time_ids": time_ids}
        output = self.denoiser(z_t, t, encoder_hidden_states=text, added_cond_kwargs=added)
        return output.sample.float()


class StableDiffusionXLBackbone(LatentBackbone):
    """Stable Diffusion XL, its base model, without a watermark in its images."""

    title, pipeline_class = "a Stable Diffusion XL", "StableDiffusionXLPipeline"
    stage_class = StableDiffusionXLStage
    load_arguments: ClassVar[Mapping[str, Any]] = {"add_watermarker": False}
    schedulers, scheduler_settings = SCHEDULERS, SCHEDULER_SETTINGS
    base_model = "stabilityai/stable-diffusion-xl-base-1.0"
