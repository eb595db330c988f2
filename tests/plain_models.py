"""The denoisers of the tiny models, called with diffusers and transformers alone: references."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class PlainStage(NamedTuple):
    """`predict(z_t, t, prompts, added)` is the denoiser's output, (B, *x_shape).

    `added`: what `Stage.added_condition` gave, with a batch dimension.
    """

    denoiser: Any
    scheduler: Any  # of diffusers, which adds the noise of training
    predict: Callable[[Tensor, Tensor, Sequence[str], dict[str, Tensor]], Tensor]


def plain_stable_diffusion(folder: Path, stage: str) -> PlainStage:
    from diffusers import DDPMScheduler, StableDiffusionPipeline

    assert stage == "base"
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)

    def predict(z_t, t, prompts, added):
        text = pipeline.encode_prompt(prompts, "cpu", 1, False)[0].detach()
        return pipeline.unet(z_t, t, text).sample

    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    return PlainStage(pipeline.unet, scheduler, predict)


def plain_stable_diffusion_xl(folder: Path, stage: str) -> PlainStage:
    from diffusers import DDPMScheduler, StableDiffusionXLPipeline

    assert stage == "base"
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder)

    def predict(z_t, t, prompts, added):
        text, _, pooled, _ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False)
        conditions = {"text_embeds": pooled.detach(), "time_ids": added["time_ids"]}
        return pipeline.unet(z_t, t, text.detach(), added_cond_kwargs=conditions).sample

    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    return PlainStage(pipeline.unet, scheduler, predict)


def plain_flux(folder: Path, stage: str) -> PlainStage:
    """As diffusers' train_dreambooth_flux.py, given the guidance scale 3.5."""
    from diffusers import FluxPipeline

    assert stage == "base"
    pipeline = FluxPipeline.from_pretrained(folder)

    def predict(z_t, t, prompts, added):
        count, channels, height, width = z_t.shape
        text, pooled, text_ids = pipeline.encode_prompt(prompts, max_sequence_length=512)
        size = (count, height // 2, width // 2)
        output = pipeline.transformer(
            hidden_states=pipeline._pack_latents(z_t, count, channels, height, width),
            timestep=t / 1000,
            guidance=torch.tensor([3.5]).expand(count),
            pooled_projections=pooled.detach(),
            encoder_hidden_states=text.detach(),
            txt_ids=text_ids,
            img_ids=pipeline._prepare_latent_image_ids(*size, z_t.device, z_t.dtype),
        ).sample
        size_px = height * pipeline.vae_scale_factor
        return pipeline._unpack_latents(output, size_px, size_px, pipeline.vae_scale_factor)

    return PlainStage(pipeline.transformer, pipeline.scheduler, predict)


def plain_flux2_klein(folder: Path, stage: str) -> PlainStage:
    """As diffusers' train_dreambooth_lora_flux2_klein.py, with the text layers of the pipeline."""
    from diffusers import Flux2KleinPipeline

    assert stage == "base"
    pipeline = Flux2KleinPipeline.from_pretrained(folder)

    def predict(z_t, t, prompts, added):
        text, text_ids = pipeline.encode_prompt(prompts, text_encoder_out_layers=(9, 18, 27))
        image_ids = pipeline._prepare_latent_ids(z_t)
        output = pipeline.transformer(
            hidden_states=pipeline._pack_latents(z_t),
            timestep=t / 1000,
            encoder_hidden_states=text.detach(),
            txt_ids=text_ids,
            img_ids=image_ids,
        ).sample
        return pipeline._unpack_latents_with_ids(output, image_ids)

    return PlainStage(pipeline.transformer, pipeline.scheduler, predict)


def plain_cascade(folder: Path, stage: str) -> PlainStage:
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from transformers import AutoTokenizer, CLIPTextModel

    unet = UNet2DConditionModel.from_pretrained(folder / stage)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").requires_grad_(False)
    patch_px = json.loads((folder / "cascade.json").read_text())["stages"][stage]["patch_px"]

    def predict(z_t, t, prompts, added):
        length = text_encoder.config.max_position_embeddings
        tokens = tokenizer(prompts, padding="max_length", max_length=length, return_tensors="pt")
        text = text_encoder(tokens.input_ids).last_hidden_state
        inputs, enlarged, level = F.pixel_unshuffle(z_t, patch_px), 0, None
        if stage == "sr":
            enlarged = F.interpolate(added["low_resolution"], z_t.shape[-1], mode="bilinear")
            inputs = torch.cat([inputs, F.pixel_unshuffle(enlarged, patch_px)], dim=1)
            level = 1000 * (6 + added["noise_level"].log10()) / 6
        output = unet(inputs, t, text, class_labels=level).sample
        return enlarged + F.pixel_shuffle(output, patch_px)

    return PlainStage(unet, DDPMScheduler.from_pretrained(folder / stage), predict)
