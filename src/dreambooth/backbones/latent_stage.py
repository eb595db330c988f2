"""The denoiser of a latent diffusion model, with its frozen VAE and text encoders."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dreambooth.backbones.new_word import with_all_tokens
from dreambooth.backbones.stage import Condition, Encoded
from dreambooth.schedules import schedule_of


class LatentStage:
    """The denoiser of a diffusers pipeline, with its frozen VAE and text encoders.

    The VAE is moved to the denoiser's device when it is used, a text encoder only if it trains:
    else it encodes on the CPU, each prompt once, and needs no memory of a GPU. Encoded images and
    cached prompts stay on the CPU, where noise is drawn.
    """

    name = "base"
    denoiser_name: ClassVar[str] = "unet"  # in the pipeline, as the next two
    text_encoders: ClassVar[Mapping[str, str]]  # text encoder -> its tokenizer
    arguments: ClassVar[Mapping[str, str]]  # of the pipeline's call -> tensor of `_encode_prompt`
    patch_size: ClassVar[int] = 1  # latents, by side, that the denoiser takes as one token
    takes_negative: ClassVar[bool] = True  # guidance leads away from a negative prompt
    guided_at_once: ClassVar[bool] = True  # with guidance, one pass has both prompts
    embedded_guidance: float | None = None  # the guidance scale that the denoiser is given
    scale_argument: ClassVar[str] = "cross_attention_kwargs"  # of the call; has a LoRA's scale

    def __init__(self, pipeline: Any, resolution_px: int | None = None):
        self.denoiser: nn.Module = getattr(pipeline, self.denoiser_name)
        config, scale_px = self.denoiser.config, pipeline.vae_scale_factor  # pixels per latent
        # A transformer takes any size; its pipeline has the default.
        default_px = (config.get("sample_size") or pipeline.default_sample_size) * scale_px
        resolution_px = default_px if resolution_px is None else resolution_px
        step_px = scale_px * self.patch_size
        if resolution_px < step_px or resolution_px % step_px:
            raise ValueError(
                f"resolution_px={resolution_px} does not fit this model: give a positive multiple "
                f"of {step_px}, such as {default_px}"
            )
        size = resolution_px // scale_px
        if "sample_size" in config:
            # The saved model then has this resolution as its default in diffusers.
            self.denoiser.register_to_config(sample_size=size)
        for name in ("vae", *self.text_encoders):
            getattr(pipeline, name).requires_grad_(False).eval()

        self.schedule = schedule_of(pipeline.scheduler)
        self.resolution_px = resolution_px
        self.x_shape: tuple[int, ...] = (pipeline.vae.config.latent_channels, size, size)
        self._pipeline = pipeline
        self._text_cache: dict[str, Condition] = {}  # by prompt, without batch, on the CPU

    @property
    def tokenizer(self) -> Any:
        return self._pipeline.tokenizer

    @property
    def can_train_text_encoder(self) -> bool:
        return self.text_encoder is not None

    @property
    def text_encoder(self) -> Any:
        return self._pipeline.text_encoder if len(self.text_encoders) == 1 else None

    @property
    def _device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def added_condition(
        self, x: Tensor, generator: torch.Generator, noise_level: float | None
    ) -> Condition:
        return {}

    def encode(self, images: Tensor) -> Encoded:
        mean, std = self._posterior(images)
        shift, scale = _shift_and_scale(self._pipeline.vae.config)
        return Encoded((mean - shift) * scale, std * scale)

    @torch.no_grad()
    def _posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the VAE's latents, on the CPU."""
        # One image at a time: this saves memory, and the bits do not depend on a batch size.
        vae, device = self._pipeline.vae.to(self._device), self._device
        # Contiguous, because the bits depend on the layout in memory: drawn images and those that
        # are read from the prior cache differ in it.
        single = (image.to(device).contiguous() for image in images.split(1))
        posteriors = [vae.encode(image).latent_dist for image in single]
        mean, std = ([getattr(p, name) for p in posteriors] for name in ("mean", "std"))
        return torch.cat(mean).cpu(), torch.cat(std).cpu()

    def encode_prompts(self, prompts: Sequence[str], with_gradient: bool = False) -> Condition:
        """Encode prompts as the tensors of `arguments`. ValueError if a prompt is too long."""
        if with_gradient:
            self._text_cache.clear()
            return _stacked([self._checked(prompt) for prompt in prompts])
        for prompt in prompts:
            if prompt not in self._text_cache:
                with torch.no_grad():
                    encoded = self._checked(prompt)
                    self._text_cache[prompt] = {key: v.cpu() for key, v in encoded.items()}
        condition = _stacked([self._text_cache[prompt] for prompt in prompts])
        return {key: value.to(self._device) for key, value in condition.items()}

    def _checked(self, prompt: str) -> Condition:
        self.check_prompt(prompt)
        for name in self.text_encoders:
            getattr(self._pipeline, name).to(self._text_device)
        return self._encode_prompt(prompt)

    @property
    def _text_device(self) -> torch.device:
        encoders = [getattr(self._pipeline, name) for name in self.text_encoders]
        trains = any(p.requires_grad for encoder in encoders for p in encoder.parameters())
        return self._device if trains else torch.device("cpu")

    def _encode_prompt(self, prompt: str) -> Condition:
        """Encode one prompt, without batch dimension; one at a time, so no batch changes the bits.

        The empty prompt is what guidance leads away from if there is no negative prompt.
        """
        raise NotImplementedError

    def _num_tokens(self, prompt: str) -> Iterator[tuple[int, int]]:
        """How many tokens a prompt has, and how many its text encoder takes, for each of them."""
        for name in self.text_encoders.values():
            tokenizer = getattr(self._pipeline, name)
            text = with_all_tokens(prompt, tokenizer)
            yield len(tokenizer(text).input_ids), tokenizer.model_max_length

    def check_prompt(self, prompt: str) -> None:
        for count, max_count in self._num_tokens(prompt):
            if count > max_count:
                raise ValueError(
                    f"the prompt {prompt!r} has {count} tokens, start and end tokens included, and "
                    f"this model's text encoder takes {max_count}: shorten it by "
                    f"{count - max_count}"
                )

    def predict(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        raise NotImplementedError

    def to_pipeline(self, x: Tensor) -> Tensor:
        """x (B, *x_shape) as the pipeline lays it out."""
        return x

    def from_pipeline(self, x: Tensor) -> Tensor:
        """The inverse of `to_pipeline`."""
        return x

    def pipeline_arguments(self, prompts: Sequence[str], prefix: str = "") -> dict[str, Tensor]:
        """What the pipeline's call takes in place of the prompts, or the negative ones."""
        condition = self.encode_prompts(prompts)
        return {f"{prefix}{argument}": condition[key] for argument, key in self.arguments.items()}

    def guided_prompts(self, prompt: str) -> list[str]:
        """The prompts that the pipeline's denoiser is given in a step with guidance, in order."""
        return ["", prompt]

    def negative_prompt_as_code(self, prompt: str) -> str:
        """An argument of the pipeline's call, or ""."""
        return f"negative_prompt={prompt or None!r}"


def _stacked(conditions: Sequence[Condition]) -> Condition:
    """Conditions without batch dimension as one batch."""
    return {key: torch.stack([c[key] for c in conditions]) for key in conditions[0]}


def scale_of(vae: Any) -> int:
    """Pixels per latent, by side."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def _shift_and_scale(config: Any) -> tuple[Any, Any]:
    """How a pipeline normalizes the latents of its VAE: x = (latents - shift) scale.

    Numbers, or tensors (C, 1, 1) where the VAE has a mean and a deviation for each channel.
    """
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        shift, spread = (torch.tensor(each).view(-1, 1, 1) for each in (mean, std))
        return shift, config.scaling_factor / spread
    return config.get("shift_factor") or 0.0, config.scaling_factor
