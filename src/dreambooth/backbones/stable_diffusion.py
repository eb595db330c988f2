"""Stable Diffusion 1.5 and 2.1: one stage, whose x is the latent of a frozen VAE."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dreambooth.backbones.stage import Condition, Encoded, Sampling, Stage
from dreambooth.distributed.ranks import batches
from dreambooth.randomness import generator
from dreambooth.runs.hashes import sha256_of
from dreambooth.runs.settings import Sampler
from dreambooth.sampling import evaluation_mode
from dreambooth.schedules import schedule_of

SCHEDULERS = {  # of diffusers, for each sampler
    "ancestral": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "dpm": "DPMSolverMultistepScheduler",
}


class LatentStage:
    """The U-Net of a StableDiffusionPipeline; its VAE and text encoder are frozen.

    The frozen parts follow the U-Net's device when they are used. What is kept is on the CPU: the
    encoded images, whose noise is drawn there, and the text of every prompt so far.
    """

    def __init__(self, pipeline: Any, resolution_px: int | None = None):
        scale_px = pipeline.vae_scale_factor  # image pixels per latent pixel
        own_px = pipeline.unet.config.sample_size * scale_px
        resolution_px = own_px if resolution_px is None else resolution_px
        if resolution_px < scale_px or resolution_px % scale_px:
            raise ValueError(
                f"resolution_px={resolution_px} does not fit this model: its VAE needs a positive "
                f"multiple of {scale_px}, such as {own_px}"
            )
        size = resolution_px // scale_px
        # A saved model then draws at this resolution in plain diffusers too, when nothing is said.
        pipeline.unet.register_to_config(sample_size=size)
        for frozen in (pipeline.vae, pipeline.text_encoder):
            frozen.requires_grad_(False).eval()

        self.name = "base"
        self.denoiser: nn.Module = pipeline.unet
        self.schedule = schedule_of(pipeline.scheduler)
        self.resolution_px = resolution_px
        self.x_shape: tuple[int, ...] = (pipeline.vae.config.latent_channels, size, size)
        self._pipeline = pipeline
        self._texts: dict[str, Tensor] = {}  # of every prompt so far, (tokens, width)

    @property
    def _device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def added_condition(
        self, x: Tensor, generator: torch.Generator, noise_level: float | None
    ) -> Condition:
        return {}

    @torch.no_grad()
    def encode(self, images: Tensor) -> Encoded:
        # One by one: memory stays that of one image, and its bits do not depend on its batch.
        vae, device = self._pipeline.vae.to(self._device), self._device
        posteriors = [vae.encode(image.to(device)).latent_dist for image in images.split(1)]
        scale = vae.config.scaling_factor
        return Encoded(
            mean=torch.cat([p.mean for p in posteriors]).cpu() * scale,
            std=torch.cat([p.std for p in posteriors]).cpu() * scale,
        )

    def encode_prompts(self, prompts: Sequence[str], with_gradient: bool = False) -> Condition:
        """`text` (B, tokens, width). Raises ValueError on a prompt that is too long."""
        if with_gradient:
            self._texts.clear()
            return {"text": torch.stack([self._encode(prompt) for prompt in prompts])}
        for prompt in prompts:
            if prompt not in self._texts:
                with torch.no_grad():
                    self._texts[prompt] = self._encode(prompt).cpu()
        return {"text": torch.stack([self._texts[p] for p in prompts]).to(self._device)}

    def _encode(self, prompt: str) -> Tensor:
        """(tokens, width), of one prompt at a time: the bits do not depend on the batch."""
        self.check_prompt(prompt)
        self._pipeline.text_encoder.to(self._device)
        text, _ = self._pipeline.encode_prompt(prompt, self._device, 1, False)
        return text[0]

    def check_prompt(self, prompt: str) -> None:
        tokenizer = self._pipeline.tokenizer
        count, most = len(tokenizer(prompt).input_ids), tokenizer.model_max_length
        if count > most:
            raise ValueError(
                f"the prompt {prompt!r} has {count} tokens with the start and end marks, and this "
                f"model's text encoder takes {most}: shorten it by {count - most}"
            )

    def predict(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        text = condition["text"].to(z_t.device)
        return self.denoiser(z_t, t, encoder_hidden_states=text).sample.float()


class LatentBackbone:
    """A Stable Diffusion pipeline as a backbone of one stage, `base`.

    Pictures are drawn by the pipeline's own call, from our embeddings of the prompts and one
    generator for each image: they are those of plain diffusers.
    `batch_size`: how many images are denoised at once when pictures are drawn.
    """

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
        """From a folder or a hub id, with the errors of `load_pipeline`.

        `resolution_px`: of the images; the model's own (512, or 768) by default.
        """
        return cls(Path(pretrained).name, load_pipeline(pretrained), resolution_px, batch_size)

    def fingerprint(self) -> str:
        # The same weights mean another model where the prediction type differs.
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
        of_batches = batches(list(zip(prompts, keys, strict=True)), self.batch_size)
        return torch.cat([self._draw(jobs, sampling) for jobs in of_batches])

    def _draw(self, jobs: Sequence[tuple[str, tuple]], sampling: Sampling) -> Tensor:
        stage, sampler = self._stage, sampling.samplers["base"]
        pipeline = self._drawing_pipeline(sampler)
        with evaluation_mode(stage.denoiser):
            images = pipeline(
                prompt_embeds=stage.encode_prompts([prompt for prompt, _ in jobs])["text"],
                negative_prompt_embeds=stage.encode_prompts([""] * len(jobs))["text"],
                generator=[generator(*key, stage.name) for _, key in jobs],
                num_inference_steps=sampler.num_steps,
                guidance_scale=sampler.guidance_scale,
                height=stage.resolution_px,
                width=stage.resolution_px,
                output_type="pt",
            ).images
        return (images * 255).round().to(torch.uint8).cpu()

    def _drawing_pipeline(self, sampler: Sampler) -> Any:
        """The same parts with the sampler's scheduler, whose other settings are the model's own."""
        import diffusers

        scheduler = getattr(diffusers, SCHEDULERS[sampler.name]).from_config(
            self._pipeline.scheduler.config, timestep_spacing="trailing", clip_sample=False
        )
        parts = {**self._pipeline.components, "scheduler": scheduler}
        pipeline = type(self._pipeline)(**parts, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.vae.enable_slicing()  # decodes one image at a time
        return pipeline.to(next(self._stage.denoiser.parameters()).device)

    def save(self, folder: Path) -> None:
        """A complete diffusers folder: `StableDiffusionPipeline.from_pretrained` reads it."""
        self._pipeline.save_pretrained(folder)


def load_pipeline(pretrained: str | Path) -> Any:
    """A StableDiffusionPipeline without its safety checker, from a folder or a hub id; float32.

    Raises ValueError if there is no such model, or if it is of another family or damaged.
    """
    from diffusers import StableDiffusionPipeline

    folder = Path(pretrained).expanduser()
    source, found = str(folder if folder.exists() else pretrained), folder.exists()
    try:
        index = StableDiffusionPipeline.load_config(source)
        found = True
        if index.get("_class_name") != "StableDiffusionPipeline":
            raise ValueError(f"it is of another family, {index.get('_class_name')}")
        pipeline = StableDiffusionPipeline.from_pretrained(
            source,
            safety_checker=None,
            requires_safety_checker=False,
            feature_extractor=None,
            use_safetensors=True,
        )
        # transformers makes an empty tokenizer where the files are missing, and says nothing.
        if len(pipeline.tokenizer) < pipeline.text_encoder.config.vocab_size:
            raise ValueError("its tokenizer has fewer tokens than its text encoder")
    except Exception as error:  # each library has its own: OSError, SafetensorError, bare Exception
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        problem = f"model {str(pretrained)!r} cannot be used ({reason})"
        if not found:
            problem = (
                f"there is no model {str(pretrained)!r}: no folder {folder.absolute()}, nothing of "
                "this name in the Hugging Face cache, and the Hub does not know or reach it"
            )
        raise ValueError(
            f"{problem}; give model.backbone.pretrained=/path/to/folder, a Stable Diffusion 1.5 or "
            "2.1 in the diffusers layout with safetensors weights (model_index.json, unet/, vae/, "
            "text_encoder/, tokenizer/, scheduler/)"
        ) from error
    pipeline.text_encoder.float()  # else in the precision of its file; diffusers loads in float32
    return pipeline
