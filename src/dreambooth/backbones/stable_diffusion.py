"""Stable Diffusion 1.5 and 2.1: one stage, in the latent space of a frozen VAE."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dreambooth.backbones.adapters import peft_model, read_adapter, save_adapter, scaled_adapter
from dreambooth.backbones.lora_files import read_lora, save_lora
from dreambooth.backbones.new_word import new_word_of, with_all_tokens
from dreambooth.backbones.stage import Condition, Encoded, Sampling, Stage
from dreambooth.backbones.text_encoder import joined
from dreambooth.distributed.ranks import batches
from dreambooth.randomness import generator, seed_of
from dreambooth.runs.hashes import sha256_of
from dreambooth.runs.hub import absence_of, problem_of
from dreambooth.runs.settings import Sampler
from dreambooth.sampling import evaluation_mode
from dreambooth.schedules import schedule_of

SCHEDULERS = {  # sampler -> class of diffusers
    "ancestral": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "dpm": "DPMSolverMultistepScheduler",
}


_SCHEDULER_SETTINGS = {"timestep_spacing": "trailing", "clip_sample": False}


class LatentStage:
    """The U-Net of a StableDiffusionPipeline, with its frozen VAE and text encoder.

    The VAE and the text encoder are moved to the U-Net's device when they are used. Encoded images
    and cached prompts stay on the CPU, where noise is drawn.
    """

    def __init__(self, pipeline: Any, resolution_px: int | None = None):
        scale_px = pipeline.vae_scale_factor  # image pixels per latent pixel
        default_px = pipeline.unet.config.sample_size * scale_px
        resolution_px = default_px if resolution_px is None else resolution_px
        if resolution_px < scale_px or resolution_px % scale_px:
            raise ValueError(
                f"resolution_px={resolution_px} does not fit this model: give a positive multiple "
                f"of {scale_px}, such as {default_px}"
            )
        size = resolution_px // scale_px
        # The saved model then has this resolution as its default in diffusers.
        pipeline.unet.register_to_config(sample_size=size)
        for frozen in (pipeline.vae, pipeline.text_encoder):
            frozen.requires_grad_(False).eval()

        self.name = "base"
        self.denoiser: nn.Module = pipeline.unet
        self.schedule = schedule_of(pipeline.scheduler)
        self.resolution_px = resolution_px
        self.x_shape: tuple[int, ...] = (pipeline.vae.config.latent_channels, size, size)
        self._pipeline = pipeline
        self._text_cache: dict[str, Tensor] = {}  # prompt -> (tokens, width), on the CPU

    @property
    def tokenizer(self) -> Any:
        return self._pipeline.tokenizer

    @property
    def text_encoder(self) -> Any:
        return self._pipeline.text_encoder

    @property
    def _device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def added_condition(
        self, x: Tensor, generator: torch.Generator, noise_level: float | None
    ) -> Condition:
        return {}

    @torch.no_grad()
    def encode(self, images: Tensor) -> Encoded:
        # One image at a time: this saves memory, and the bits do not depend on a batch size.
        vae, device = self._pipeline.vae.to(self._device), self._device
        posteriors = [vae.encode(image.to(device)).latent_dist for image in images.split(1)]
        scale = vae.config.scaling_factor
        return Encoded(
            mean=torch.cat([p.mean for p in posteriors]).cpu() * scale,
            std=torch.cat([p.std for p in posteriors]).cpu() * scale,
        )

    def encode_prompts(self, prompts: Sequence[str], with_gradient: bool = False) -> Condition:
        """Encode prompts as `text` (B, tokens, width). ValueError if a prompt is too long."""
        if with_gradient:
            self._text_cache.clear()
            return {"text": torch.stack([self._encode_prompt(prompt) for prompt in prompts])}
        for prompt in prompts:
            if prompt not in self._text_cache:
                with torch.no_grad():
                    self._text_cache[prompt] = self._encode_prompt(prompt).cpu()
        return {"text": torch.stack([self._text_cache[p] for p in prompts]).to(self._device)}

    def _encode_prompt(self, prompt: str) -> Tensor:
        """Encode one prompt as (tokens, width); one at a time, so no batch changes the bits."""
        self.check_prompt(prompt)
        self._pipeline.text_encoder.to(self._device)
        text, _ = self._pipeline.encode_prompt(prompt, self._device, 1, False)
        return text[0]

    def check_prompt(self, prompt: str) -> None:
        tokenizer = self._pipeline.tokenizer
        text, max_count = with_all_tokens(prompt, tokenizer), tokenizer.model_max_length
        count = len(tokenizer(text).input_ids)
        if count > max_count:
            raise ValueError(
                f"the prompt {prompt!r} has {count} tokens, start and end tokens included, and "
                f"this model's text encoder takes {max_count}: shorten it by {count - max_count}"
            )

    def predict(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        text = condition["text"].to(z_t.device)
        return self.denoiser(z_t, t, encoder_hidden_states=text).sample.float()


class LatentBackbone:
    """A Stable Diffusion pipeline as a backbone with one stage, `base`.

    Images are drawn by the diffusers pipeline itself, from our prompt embeddings and with one
    generator for each image. `batch_size`: how many images are denoised at once.
    """

    adapter_formats = ("diffusers", "kohya")

    def __init__(
        self, name: str, pipeline: Any, resolution_px: int | None = None, batch_size: int = 4
    ):
        self.name, self.batch_size = name, batch_size
        self.tokenizer = pipeline.tokenizer
        self._stage = LatentStage(pipeline, resolution_px)
        self.stages: Mapping[str, Stage] = {"base": self._stage}
        self._pipeline = pipeline

    @classmethod
    def load(
        cls, pretrained: str | Path, resolution_px: int | None = None, batch_size: int = 4
    ) -> "LatentBackbone":
        """Load a folder or a model from the Hub. ValueError as in `load_pipeline`.

        `resolution_px`: the size of the images; None for the model's default (512 or 768).
        """
        return cls(Path(pretrained).name, load_pipeline(pretrained), resolution_px, batch_size)

    def fingerprint(self) -> str:
        # The same weights with another prediction type are another model.
        parts: list[Any] = [self._stage.schedule.prediction_type]
        for part in ("text_encoder", "unet", "vae"):
            for name, value in sorted(getattr(self._pipeline, part).state_dict().items()):
                parts += [f"{part}.{name}{tuple(value.shape)}", value]
        return sha256_of(parts)

    def check_prompt(self, prompt: str, identifier: str = "") -> None:
        self._stage.check_prompt(prompt)

    def super_resolve(self, *_args: Any, **_kwargs: Any) -> Tensor:
        raise ValueError(f"the model {self.name} has no SR stage")

    def generate(self, prompts: Sequence[str], keys: Sequence[tuple], sampling: Sampling) -> Tensor:
        for prompt in prompts:
            self.check_prompt(prompt)
        job_batches = batches(list(zip(prompts, keys, strict=True)), self.batch_size)
        return torch.cat([self._draw_batch(jobs, sampling) for jobs in job_batches])

    def _draw_batch(self, jobs: Sequence[tuple[str, tuple]], sampling: Sampling) -> Tensor:
        """Draw the images of one batch of (prompt, key)."""
        stage, sampler = self._stage, sampling.samplers["base"]
        pipeline, negative = self._with_sampler(sampler), [sampling.negative_prompt] * len(jobs)
        scaled = scaled_adapter(stage, sampling.adapter_scale)
        with evaluation_mode(stage.denoiser), scaled:
            images = pipeline(
                prompt_embeds=stage.encode_prompts([prompt for prompt, _ in jobs])["text"],
                negative_prompt_embeds=stage.encode_prompts(negative)["text"],
                generator=[generator(*key, stage.name) for _, key in jobs],
                num_inference_steps=sampler.num_steps,
                guidance_scale=sampler.guidance_scale,
                height=stage.resolution_px,
                width=stage.resolution_px,
                output_type="pt",
            ).images
        return (images * 255).round().to(torch.uint8).cpu()

    def _with_sampler(self, sampler: Sampler) -> Any:
        """A pipeline of the same models with the scheduler of `sampler`.

        The scheduler takes its noise schedule from the model's own scheduler.
        """
        import diffusers

        scheduler = getattr(diffusers, SCHEDULERS[sampler.name]).from_config(
            self._pipeline.scheduler.config, **_SCHEDULER_SETTINGS
        )
        parts = {**self._pipeline.components, "scheduler": scheduler}
        pipeline = type(self._pipeline)(**parts, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.vae.enable_slicing()  # decodes one image at a time
        return pipeline.to(next(self._stage.denoiser.parameters()).device)

    def recipe(self, weights: Path, prompt: str, key: tuple, sampling: Sampling) -> str:
        stage, sampler = self._stage, sampling.samplers["base"]
        scheduler = SCHEDULERS[sampler.name]
        settings = ", ".join(f"{k}={v!r}" for k, v in _SCHEDULER_SETTINGS.items())
        model, adapter, load = weights, peft_model(stage.denoiser), ""
        if not (weights / "model_index.json").exists():  # less than a whole model was saved
            model = self._pipeline.name_or_path
        if adapter is not None:
            if not _is_lora(adapter):
                return ""
            load = f"\npipeline.load_lora_weights({str(weights)!r})"
        scale = ""
        if sampling.adapter_scale != 1:
            scale = f'\n    cross_attention_kwargs={{"scale": {sampling.adapter_scale}}},'
        if new_word_of(stage) is not None:
            load = f"\npipeline.load_textual_inversion({str(weights)!r})"
        return f"""\
import torch
from diffusers import {scheduler}, StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained({str(model)!r}, safety_checker=None){load}
pipeline.scheduler = {scheduler}.from_config(pipeline.scheduler.config, {settings})
image = pipeline(
    {prompt!r},
    negative_prompt={sampling.negative_prompt!r},
    num_inference_steps={sampler.num_steps},
    guidance_scale={sampler.guidance_scale},
    height={stage.resolution_px},
    width={stage.resolution_px},
    generator=torch.Generator().manual_seed({seed_of(*key, stage.name)}),{scale}
).images[0]"""

    def save(self, folder: Path) -> None:
        """Save a diffusers folder, which `StableDiffusionPipeline.from_pretrained` reads."""
        self._pipeline.save_pretrained(folder)

    def save_adapters(self, folder: Path, save_format: str) -> None:
        """A LoRA as `StableDiffusionPipeline.load_lora_weights` reads it; else as peft saves it."""
        adapted = {n: m for n, m in self._adaptable().items() if peft_model(m) is not None}
        if _is_lora(peft_model(self._stage.denoiser)):
            save_lora(self._pipeline, adapted, folder, save_format)
            return
        for name, module in adapted.items():
            save_adapter(module, folder / name)

    def read_adapters(self, folder: Path) -> dict[str, dict[str, Tensor]]:
        parts = self._adaptable()
        found = {name: read_adapter(folder / name) for name in parts if (folder / name).is_dir()}
        states = found or read_lora(parts, folder)
        return {"base": joined(states["unet"], states.get("text_encoder", {}))}

    def _adaptable(self) -> dict[str, nn.Module]:
        return {"unet": self._stage.denoiser, "text_encoder": self._stage.text_encoder}


def _is_lora(adapter: Any) -> bool:
    return bool(adapter.peft_config["default"].peft_type == "LORA")


def load_pipeline(pretrained: str | Path) -> Any:
    """Load a StableDiffusionPipeline in float32, without its safety checker.

    `pretrained`: a folder, or the id of a model on the Hub. ValueError if there is no such model,
    or if the model is of another family or damaged.
    """
    from diffusers import StableDiffusionPipeline

    folder = Path(pretrained).expanduser()
    source = str(folder if folder.exists() else pretrained)
    remedy = (
        "give model.backbone.pretrained=/path/to/folder with a Stable Diffusion 1.5 or 2.1 in the "
        "diffusers layout with safetensors weights (model_index.json, unet/, vae/, text_encoder/, "
        "tokenizer/, scheduler/)"
    )
    if absence := absence_of(pretrained, "model_index.json"):
        raise ValueError(f"{absence}; {remedy}")
    # In the cache, without a network: the Hub is not asked whether there is a newer version.
    offline = not folder.exists() and bool(problem_of(source))
    try:
        index = StableDiffusionPipeline.load_config(source, local_files_only=offline)
        if index.get("_class_name") != "StableDiffusionPipeline":
            raise ValueError(f"it is of another family, {index.get('_class_name')}")
        pipeline = StableDiffusionPipeline.from_pretrained(
            source,
            local_files_only=offline,
            safety_checker=None,
            requires_safety_checker=False,
            feature_extractor=None,
            use_safetensors=True,
        )
        # If its files are missing, transformers makes an empty tokenizer without any error.
        if len(pipeline.tokenizer) < pipeline.text_encoder.config.vocab_size:
            raise ValueError("its tokenizer has fewer tokens than its text encoder")
    except Exception as error:  # the libraries raise OSError, SafetensorError or a bare Exception
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ValueError(
            f"model {str(pretrained)!r} cannot be used ({reason}); {remedy}"
        ) from error
    # diffusers loads in float32, but transformers in the precision of the file.
    pipeline.text_encoder.float()
    return pipeline
