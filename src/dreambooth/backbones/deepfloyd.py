"""DeepFloyd IF: a cascade in pixels. Stage I draws 64 px, stage II enlarges them to 256 px.

Both denoisers predict eps and a variance. The loss does not train the variance. It is split off,
and images are drawn with the fixed variance of DDPM, as in diffusers' training scripts.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreambooth.backbones.adapters import (
    is_lora,
    peft_model,
    read_adapter,
    save_adapter,
    scaled_adapter,
)
from dreambooth.backbones.deepfloyd_loading import (
    INDEX,
    if_sources,
    load_if_pipeline,
    load_text_encoder,
    load_tokenizer,
)
from dreambooth.backbones.deepfloyd_parity import if_checks
from dreambooth.backbones.lora_files import FILE, read_lora, save_lora
from dreambooth.backbones.parity import PROMPTS
from dreambooth.backbones.stage import Condition, Encoded, ParityCheck, Sampling, Stage
from dreambooth.backbones.t5 import T5Prompts
from dreambooth.distributed.ranks import batches
from dreambooth.randomness import generator, seed_of
from dreambooth.runs.hashes import sha256_of
from dreambooth.runs.settings import Sampler
from dreambooth.sampling import evaluation_mode
from dreambooth.schedules import schedule_of
from dreambooth.subjects.photos import to_uint8

log = logging.getLogger(__name__)

LEVEL = 250  # the noise level of diffusers' pipeline, which images are drawn at by default

# sampler -> scheduler of diffusers. All else, such as dynamic thresholding, is as in the model's
# own. First-order DPM-Solver++ is DDIM (arXiv 2211.01095).
_FIXED = {"variance_type": "fixed_small"}
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ancestral": ("DDPMScheduler", _FIXED),
    "ddim": (
        "DPMSolverMultistepScheduler",
        _FIXED | {"solver_order": 1, "timestep_spacing": "trailing"},
    ),
    "dpm": (
        "DPMSolverMultistepScheduler",
        _FIXED | {"solver_order": 2, "timestep_spacing": "trailing"},
    ),
}


class DeepFloydStage:
    """The U-Net of an IFPipeline (`base`) or an IFSuperResolutionPipeline (`sr`).

    The SR stage also sees the low-resolution image, enlarged and then corrupted by noise, and the
    noise level: a timestep of the pipeline's `image_noising_scheduler`. A variance s in [0, 1) is
    mapped to the timestep whose variance 1 - alphas_cumprod is nearest. With the published schedule
    (squaredcos_cap_v2, 1000 timesteps) the variance that is used differs from s by at most 0.00078.
    1e-3 is timestep 13 (1.02e-3); everything up to 6.4e-5, as 1e-5, is timestep 0 (4.13e-5).
    """

    def __init__(
        self, name: str, pipeline: Any, text: T5Prompts, low_resolution_px: int | None = None
    ):
        self.name, self.pipeline, self.text = name, pipeline, text
        self.denoiser: nn.Module = pipeline.unet
        self.schedule = schedule_of(pipeline.scheduler)
        self.resolution_px: int = pipeline.unet.config.sample_size
        self.low_resolution_px = low_resolution_px
        self.x_shape: tuple[int, ...] = (3, self.resolution_px, self.resolution_px)
        self._levels: dict[float, int] = {}

    @property
    def tokenizer(self) -> Any:
        return self.text.tokenizer

    @property
    def can_train_text_encoder(self) -> bool:
        return False  # T5 is not saved with the model

    @property
    def text_encoder(self) -> Any:
        return self.text.model

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def encode(self, images: Tensor) -> Encoded:
        return Encoded(images)

    def encode_prompts(self, prompts: Sequence[str], with_gradient: bool = False) -> Condition:
        """Encode prompts as `text` (B, 77, width). ValueError if a prompt is too long."""
        if with_gradient:
            self.text.model.to(self.device)
        return {"text": self.text(prompts, with_gradient).to(self.device)}

    def added_condition(
        self, x: Tensor, generator: torch.Generator, noise_level: float | None
    ) -> Condition:
        """For the SR stage, the image at low resolution (averaged over areas), as
        `low_resolution` (3, resolution_px, resolution_px), and its `noise_level`, a timestep."""
        if self.low_resolution_px is None:
            return {}
        low = F.adaptive_avg_pool2d(x[None], self.low_resolution_px)
        enlarged = F.interpolate(low, x.shape[-2:], mode="bilinear", align_corners=True)
        level = torch.tensor([self.level_of(noise_level)])
        eps = torch.randn(x.shape, generator=generator)[None]
        noised = self.pipeline.image_noising_scheduler.add_noise(enlarged, eps, level)
        return {"low_resolution": noised[0], "noise_level": level[0]}

    def level_of(self, noise_level: float | None) -> int:
        """The timestep of the image-noising schedule for a variance in [0, 1); None: the default
        of diffusers' pipeline, 250. The first use of a variance is logged."""
        if noise_level is None:
            return LEVEL
        if noise_level not in self._levels:
            variances = 1 - self.pipeline.image_noising_scheduler.alphas_cumprod.double()
            level = int((variances - noise_level).abs().argmin())
            log.info(
                "sr.noise_level=%g is timestep %d of this model, of variance %.3g",
                noise_level,
                level,
                variances[level],
            )
            self._levels[noise_level] = level
        return self._levels[noise_level]

    def predict(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        inputs, level = z_t, None
        if self.low_resolution_px is not None:
            inputs = torch.cat([z_t, condition["low_resolution"]], 1)  # (B, 6, H, W)
            level = condition["noise_level"]
        text = condition["text"].to(z_t.device)
        output = self.denoiser(inputs, t, encoder_hidden_states=text, class_labels=level).sample
        return output[:, :3].float()


class DeepFloydBackbone:
    """The pipelines of stages I and II of DeepFloyd IF as the stages `base` and `sr`.

    Images are drawn by the pipelines themselves, from our prompt embeddings and with one generator
    for each image and stage. `text_source`: the pipeline whose text encoder is used, which is
    neither kept in memory nor saved. `batch_size`: how many images are denoised at once.
    """

    adapter_formats: Sequence[str] = ("diffusers",)

    def __init__(
        self,
        name: str,
        pipelines: Mapping[str, Any],
        text: T5Prompts,
        text_source: str,
        batch_size: int = 4,
    ):
        self.name, self.batch_size = name, batch_size
        self.tokenizer = text.tokenizer
        low_px = pipelines["base"].unet.config.sample_size
        self._stages = {
            stage: DeepFloydStage(stage, pipeline, text, low_px if stage == "sr" else None)
            for stage, pipeline in pipelines.items()
        }
        self.stages: Mapping[str, Stage] = self._stages
        self._text, self._text_source = text, text_source

    @classmethod
    def load(
        cls,
        pretrained: str | Path,
        pretrained_sr: str | Path | None = None,
        text_encoder: str | Path | None = None,
        batch_size: int = 4,
    ) -> "DeepFloydBackbone":
        """Load both stages, each from a folder or from the Hub, in float32.

        `pretrained`: stage I, or a folder with both stages, as `save` writes it. `pretrained_sr`:
        stage II; None for a model without it. `text_encoder`: where T5 is, if not in `pretrained`.
        ValueError if a part is missing, damaged, or of another family.
        """
        base, sr = if_sources(pretrained, pretrained_sr)
        pipelines = {"base": load_if_pipeline(base, "IFPipeline", "pretrained")}
        if sr is not None:
            pipelines["sr"] = load_if_pipeline(sr, "IFSuperResolutionPipeline", "pretrained_sr")
        text_source, _ = if_sources(text_encoder or pretrained, None)
        tokenizer = load_tokenizer(text_source, pipelines)
        text = T5Prompts(partial(load_text_encoder, text_source), tokenizer)
        return cls(Path(pretrained).name, pipelines, text, text_source, batch_size)

    def fingerprint(self) -> str:
        parts: list[Any] = [self._text.digest()]
        for name, stage in self._stages.items():
            for key, value in sorted(stage.denoiser.state_dict().items()):
                parts += [f"{name}.{key}{tuple(value.shape)}", value]
        return sha256_of(parts)

    def check_prompt(self, prompt: str, identifier: str = "") -> None:
        self._text.expect(prompt)

    def generate(self, prompts: Sequence[str], keys: Sequence[tuple], sampling: Sampling) -> Tensor:
        return self._draw(prompts, keys, sampling, None)

    def super_resolve(
        self, low: Tensor, prompts: Sequence[str], keys: Sequence[tuple], sampling: Sampling
    ) -> Tensor:
        if "sr" not in self._stages:
            raise ValueError(f"the model {self.name} has no SR stage")
        return self._draw(prompts, keys, sampling, low)

    def _draw(
        self, prompts: Sequence[str], keys: Sequence[tuple], sampling: Sampling, low: Tensor | None
    ) -> Tensor:
        """Draw images in batches. `low`: images [-1, 1] (N, 3, h, w) to use as the base stage's."""
        self._text([*prompts, sampling.negative_prompt])  # all at once, so that T5 is loaded once
        job_batches = batches(list(zip(prompts, keys, strict=True)), self.batch_size)
        low_batches = [None] * len(job_batches) if low is None else low.split(self.batch_size)
        pairs = zip(job_batches, low_batches, strict=True)
        return torch.cat([self._draw_batch(jobs, sampling, images) for jobs, images in pairs])

    def _draw_batch(
        self, jobs: Sequence[tuple[str, tuple]], sampling: Sampling, low: Tensor | None
    ) -> Tensor:
        """Draw the images of one batch of (prompt, key), as `_draw` does."""
        images = low
        for name, stage in self._stages.items():
            if name == "base" and low is not None:
                continue
            if name == "sr" and not sampling.super_resolution:
                assert images is not None
                size_px = stage.resolution_px
                images = F.interpolate(images, size_px, mode="bicubic", antialias=True)
                continue
            images = self._call_pipeline(stage, jobs, sampling, images)
            if name == sampling.last_stage:
                break
        assert images is not None
        return to_uint8(images.clamp(-1, 1)).cpu()

    def _call_pipeline(
        self,
        stage: DeepFloydStage,
        jobs: Sequence[tuple[str, tuple]],
        sampling: Sampling,
        low: Tensor | None,
    ) -> Tensor:
        """Images [-1, 1] (B, 3, H, W) of one stage, by the pipeline's own call."""
        sampler = sampling.samplers[stage.name]
        negative = [sampling.negative_prompt] * len(jobs)
        of_sr = {}
        if stage.name == "sr":
            of_sr = {"image": low, "noise_level": stage.level_of(sampling.noise_level)}
        scaled = scaled_adapter(stage, sampling.adapter_scale)
        with evaluation_mode(stage.denoiser), scaled:
            images: Tensor = with_sampler(stage.pipeline, sampler)(
                prompt_embeds=stage.encode_prompts([prompt for prompt, _ in jobs])["text"],
                negative_prompt_embeds=stage.encode_prompts(negative)["text"],
                generator=[generator(*key, stage.name) for _, key in jobs],
                num_inference_steps=sampler.num_steps,
                guidance_scale=sampler.guidance_scale,
                output_type="pt",
                **of_sr,
            ).images
        return images

    def parity(self) -> Sequence[ParityCheck]:
        for prompt in PROMPTS:
            self._text.expect(prompt)
        t5 = self._text.loaded()
        return [check for stage in self._stages.values() for check in if_checks(stage, t5)]

    def recipe(self, weights: Path, prompt: str, key: tuple, sampling: Sampling) -> str:
        last = sampling.last_stage or list(self._stages)[-1]
        if last == "sr" and not sampling.super_resolution:
            return ""  # diffusers has no bicubic stage
        stages = ["base"] if last == "base" else ["base", "sr"]
        calls = [self._recipe_of(stage, weights, key, sampling, stage == last) for stage in stages]
        if not all(calls):
            return ""
        kinds = {type(self._stages[name].pipeline).__name__ for name in stages}
        kinds |= {SCHEDULERS[sampling.samplers[name].name][0] for name in stages}
        return f"""\
import torch
from diffusers import {", ".join(sorted(kinds))}

no = dict.fromkeys(["safety_checker", "feature_extractor", "watermarker"])
t5 = IFPipeline.from_pretrained({self._text_source!r}, unet=None, **no)
prompt_embeds, negative_prompt_embeds = t5.encode_prompt(
    {prompt!r}, negative_prompt={sampling.negative_prompt!r}
)
del t5
text = dict(prompt_embeds=prompt_embeds, negative_prompt_embeds=negative_prompt_embeds)

""" + "\n\n".join(calls)

    def _recipe_of(
        self, name: str, weights: Path, key: tuple, sampling: Sampling, is_last: bool
    ) -> str:
        """The lines of one stage; "" if diffusers cannot load its adapter."""
        stage, sampler = self._stages[name], sampling.samplers[name]
        model, adapter, load = str(weights / name), peft_model(stage.denoiser), ""
        if not (weights / name / INDEX).exists():  # less than a whole model was saved
            model = stage.pipeline.name_or_path
        if adapter is not None and (weights / name).is_dir():
            if not is_lora(adapter):
                return ""
            load = f"\n{name}.load_lora_weights({str(weights / name)!r})"
        scheduler, settings = SCHEDULERS[sampler.name]
        words = ", ".join(f"{k}={v!r}" for k, v in settings.items())
        level = stage.level_of(sampling.noise_level) if name == "sr" else None
        of_sr = f"\n    image=images,\n    noise_level={level}," if name == "sr" else ""
        result, images = ("image", "images[0]") if is_last else ("images", "images")
        output = "" if is_last else '\n    output_type="pt",'
        if sampling.adapter_scale != 1:
            output += f'\n    cross_attention_kwargs={{"scale": {sampling.adapter_scale}}},'
        return f"""\
{name} = {type(stage.pipeline).__name__}.from_pretrained({model!r}, text_encoder=None, **no){load}
{name}.scheduler = {scheduler}.from_config({name}.scheduler.config, {words})
{result} = {name}(
    **text,{of_sr}
    num_inference_steps={sampler.num_steps},
    guidance_scale={sampler.guidance_scale},{output}
    generator=torch.Generator().manual_seed({seed_of(*key, name)}),
).{images}"""

    def save(self, folder: Path) -> None:
        """Save a folder for each stage, which `from_pretrained` of its pipeline reads.

        They have no tokenizer and no text encoder: these are the pretrained model's.
        """
        for name, stage in self._stages.items():
            stage.pipeline.save_pretrained(folder / name)

    def save_adapters(self, folder: Path, save_format: str) -> None:
        """A folder for each stage with an adapter: a LoRA as `load_lora_weights` of its pipeline
        reads it, else as peft saves it."""
        for name, stage in self._stages.items():
            adapter = peft_model(stage.denoiser)
            if adapter is None:
                continue
            if is_lora(adapter):
                save_lora(stage.pipeline, {"unet": stage.denoiser}, folder / name, save_format)
            else:
                save_adapter(stage.denoiser, folder / name)

    def read_adapters(self, folder: Path) -> dict[str, dict[str, Tensor]]:
        found = {}
        for name, stage in self._stages.items():
            if (folder / name / FILE).is_file():
                found[name] = read_lora({"unet": stage.denoiser}, folder / name)["unet"]
            elif (folder / name).is_dir():
                found[name] = read_adapter(folder / name)
        return found


def with_sampler(pipeline: Any, sampler: Sampler) -> Any:
    """A pipeline of the same models with the scheduler of `sampler`."""
    import diffusers

    scheduler, settings = SCHEDULERS[sampler.name]
    parts = {
        **pipeline.components,
        "scheduler": getattr(diffusers, scheduler).from_config(
            pipeline.scheduler.config, **settings
        ),
    }
    other = type(pipeline)(**parts, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    return other
