"""FLUX.1 and FLUX.2 klein: a transformer on packed 2x2 patches of latents, trained by flow matching.

The training forward is that of the models' own pipelines, as in diffusers'
train_dreambooth_lora_flux.py and train_dreambooth_lora_flux2_klein.py, but for one thing: the
second takes the text from the hidden layers 10, 20 and 30, and the pipeline, as we do, from 9, 18
and 27. Both scripts draw sigma uniformly, and weigh all sigmas alike.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from dreambooth.backbones.latent import LatentBackbone, LatentStage
from dreambooth.backbones.stage import Condition, Encoded
from dreambooth.runs.settings import GuidanceScale, read

MAX_TOKENS = 512  # of a prompt, in both pipelines
SCHEDULERS = {"euler": "FlowMatchEulerDiscreteScheduler"}


class FluxStage(LatentStage):
    """The transformer of a FluxPipeline, on latents x (C, h, w) = (latents - shift) scale.

    Its condition is `text` (B, 512, width), all tokens of T5, and `pooled` (B, width), of CLIP,
    which reads the first 77 tokens of a longer prompt. FLUX.1-dev is distilled so that one forward
    pass is guided, and is given the scale: `guidance_scale`, in training. The images of a sampler
    have that of the sampler.
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

    def __init__(
        self, pipeline: Any, resolution_px: int | None = None, guidance_scale: float = 3.5
    ):
        super().__init__(pipeline, resolution_px)
        if self.denoiser.config.guidance_embeds:
            self.embedded_guidance = guidance_scale

    @property
    def tokenizer(self) -> Any:
        """T5's, which reads the whole prompt."""
        return self._pipeline.tokenizer_2

    def _num_tokens(self, prompt: str) -> Iterator[tuple[int, int]]:
        yield len(self.tokenizer(prompt).input_ids), MAX_TOKENS

    def _encode_prompt(self, prompt: str) -> Condition:
        text, pooled, _ = self._pipeline.encode_prompt(
            prompt, device=self._device, max_sequence_length=MAX_TOKENS
        )
        return {"text": text[0], "pooled": pooled[0]}

    def predict(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        text, pooled = (condition[key].to(z_t.device) for key in ("text", "pooled"))
        guidance = None
        if self.embedded_guidance is not None:
            guidance = torch.full((len(z_t),), self.embedded_guidance, device=z_t.device)
        height, width = z_t.shape[-2:]
        output = self.denoiser(
            hidden_states=self.to_pipeline(z_t),
            timestep=t.to(z_t.device),  # sigma, which is diffusers' timestep / 1000
            guidance=guidance,
            pooled_projections=pooled,
            encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3, device=z_t.device),
            img_ids=self._pipeline._prepare_latent_image_ids(
                1, height // 2, width // 2, z_t.device, torch.float32
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
    schedulers = SCHEDULERS

    @classmethod
    def load(
        cls,
        pretrained: str | Path,
        resolution_px: int | None = None,
        batch_size: int = 4,
        guidance_scale: float = 3.5,
    ) -> Self:
        """As `LatentBackbone.load`. `guidance_scale`: what the transformer is given in training.

        3.5 is the pipeline's default and that of diffusers' script, whose README gives 1. With the
        scale of drawing, training sees what drawing sees, and the prior images are drawn by the
        very model that is trained on them.
        """
        scale = read(GuidanceScale, guidance_scale, "model.backbone.guidance_scale")
        pipeline = cls._load_pipeline(pretrained)
        name = Path(pretrained).name
        return cls(name, pipeline, resolution_px, batch_size, guidance_scale=scale)

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


class Flux2KleinStage(LatentStage):
    """The transformer of a Flux2KleinPipeline. Its condition is `text` (B, 512, 3 width).

    x (4 C, h / 2, w / 2) are 2x2 patches of latents, each channel of which is normalized by the
    running mean and variance in the VAE. The VAE's mean is taken, as by diffusers' script.
    """

    denoiser_name = "transformer"
    text_encoders: ClassVar[Mapping[str, str]] = {"text_encoder": "tokenizer"}
    arguments: ClassVar[Mapping[str, str]] = {"prompt_embeds": "text"}
    patch_size = 2

    def __init__(self, pipeline: Any, resolution_px: int | None = None):
        super().__init__(pipeline, resolution_px)
        channels, height, width = self.x_shape
        self.x_shape = (4 * channels, height // 2, width // 2)

    @property
    def text_encoder(self) -> Any:
        return None  # the pipeline cannot load new words

    def encode(self, images: Tensor) -> Encoded:
        vae, (mean, _) = self._pipeline.vae, self._posterior(images)
        shift, variance = (
            each.cpu().view(-1, 1, 1) for each in (vae.bn.running_mean, vae.bn.running_var)
        )
        patches = self._pipeline._patchify_latents(mean)
        return Encoded((patches - shift) / (variance + vae.config.batch_norm_eps).sqrt())

    def _num_tokens(self, prompt: str) -> Iterator[tuple[int, int]]:
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        yield len(self.tokenizer(text).input_ids), MAX_TOKENS

    def _encode_prompt(self, prompt: str) -> Condition:
        text, _ = self._pipeline.encode_prompt(
            prompt, device=self._device, max_sequence_length=MAX_TOKENS
        )
        return {"text": text[0]}

    def predict(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        pipeline, text = self._pipeline, condition["text"].to(z_t.device)
        output = self.denoiser(
            hidden_states=self.to_pipeline(z_t),
            timestep=t.to(z_t.device),  # sigma, which is diffusers' timestep / 1000
            encoder_hidden_states=text,
            txt_ids=pipeline._prepare_text_ids(text).to(z_t.device),
            img_ids=pipeline._prepare_latent_ids(z_t).to(z_t.device),
        )
        return self.from_pipeline(output.sample).float()

    def to_pipeline(self, x: Tensor) -> Tensor:
        packed: Tensor = self._pipeline._pack_latents(x)
        return packed  # (B, h w / 4, 4 C)

    def from_pipeline(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).unflatten(2, self.x_shape[1:])

    def guided_prompts(self, prompt: str) -> list[str]:
        return [prompt, ""]

    def negative_prompt_as_code(self, prompt: str) -> str:
        # The pipeline takes a negative prompt as an embedding only.
        return f"negative_prompt_embeds=pipeline.encode_prompt({prompt!r})[0]" if prompt else ""


class Flux2KleinBackbone(LatentBackbone):
    """FLUX.2 klein, its base model of 4 or 9 billion parameters."""

    title, pipeline_class = "a FLUX.2-klein-base", "Flux2KleinPipeline"
    stage_class = Flux2KleinStage
    schedulers = SCHEDULERS

    @classmethod
    def check_configs(
        cls, index: Mapping[str, Any], config_of: Callable[[str], Mapping[str, Any]]
    ) -> None:
        """ValueError for the distilled model."""
        if index.get("is_distilled"):
            size = "4B" if config_of("transformer").get("num_attention_heads") == 24 else "9B"
            raise ValueError(
                "it is distilled to a few steps, and training would undo that: train "
                f"black-forest-labs/FLUX.2-klein-base-{size}"
            )
