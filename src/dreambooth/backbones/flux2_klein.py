"""FLUX.2 klein: a transformer on patches of normalized latents, trained by flow matching.

The training forward is that of diffusers' Flux2KleinPipeline. Its
train_dreambooth_lora_flux2_klein.py differs in one thing: it takes the text from the hidden layers
10, 20 and 30, and the pipeline, as we do, from 9, 18 and 27. The script draws sigma uniformly,
weighs all sigmas alike and takes the mode of the VAE's posterior.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor

from dreambooth.backbones.latent import LatentBackbone
from dreambooth.backbones.latent_stage import LatentStage
from dreambooth.backbones.stage import Condition, Encoded

MAX_TOKENS = 512  # of a prompt


class Flux2KleinStage(LatentStage):
    """The transformer of a Flux2KleinPipeline. Its condition is `text` (B, 512, 3 width).

    x (4 C, h / 2, w / 2) are 2x2 patches of latents, each channel of which is normalized by the
    running mean and variance in the VAE.
    """

    denoiser_name = "transformer"
    text_encoders: ClassVar[Mapping[str, str]] = {"text_encoder": "tokenizer"}
    arguments: ClassVar[Mapping[str, str]] = {"prompt_embeds": "text"}
    patch_size = 2
    guided_at_once = False
    scale_argument = "attention_kwargs"
    text_encoder = None  # the pipeline loads neither new words nor a text encoder's LoRA

    def __init__(self, pipeline: Any, resolution_px: int | None = None):
        super().__init__(pipeline, resolution_px)
        channels, height, width = self.x_shape
        self.x_shape = (4 * channels, height // 2, width // 2)

    def encode(self, images: Tensor) -> Encoded:
        vae, (mode, _) = self._pipeline.vae, self._posterior(images)
        shift, variance = (
            each.cpu().view(-1, 1, 1) for each in (vae.bn.running_mean, vae.bn.running_var)
        )
        patches = self._pipeline._patchify_latents(mode)
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
            prompt, device=self._text_device, max_sequence_length=MAX_TOKENS
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
    schedulers: ClassVar[Mapping[str, str]] = {"euler": "FlowMatchEulerDiscreteScheduler"}

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
