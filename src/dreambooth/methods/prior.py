"""Prior images: samples of the frozen model under the class prompt (paper, section 3.3)."""

import logging
from dataclasses import replace
from typing import Any

import torch

from dreambooth.backbones.stage import Backbone, Encoded, Sampling
from dreambooth.runs.prior_cache import key_digest, prior_images
from dreambooth.runs.settings import Prior
from dreambooth.subjects.photos import from_uint8

log = logging.getLogger(__name__)


def encode_prior(
    backbone: Backbone,
    fingerprint: str,
    stage_name: str,
    class_prompt: str,
    prior: Prior,
    sampling: Sampling,
) -> Encoded:
    """The prior images, encoded for a stage. Those that the cache lacks are drawn now.

    `fingerprint`: that of the pretrained model, before a method adds anything to it.
    """
    stage, sampler = backbone.stages[stage_name], sampling.samplers[stage_name]
    cache_key: dict[str, str | int | float] = {
        "model": fingerprint,
        "stage": stage_name,
        "prompt": class_prompt,
        "sampler": sampler.name,
        "steps": sampler.num_steps,
        "guidance": sampler.guidance_scale,
        "resolution_px": stage.resolution_px,
    }
    if stage_name != "base":  # these images depend on the base stage's sampler too
        base = sampling.samplers["base"]
        cache_key["base"] = f"{base.name} {base.num_steps} {base.guidance_scale:g}"
    digest = key_digest(cache_key)

    def make(indices: list[int]) -> Any:
        noise_keys: list[tuple] = [("prior", digest, i) for i in indices]
        prompts = [class_prompt] * len(indices)
        images = backbone.generate(prompts, noise_keys, replace(sampling, last_stage=stage_name))
        return images.permute(0, 2, 3, 1).numpy()

    cached = prior_images(prior.cache, cache_key, prior.num_images, make, batch_size=16)
    log.info("prior images: %d of %r (%d made now)", len(cached.images), class_prompt, cached.made)
    return stage.encode(from_uint8(torch.from_numpy(cached.images).permute(0, 3, 1, 2)))
