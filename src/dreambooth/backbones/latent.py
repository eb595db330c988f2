"""Latent diffusion: a denoiser in the latent space of a frozen VAE, drawn by diffusers' pipeline.

A family of models is a subclass of `LatentStage` and one of `LatentBackbone`, which have what
differs between the families, as in stable_diffusion.py.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dreambooth.backbones import distilled
from dreambooth.backbones.adapters import (
    is_lora,
    peft_model,
    read_adapter,
    save_adapter,
    scaled_adapter,
)
from dreambooth.backbones.latent_stage import LatentStage, scale_of
from dreambooth.backbones.lora_files import read_lora, save_lora
from dreambooth.backbones.new_word import new_word_of
from dreambooth.backbones.parity import checks_of
from dreambooth.backbones.pipelines import load_pipeline
from dreambooth.backbones.stage import ParityCheck, Sampling, Stage
from dreambooth.backbones.text_encoder import joined
from dreambooth.distributed.ranks import batches
from dreambooth.randomness import generator, seed_of
from dreambooth.runs.hashes import sha256_of
from dreambooth.runs.settings import Sampler
from dreambooth.sampling import evaluation_mode

_TILE_PX = 512


class LatentBackbone:
    """A latent pipeline of diffusers as a backbone with one stage, `base`.

    Images are drawn by the diffusers pipeline itself, from our prompt embeddings and with one
    generator for each image. `batch_size`: how many images are denoised at once. `vae_tiling`:
    whether the VAE encodes and decodes larger images in tiles of 512 px, whose seams it blends.
    """

    title: ClassVar[str]  # of the family, with its article
    pipeline_class: ClassVar[str]  # in diffusers
    stage_class: ClassVar[type[LatentStage]]
    load_arguments: ClassVar[Mapping[str, Any]] = {}  # of the pipeline's `from_pretrained`
    schedulers: ClassVar[Mapping[str, str]]  # sampler -> class of diffusers
    scheduler_settings: ClassVar[Mapping[str, Any]] = {}  # that replace those of the model
    adapter_formats: Sequence[str] = ("diffusers",)
    base_model: ClassVar[str] = ""  # to be given in place of those that are distilled from it

    def __init__(
        self,
        name: str,
        pipeline: Any,
        resolution_px: int | None = None,
        batch_size: int = 4,
        vae_tiling: bool = False,
        **settings: Any,  # further ones of the stage
    ):
        self.name, self.batch_size = name, batch_size
        self._stage = self.stage_class(pipeline, resolution_px, **settings)
        self.tokenizer = self._stage.tokenizer
        self.stages: Mapping[str, Stage] = {"base": self._stage}
        self._pipeline, self.vae = pipeline, pipeline.vae
        self.vae.enable_slicing()  # encodes and decodes one image at a time
        if vae_tiling:
            self.vae.enable_tiling()
            self.vae.tile_sample_min_size = _TILE_PX
            self.vae.tile_latent_min_size = _TILE_PX // scale_of(self.vae)

    @classmethod
    def load(
        cls,
        pretrained: str | Path,
        resolution_px: int | None = None,
        batch_size: int = 4,
        revision: str | None = None,
        config: str | Path | None = None,
        vae_tiling: bool = False,
    ) -> Self:
        """Load a folder, a model from the Hub or a file, in float32; see `load_pipeline`.

        `resolution_px`: the size of the images; None for the model's default, as 512. ValueError if
        there is no such model, or if it is of another family, not to be trained, or damaged.
        """
        pipeline = cls._load_pipeline(pretrained, revision=revision, config=config)
        return cls(Path(pretrained).name, pipeline, resolution_px, batch_size, vae_tiling)

    @classmethod
    def _load_pipeline(cls, pretrained: str | Path, **where: Any) -> Any:
        if cls.base_model:
            distilled.check_name(pretrained, cls.base_model)
        return load_pipeline(
            pretrained,
            cls.pipeline_class,
            cls.title,
            [cls.stage_class.denoiser_name, "vae", "scheduler"],
            cls.stage_class.text_encoders,
            cls.load_arguments,
            cls.check_configs,
            **where,
        )

    @classmethod
    def check_configs(
        cls, index: Mapping[str, Any], config_of: Callable[[str], Mapping[str, Any]]
    ) -> None:
        """ValueError if this model of the family is not to be trained, before its weights are read.

        `index`: of the pipeline. `config_of`: called with the name of a part, returns its config.
        """
        if cls.base_model:
            distilled.check_parts(index, config_of, cls.base_model)

    def fingerprint(self) -> str:
        # The same weights with another prediction type are another model.
        parts: list[Any] = [self._stage.schedule.prediction_type]
        for part in (*self._stage.text_encoders, self._stage.denoiser_name, "vae"):
            for name, value in sorted(getattr(self._pipeline, part).state_dict().items()):
                parts += [f"{part}.{name}{tuple(value.shape)}", value]
        return sha256_of(parts)

    def check_prompt(self, prompt: str, identifier: str = "") -> None:
        self._stage.check_prompt(prompt)

    def super_resolve(self, *_args: Any, **_kwargs: Any) -> Tensor:
        raise ValueError(f"the model {self.name} has no SR stage")

    def generate(self, prompts: Sequence[str], keys: Sequence[tuple], sampling: Sampling) -> Tensor:
        if sampling.negative_prompt and not self._stage.takes_negative:
            raise ValueError(
                f"negative_prompt={sampling.negative_prompt} changes nothing: this model is given "
                "the scale of its guidance, and guides itself; leave negative_prompt out"
            )
        for prompt in prompts:
            self.check_prompt(prompt)
        job_batches = batches(list(zip(prompts, keys, strict=True)), self.batch_size)
        try:
            return torch.cat([self._draw_batch(jobs, sampling) for jobs in job_batches])
        except torch.OutOfMemoryError as error:
            smaller = "resolution_px= a smaller size"
            if self.batch_size > 1:
                smaller = (
                    "batch_size=1; a run that has begun goes on if its whole command is given "
                    "again with this and hydra.run.dir=FOLDER"
                )
            raise ValueError(
                f"generating {self.batch_size} images of {self._stage.resolution_px} px at once "
                f"does not fit into the GPU's memory: give model.backbone.{smaller}"
            ) from error

    def _draw_batch(self, jobs: Sequence[tuple[str, tuple]], sampling: Sampling) -> Tensor:
        """Draw the images of one batch of (prompt, key)."""
        stage, sampler, negative = self._stage, sampling.samplers["base"], {}
        scaled = scaled_adapter(stage, sampling.adapter_scale)
        with evaluation_mode(stage.denoiser), scaled:
            if stage.takes_negative:
                negative_prompts = [sampling.negative_prompt] * len(jobs)
                negative = stage.pipeline_arguments(negative_prompts, prefix="negative_")
            pipeline = self._pipeline_with(self._scheduler(sampler))
            for name in stage.text_encoders:  # the prompts are encoded
                setattr(pipeline, name, None)
            images = pipeline(
                **stage.pipeline_arguments([prompt for prompt, _ in jobs]),
                **negative,
                generator=[generator(*key, stage.name) for _, key in jobs],
                num_inference_steps=sampler.num_steps,
                guidance_scale=sampler.guidance_scale,
                height=stage.resolution_px,
                width=stage.resolution_px,
                output_type="pt",
            ).images
        return (images * 255).round().to(torch.uint8).cpu()

    def _scheduler(self, sampler: Sampler) -> Any:
        """The scheduler of `sampler`, which takes its noise schedule from the model's own."""
        import diffusers

        scheduler_class = getattr(diffusers, self.schedulers[sampler.name])
        return scheduler_class.from_config(
            self._pipeline.scheduler.config, **self.scheduler_settings
        )

    def _pipeline_with(self, scheduler: Any) -> Any:
        """A pipeline of the same models with another scheduler."""
        pipeline = copy.copy(self._pipeline)
        pipeline.scheduler = scheduler
        pipeline.set_progress_bar_config(disable=True)
        pipeline.vae.to(next(self._stage.denoiser.parameters()).device)
        return pipeline

    def release(self) -> None:
        """Move what a training step does not need to the CPU: all but the denoiser."""
        for name in ("vae", *self._stage.text_encoders):
            module = getattr(self._pipeline, name)
            if not any(parameter.requires_grad for parameter in module.parameters()):
                module.to("cpu")

    def parity(self) -> Sequence[ParityCheck]:
        return checks_of(self._pipeline_with(self._pipeline.scheduler), self._stage)

    def recipe(self, weights: Path, prompt: str, key: tuple, sampling: Sampling) -> str:
        stage, sampler = self._stage, sampling.samplers["base"]
        scheduler = self.schedulers[sampler.name]
        model, adapter, load = weights, peft_model(stage.denoiser), ""
        if not (weights / "model_index.json").exists():  # less than a whole model was saved
            model = self._pipeline.name_or_path
        no_lora = adapter is not None and not is_lora(adapter)
        if no_lora or Path(model).is_file():  # a file's configs are elsewhere
            return ""
        if adapter is not None:
            load = f"\npipeline.load_lora_weights({str(weights)!r})"
        scale = ""
        if sampling.adapter_scale != 1:
            scale = f'\n    {stage.scale_argument}={{"scale": {sampling.adapter_scale}}},'
        if new_word_of(stage) is not None:
            load = f"\npipeline.load_textual_inversion({str(weights)!r})"
        revision = None if Path(model).exists() else getattr(self._pipeline, "revision", None)
        where = {} if revision is None else {"revision": revision}
        arguments = _as_code({**where, **self.load_arguments})
        loaded = f"from_pretrained({str(model)!r}{arguments}){load}"
        settings = f"(pipeline.scheduler.config{_as_code(self.scheduler_settings)})"
        negative = stage.negative_prompt_as_code(sampling.negative_prompt)
        negative = f"\n    {negative}," if negative else ""
        return f"""\
import torch
from diffusers import {scheduler}, {self.pipeline_class}

pipeline = {self.pipeline_class}.{loaded}
pipeline.scheduler = {scheduler}.from_config{settings}
image = pipeline(
    prompt={prompt!r},{negative}
    num_inference_steps={sampler.num_steps},
    guidance_scale={sampler.guidance_scale},
    height={stage.resolution_px},
    width={stage.resolution_px},
    generator=torch.Generator().manual_seed({seed_of(*key, stage.name)}),{scale}
).images[0]"""

    def save(self, folder: Path) -> None:
        """Save a diffusers folder, which `from_pretrained` of the pipeline reads."""
        self._pipeline.save_pretrained(folder)

    def save_adapters(self, folder: Path, save_format: str) -> None:
        """A LoRA as the pipeline's `load_lora_weights` reads it; else as peft saves it."""
        adapted = {n: m for n, m in self._adaptable().items() if peft_model(m) is not None}
        if is_lora(peft_model(self._stage.denoiser)):
            save_lora(self._pipeline, adapted, folder, save_format)
            return
        for name, module in adapted.items():
            save_adapter(module, folder / name)

    def read_adapters(self, folder: Path) -> dict[str, dict[str, Tensor]]:
        parts = self._adaptable()
        found = {name: read_adapter(folder / name) for name in parts if (folder / name).is_dir()}
        states = found or read_lora(parts, folder)
        denoiser = states[self._stage.denoiser_name]
        return {"base": joined(denoiser, states.get("text_encoder", {}))}

    def _adaptable(self) -> dict[str, nn.Module]:
        """The parts of the pipeline that may have an adapter, by their names in it."""
        text_encoder = self._stage.text_encoder
        of_text = {} if text_encoder is None else {"text_encoder": text_encoder}
        return {self._stage.denoiser_name: self._stage.denoiser, **of_text}


def _as_code(arguments: Mapping[str, Any]) -> str:
    """Further arguments of a call."""
    return "".join(f", {name}={value!r}" for name, value in arguments.items())
