"""What the prior term compares with: prior images, or the frozen model's own prediction.

Prior images are samples of the frozen model under the class prompt (paper, section 3.3).
"""

import copy
import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dreambooth.backbones.adapters import peft_model
from dreambooth.backbones.stage import Backbone, Condition, Encoded, Sampling, Stage
from dreambooth.runs.prior_cache import key_digest, prior_images
from dreambooth.runs.settings import Prior
from dreambooth.subjects.photos import from_uint8

log = logging.getLogger(__name__)


class FrozenStage:
    """A stage as it was pretrained, whose predictions are the targets of prior=output and blank.

    The fine-tuned model is to predict the same as the frozen one under the class prompt (output) or
    the empty prompt (blank), at noised photos of the subject: Learning without Forgetting (Li and
    Hoiem, arXiv 1606.09282). For adapters it is known as differential output preservation and blank
    prompt preservation (github.com/ostris/ai-toolkit).

    A stage with an adapter predicts with the adapter turned off; else a copy of the denoiser does,
    made now, before training.
    """

    def __init__(self, stage: Stage):
        self.stage, self.copy = stage, None
        if peft_model(stage.denoiser) is None:
            self.copy = copy.deepcopy(stage.denoiser).requires_grad_(False)

    @torch.no_grad()
    def predict(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """What `Stage.predict` returned before training."""
        if self.copy is None:
            with peft_model(self.stage.denoiser).disable_adapter():
                return self.stage.predict(z_t, t, condition)
        trained = self.stage.denoiser
        example = next(p for p in trained.parameters() if p.requires_grad)
        self.stage.denoiser = self.copy.to(example)  # its device and precision
        try:
            return self.stage.predict(z_t, t, condition)
        finally:
            self.stage.denoiser = trained


def encode_prior(
    backbone: Backbone,
    fingerprint: str,
    stage_name: str,
    class_prompt: str,
    prior: Prior,
    sampling: Sampling,
    precision: str = "32-true",
) -> Encoded:
    """The prior images, encoded for a stage. Those that the cache lacks are drawn now.

    `fingerprint`: that of the pretrained model, before a method adds anything to it. `precision`:
    that the backbone draws in, in Lightning's words.
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
    if precision.endswith("mixed"):
        cache_key["precision"] = precision
    if getattr(getattr(backbone, "vae", None), "use_tiling", False):
        cache_key["vae"] = "tiled"
    digest = key_digest(cache_key)

    def make(indices: list[int]) -> Any:
        noise_keys: list[tuple] = [("prior", digest, i) for i in indices]
        prompts = [class_prompt] * len(indices)
        images = backbone.generate(prompts, noise_keys, replace(sampling, last_stage=stage_name))
        return images.permute(0, 2, 3, 1).numpy()

    cached = prior_images(prior.cache, cache_key, prior.num_images, make, batch_size=16)
    log.info("prior images: %d of %r (%d made now)", len(cached.images), class_prompt, cached.made)
    return stage.encode(from_uint8(torch.from_numpy(cached.images).permute(0, 3, 1, 2)))
