"""Pixel-space cascades: a base stage, then text-conditional super-resolution (paper, section 5)."""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dreambooth.backbones.adapters import peft_model, read_adapter, save_adapter, scaled_adapter
from dreambooth.backbones.new_word import with_all_tokens
from dreambooth.backbones.stage import Condition, Encoded, ParityCheck, Sampling
from dreambooth.backbones.text_encoder import joined
from dreambooth.distributed.ranks import batches
from dreambooth.randomness import generator
from dreambooth.runs.hashes import sha256_of
from dreambooth.sampling import sample
from dreambooth.schedules import schedule_of
from dreambooth.subjects.photos import to_uint8

NOISE_LEVEL = 1e-3  # default variance of the noise on the SR stage's condition


class PromptEncoder:
    """A text encoder with a cache of the prompts that it has encoded without gradient."""

    def __init__(self, tokenizer: Any, model: Any, max_tokens: int):
        self.tokenizer, self.model, self.max_tokens = tokenizer, model.eval(), max_tokens
        self._cache: dict[str, Tensor] = {}

    def __call__(self, prompts: Sequence[str], with_gradient: bool = False) -> Tensor:
        """Hidden states (N, max_tokens, width). With gradient, the cache is cleared."""
        if with_gradient:
            self._cache.clear()
            tokens = self.tokens(prompts).to(self.model.device)
            return self.model(tokens).last_hidden_state
        new = [p for p in dict.fromkeys(prompts) if p not in self._cache]
        if new:
            with torch.no_grad():
                states = self.model(self.tokens(new).to(self.model.device)).last_hidden_state
            self._cache.update(zip(new, states, strict=True))
        return torch.stack([self._cache[p] for p in prompts])

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Token ids (N, max_tokens), padded or truncated."""
        padded = self.tokenizer(
            [with_all_tokens(prompt, self.tokenizer) for prompt in prompts],
            padding="max_length",
            truncation=True,
            max_length=self.max_tokens,
        )
        return torch.tensor(padded.input_ids)

    def check_length(self, prompt: str) -> None:
        """ValueError if the prompt has more tokens than the text encoder takes."""
        text = with_all_tokens(prompt, self.tokenizer)
        count = len(self.tokenizer(text, verbose=False).input_ids)
        if count > self.max_tokens:
            raise ValueError(
                f"the prompt {prompt!r} has {count} tokens, and this model's text encoder takes "
                f"{self.max_tokens}: shorten it by {count - self.max_tokens}"
            )


class CascadeStage:
    """One U-Net of a cascade, on pixels rearranged into patches.

    A square of `patch_px` x `patch_px` pixels is one position of the U-Net. This rearrangement
    (pixel unshuffle) is a permutation, so that z_t, eps and the loss are those of the plain image.

    A stage with `low_resolution_px` is an SR stage: it also sees the low-resolution image and its
    noise level. It predicts x as the enlarged low-resolution image plus the U-Net's output. The
    U-Net thus has only the missing detail to predict, which in flat areas is zero.
    """

    def __init__(
        self,
        name: str,
        denoiser: Any,  # UNet2DConditionModel
        scheduler: Any,  # the diffusers scheduler that the denoiser was trained with
        prompt_encoder: PromptEncoder,
        resolution_px: int,
        patch_px: int,
        low_resolution_px: int | None = None,
    ):
        self.name, self.denoiser, self.scheduler = name, denoiser, scheduler
        self.schedule = schedule_of(scheduler)
        self.prompt_encoder = prompt_encoder
        self.resolution_px, self.patch_px = resolution_px, patch_px
        self.low_resolution_px = low_resolution_px
        self.x_shape: tuple[int, ...] = (3, resolution_px, resolution_px)
        assert low_resolution_px is None or self.schedule.prediction_type == "sample"

    @property
    def tokenizer(self) -> Any:
        return self.prompt_encoder.tokenizer

    @property
    def can_train_text_encoder(self) -> bool:
        return True

    @property
    def text_encoder(self) -> Any:
        return self.prompt_encoder.model

    def encode(self, images: Tensor) -> Encoded:
        return Encoded(images)

    def encode_prompts(self, prompts: Sequence[str], with_gradient: bool = False) -> Condition:
        device = next(self.denoiser.parameters()).device
        return {"text": self.prompt_encoder(prompts, with_gradient).to(device)}

    def added_condition(
        self, x: Tensor, generator: torch.Generator, noise_level: float | None
    ) -> Condition:
        """For an SR stage, the image at low resolution (averaged over areas), with noise of
        variance `noise_level` (paper, section 3.4)."""
        if self.low_resolution_px is None:
            return {}
        low = F.adaptive_avg_pool2d(x[None], self.low_resolution_px)
        return {k: v[0] for k, v in self.low_condition(low, noise_level, [generator]).items()}

    def low_condition(
        self, low: Tensor, noise_level: float | None, generators: Sequence[torch.Generator]
    ) -> Condition:
        """The SR condition from images [-1, 1] (B, 3, h, w); a generator for each image's noise."""
        s = torch.full((len(low),), NOISE_LEVEL if noise_level is None else noise_level)
        eps = torch.stack([torch.randn(low.shape[1:], generator=g) for g in generators])
        s, eps = s.to(low.device), eps.to(low.device)
        return {"low_resolution": corrupt_low_resolution(low, s, eps), "noise_level": s}

    def predict(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        inputs, level_input, enlarged = F.pixel_unshuffle(z_t, self.patch_px), None, None
        if self.low_resolution_px is not None:
            low = condition["low_resolution"]
            enlarged = F.interpolate(low, self.resolution_px, mode="bilinear")
            inputs = torch.cat([inputs, F.pixel_unshuffle(enlarged, self.patch_px)], 1)
            level_input = noise_level_input(condition["noise_level"])
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        output = self.denoiser(inputs, t, condition["text"], class_labels=level_input).sample
        output = F.pixel_shuffle(output.float(), self.patch_px)
        return output if enlarged is None else enlarged + output


def noise_level_input(noise_level: Tensor) -> Tensor:
    """The SR U-Net's input for the noise variance s (B,) of its condition.

    1000 (6 + log10 max(s, 1e-6)) / 6: from 0 at s <= 1e-6 to 1000 at s = 1, the range of timesteps.
    """
    return 1000 / 6 * (6 + noise_level.clamp(min=1e-6).log10())


def corrupt_low_resolution(low: Tensor, noise_level: Tensor, eps: Tensor) -> Tensor:
    """Noise conditioning augmentation: sqrt(1 - s) low + sqrt(s) eps, with s (B,) the variance."""
    s = noise_level.view(-1, 1, 1, 1)
    return (1 - s).sqrt() * low + s.sqrt() * eps


class CascadeBackbone:
    """A base stage and an optional SR stage, which share one text encoder.

    With `known_words_only`, each word of a prompt must be one token of the vocabulary.
    """

    adapter_formats = ("diffusers",)

    def __init__(
        self,
        name: str,
        stages: Mapping[str, CascadeStage],
        prompt_encoder: PromptEncoder,
        known_words_only: bool = False,
        batch_size: int = 50,
    ):
        self.name, self.stages, self.prompt_encoder = name, stages, prompt_encoder
        self.tokenizer = prompt_encoder.tokenizer
        self.known_words_only = known_words_only
        self.batch_size = batch_size

    @classmethod
    def load(cls, pretrained: str | Path, **kwargs: Any) -> "CascadeBackbone":
        """Load a folder that has cascade.json and a diffusers folder for each part of the model.

        ValueError if there is no such folder, or if a part of it is missing or damaged.
        """
        folder = Path(pretrained)
        if not (folder / "cascade.json").is_file():
            raise ValueError(
                f"there is no cascade in {folder} (no cascade.json): give "
                "model.backbone.pretrained=FOLDER of a saved one, or make one with src/pretrain.py"
            )
        try:
            return cls._load(folder, **kwargs)
        except Exception as error:  # the libraries raise OSError, SafetensorError, KeyError ...
            reason = " ".join(str(error).split())
            raise ValueError(f"the cascade in {folder} is damaged ({reason})") from error

    @classmethod
    def _load(cls, folder: Path, **kwargs: Any) -> "CascadeBackbone":
        from diffusers import DDPMScheduler, UNet2DConditionModel
        from diffusers.models.attention_processor import AttnProcessor
        from transformers import AutoTokenizer, CLIPTextModel

        description = json.loads((folder / "cascade.json").read_text())
        text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        prompt_encoder = PromptEncoder(
            tokenizer, text_encoder, text_encoder.config.max_position_embeddings
        )
        stages = {}
        for name, sizes in description["stages"].items():
            unet = UNet2DConditionModel.from_pretrained(folder / name)
            # At these small sizes plain attention is faster than the fused kernel on a CPU.
            unet.set_attn_processor(AttnProcessor())
            unet.to(memory_format=torch.channels_last).eval()
            scheduler = DDPMScheduler.from_pretrained(folder / name)
            stages[name] = CascadeStage(name, unet, scheduler, prompt_encoder, **sizes)
        return cls(
            description["name"],
            stages,
            prompt_encoder,
            known_words_only=description["known_words_only"],
            **kwargs,
        )

    def save(self, folder: Path) -> None:
        """Save everything that `load` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, stage in self.stages.items():
            stage.denoiser.save_pretrained(folder / name)
            stage.scheduler.save_pretrained(folder / name)
        self.prompt_encoder.model.save_pretrained(folder / "text_encoder")
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.describe(folder)

    def save_adapters(self, folder: Path, save_format: str) -> None:
        """A folder for each denoiser or text encoder with an adapter, in peft's layout."""
        denoisers = {name: stage.denoiser for name, stage in self.stages.items()}
        for name, module in {**denoisers, "text_encoder": self.prompt_encoder.model}.items():
            if peft_model(module) is not None:
                save_adapter(module, folder / name)

    def read_adapters(self, folder: Path) -> dict[str, dict[str, Tensor]]:
        parts = [path.name for path in folder.iterdir() if path.is_dir()]
        states = {name: read_adapter(folder / name) for name in self.stages if name in parts}
        if "text_encoder" in parts:
            states["base"] = joined(states["base"], read_adapter(folder / "text_encoder"))
        return states

    def describe(self, folder: Path) -> None:
        """Write cascade.json, which describes the parts of the folder."""
        sizes = ("resolution_px", "patch_px", "low_resolution_px")
        description = {
            "name": self.name,
            "known_words_only": self.known_words_only,
            "stages": {
                name: {size: getattr(stage, size) for size in sizes}
                for name, stage in self.stages.items()
            },
        }
        (folder / "cascade.json").write_text(json.dumps(description, indent=2) + "\n")

    def fingerprint(self) -> str:
        models = (self.prompt_encoder.model, *(s.denoiser for s in self.stages.values()))
        pairs = (pair for model in models for pair in sorted(model.state_dict().items()))
        return sha256_of(part for pair in pairs for part in pair)[:16]

    def check_prompt(self, prompt: str, identifier: str = "") -> None:
        self.prompt_encoder.check_length(prompt)
        if not self.known_words_only:
            return
        for word in prompt.split():
            if word in identifier.split():
                continue
            tokens = self.tokenizer.tokenize(word)
            if len(tokens) != 1 or tokens[0] == self.tokenizer.unk_token:
                raise ValueError(
                    f"the word {word!r} of {prompt!r} is outside the vocabulary of model "
                    f"{self.name}; the nearest words are {', '.join(self._nearest_words(word))}"
                )

    def _nearest_words(self, word: str) -> list[str]:
        import difflib

        words = [w for w in self.tokenizer.get_vocab() if w.isalpha() and len(w) > 2]
        return difflib.get_close_matches(word.lower(), words, n=3, cutoff=0.0)

    def generate(self, prompts: Sequence[str], keys: Sequence[tuple], sampling: Sampling) -> Tensor:
        return self._draw(prompts, keys, sampling, None)

    def super_resolve(
        self, low: Tensor, prompts: Sequence[str], keys: Sequence[tuple], sampling: Sampling
    ) -> Tensor:
        if "sr" not in self.stages:
            raise ValueError(f"the model {self.name} has no SR stage")
        return self._draw(prompts, keys, sampling, low)

    def parity(self) -> Sequence[ParityCheck]:
        return []

    def recipe(self, weights: Path, prompt: str, key: tuple, sampling: Sampling) -> str:
        return ""

    def _draw(
        self, prompts: Sequence[str], keys: Sequence[tuple], sampling: Sampling, low: Tensor | None
    ) -> Tensor:
        """Draw images in batches. `low`: images [-1, 1] (N, 3, h, w) to use as the base stage's."""
        for prompt in prompts:
            self.prompt_encoder.check_length(prompt)
        job_batches = batches(list(zip(prompts, keys, strict=True)), self.batch_size)
        low_batches = [None] * len(job_batches) if low is None else low.split(self.batch_size)
        pairs = zip(job_batches, low_batches, strict=True)
        return torch.cat([self._draw_batch(jobs, sampling, images) for jobs, images in pairs])

    def _draw_batch(
        self, jobs: Sequence[tuple[str, tuple]], sampling: Sampling, low: Tensor | None
    ) -> Tensor:
        """Draw the images of one batch of (prompt, key), as `_draw` does."""
        prompts, images = [prompt for prompt, _ in jobs], low
        for name, stage in self.stages.items():
            is_sr = stage.low_resolution_px is not None
            if not is_sr and low is not None:
                continue
            if is_sr and not sampling.super_resolution:
                assert images is not None
                size_px = stage.resolution_px
                images = F.interpolate(images, size_px, mode="bicubic", antialias=True).clamp(-1, 1)
                continue
            generators = [generator(*key, name) for _, key in jobs]
            sampler = sampling.samplers[name]
            solver = stage.schedule.solver(sampler.name, sampler.num_steps)
            with scaled_adapter(stage, sampling.adapter_scale):
                condition = stage.encode_prompts(prompts)
                null = stage.encode_prompts([sampling.negative_prompt] * len(prompts))
                if is_sr:
                    assert images is not None, "an SR stage follows a base stage"
                    images = images.to(condition["text"].device)
                    low_condition = stage.low_condition(images, sampling.noise_level, generators)
                    condition, null = {**condition, **low_condition}, {**null, **low_condition}
                x = sample(stage, condition, null, generators, solver, sampler.guidance_scale)
            images = x.clamp(-1, 1)
            if name == sampling.last_stage:
                break
        assert images is not None
        return to_uint8(images).cpu()


def save_as(model: Any, folder: Path, dtype: torch.dtype) -> None:
    """`save_pretrained` in the precision `dtype`. The model itself keeps its precision."""
    (model if model.dtype == dtype else copy.deepcopy(model).to(dtype)).save_pretrained(folder)


def log10_uniform(low: float, high: float, u: Tensor) -> Tensor:
    """Map u, uniform in (0, 1), to values in (low, high) with a uniform logarithm."""
    return 10 ** (math.log10(low) + u * (math.log10(high) - math.log10(low)))
