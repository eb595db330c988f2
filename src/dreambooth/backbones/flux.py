"""FLUX.1: a transformer on packed 2x2 patches of latents, trained by flow matching.

The training forward is that of diffusers' FluxPipeline and of its train_dreambooth_flux.py, which
draws sigma uniformly, weighs all sigmas alike and samples the posterior of the VAE.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from dreambooth.backbones.latent import LatentBackbone
from dreambooth.backbones.latent_stage import LatentStage
from dreambooth.backbones.stage import Condition
from dreambooth.runs.settings import read
from dreambooth.runs.values import GuidanceScale

MAX_TOKENS = 512  # of a prompt


class FluxStage(LatentStage):
    """The transformer of a FluxPipeline, on latents x (C, h, w) = (latents - shift) scale.

    Its condition is `text` (B, 512, width), all tokens of T5, and `pooled` (B, width), of CLIP,
    which reads the first 77 tokens of a longer prompt. FLUX.1-dev is distilled so that one forward
    pass is guided, and is given the scale: `guidance_scale`, in training. Images are drawn with
    that of their sampler.
    """

    denoiser_name = "transformer"
    text_encoders: ClassVar[Mapping[str, str]] = {
        "text_encoder": "tokenizer",
        "text_encoder_2": "tokenizer_2",
    }
    arguments: ClassVar[Mapping[str, str]] = {
        "prompt_embeds": "text",
        "pooled_prompt_embeds": "pooled",
    }
    patch_size = 2
    takes_negative = False
    guided_at_once = False
    scale_argument = "joint_attention_kwargs"

    def __init__(
        self, pipeline: Any, resolution_px: int | None = None, guidance_scale: float = 3.5
    ):
        super().__init__(pipeline, resolution_px)
        if pipeline.transformer.config.guidance_embeds:
            self.embedded_guidance = guidance_scale

    @property
    def tokenizer(self) -> Any:
        """T5's, which reads the whole prompt."""
        return self._pipeline.tokenizer_2

    def _num_tokens(self, prompt: str) -> Iterator[tuple[int, int]]:
        yield len(self.tokenizer(prompt).input_ids), MAX_TOKENS

    def _encode_prompt(self, prompt: str) -> Condition:
        text, pooled, _ = self._pipeline.encode_prompt(
            prompt, device=self._text_device, max_sequence_length=MAX_TOKENS
        )
        return {"text": text[0], "pooled": pooled[0]}

    def predict(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        text, pooled = (condition[key].to(z_t.device) for key in ("text", "pooled"))
        guidance = None
        if self.embedded_guidance is not None:
            guidance = torch.full((len(z_t),), self.embedded_guidance, device=z_t.device)
        rows, columns = (side // 2 for side in z_t.shape[-2:])
        output = self.denoiser(
            hidden_states=self.to_pipeline(z_t),
            timestep=t.to(z_t.device),  # sigma, which is diffusers' timestep / 1000
            guidance=guidance,
            pooled_projections=pooled,
            encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3, device=z_t.device),
            img_ids=self._pipeline._prepare_latent_image_ids(
                1, rows, columns, z_t.device, torch.float32
            ),
        )
        return self.from_pipeline(output.sample).float()

    def to_pipeline(self, x: Tensor) -> Tensor:
        packed: Tensor = self._pipeline._pack_latents(x, *x.shape)
        return packed  # (B, h w / 4, 4 C)

    def from_pipeline(self, x: Tensor) -> Tensor:
        size, scale = self.resolution_px, self._pipeline.vae_scale_factor
        unpacked: Tensor = self._pipeline._unpack_latents(x, size, size, scale)
        return unpacked

    def guided_prompts(self, prompt: str) -> list[str]:
        return [prompt]

    def negative_prompt_as_code(self, prompt: str) -> str:
        return ""


class FluxBackbone(LatentBackbone):
    """FLUX.1-dev, or a model of its layout that is not distilled to a few steps."""

    title, pipeline_class = "a FLUX.1-dev", "FluxPipeline"
    stage_class = FluxStage
    schedulers: ClassVar[Mapping[str, str]] = {"euler": "FlowMatchEulerDiscreteScheduler"}

    @classmethod
    def load(
        cls,
        pretrained: str | Path,
        resolution_px: int | None = None,
        batch_size: int = 4,
        revision: str | None = None,
        config: str | Path | None = None,
        vae_tiling: bool = False,
        guidance_scale: float = 3.5,
    ) -> Self:
        """As `LatentBackbone.load`. `guidance_scale`: what the transformer is given in training.

        3.5 is the default of the pipeline and of diffusers' script, whose README gives 1. With the
        scale of drawing, training sees what drawing sees, and the prior images are drawn by the
        very model that is trained on them.
        """
        scale = read(GuidanceScale, guidance_scale, "model.backbone.guidance_scale")
        pipeline = cls._load_pipeline(pretrained, revision=revision, config=config)
        name = Path(pretrained).name
        return cls(name, pipeline, resolution_px, batch_size, vae_tiling, guidance_scale=scale)

    @classmethod
    def check_configs(
        cls, index: Mapping[str, Any], config_of: Callable[[str], Mapping[str, Any]]
    ) -> None:
        """ValueError for FLUX.1-schnell: no embedded guidance, and no shift for large images."""
        if not (
            config_of("transformer").get("guidance_embeds")
            or config_of("scheduler").get("use_dynamic_shifting")
        ):
            raise ValueError(
                "it is distilled to a few steps, as FLUX.1-schnell is, and training would undo "
                "that: train black-forest-labs/FLUX.1-dev"
            )
