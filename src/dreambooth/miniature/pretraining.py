"""Pretraining of the miniature's two denoisers, and `pretrain`, which trains any of its parts.

As in Imagen, the text encoder (text.py) is trained first and then frozen, and each stage of the
cascade is trained separately. Both stages use a cosine schedule, drop 10 % of the captions for
classifier-free guidance, and average their weights exponentially. The SR stage uses noise
conditioning augmentation of a random variance, which is one of its inputs (paper, section 5).
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from dreambooth.backbones.cascade import (
    CascadeBackbone,
    CascadeStage,
    PromptEncoder,
    corrupt_low_resolution,
    log10_uniform,
    save_as,
)
from dreambooth.loss import loss_weights, weighted_mse
from dreambooth.miniature import encoders
from dreambooth.miniature.fitting import decaying_adamw, fit
from dreambooth.miniature.oracle import ATTRIBUTES, Oracle, OracleNetwork, scene_labels
from dreambooth.miniature.oracle_pretraining import (
    OracleBatches,
    OraclePretraining,
    calibrate,
    read_samples,
)
from dreambooth.miniature.scenes import drawn_scenes, to_tensor
from dreambooth.miniature.text import (
    TEXT_WIDTH,
    CaptionBatches,
    TextPretraining,
    new_text_encoder,
    random_caption,
)
from dreambooth.miniature.tokenizer import MAX_TOKENS, build_tokenizer
from dreambooth.miniature.world import Scene

PARTS = ("text", "base", "sr", "oracle", "clip", "dino")
BASE_PX, SR_PX = 32, 64
# Scenes with an expression are seen 3 times as often as others: an expression is only a few pixels.
FACE_WEIGHT = 3
# Enough captions with an identifier to learn that it changes nothing, too few to learn any one.
DENOISER_IDENTIFIER_SHARE = 0.03


def new_denoiser(stage: str) -> Any:
    """Return the U-Net of the stage 'base' or 'sr', which works on 16 x 16 positions.

    Pooled text is added to the time embedding, as in DeepFloyd IF. The SR U-Net takes the noise
    level of its condition by `class_embed_type`, as IF's stage II does.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor

    sr = stage == "sr"
    patch_channels = 3 * (4 if sr else 2) ** 2
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=2 * patch_channels if sr else patch_channels,
        out_channels=patch_channels,
        block_out_channels=(64, 128) if sr else (64, 128, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (1 if sr else 2),
        up_block_types=("CrossAttnUpBlock2D",) * (1 if sr else 2) + ("UpBlock2D",),
        attention_head_dim=4,  # diffusers' old name for the number of heads
        norm_num_groups=16,
        cross_attention_dim=TEXT_WIDTH,
        encoder_hid_dim=TEXT_WIDTH,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        class_embed_type="timestep" if sr else None,
    )
    unet.set_attn_processor(AttnProcessor())
    return unet.to(memory_format=torch.channels_last)


def new_scheduler() -> Any:
    """Return the cosine schedule (arXiv 2102.09672) for a model that predicts x.

    Such a model draws a flat area by a constant output. A model that predicts v would have to carry
    all of the area's noise through the network.
    """
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=True
    )


def new_stage(name: str, prompt_encoder: PromptEncoder) -> CascadeStage:
    parts = (name, new_denoiser(name), new_scheduler(), prompt_encoder)
    return CascadeStage(*parts, *((SR_PX, 4, BASE_PX) if name == "sr" else (BASE_PX, 2)))


class SceneBatches(Dataset):
    """Batch number `step`. It depends on (seed, step) only, so a killed training resumes exactly.

    A batch holds `step`; `images` [-1, 1] (B, 3, 64, 64); `tokens` (B, MAX_TOKENS) of their
    captions; and `labels`, each (B,). The captions leave out attributes at random. A fraction
    `dropout` of them is empty, and `DENOISER_IDENTIFIER_SHARE` of the others hold a
    meaningless identifier.
    """

    def __init__(
        self,
        scenes: list[Scene],
        pixels: np.ndarray,
        tokenize: Callable[[Sequence[str]], Tensor],
        batch_size: int,
        num_steps: int,
        dropout: float,
        seed: int,
    ):
        self.scenes, self.pixels, self.tokenize = scenes, pixels, tokenize
        self.batch_size, self.num_steps = batch_size, num_steps
        self.dropout, self.seed = dropout, seed
        weights = np.array([FACE_WEIGHT if s.expression else 1 for s in scenes])
        self.ends = np.cumsum(weights) / weights.sum()  # each scene has an interval of [0, 1)

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, step])
        index = np.sort(np.searchsorted(self.ends, rng.random(self.batch_size), side="right"))
        scenes = [self.scenes[i] for i in index]
        texts = [random_caption(s, rng, self.dropout, DENOISER_IDENTIFIER_SHARE) for s in scenes]
        labels = [scene_labels(s) for s in scenes]
        return {
            "step": step,
            "images": to_tensor(self.pixels[index]),
            "tokens": self.tokenize(texts),
            "labels": {k: torch.tensor([row[k] for row in labels]) for k in ATTRIBUTES},
        }


class DenoiserPretraining(L.LightningModule):
    """Trains one stage of the cascade on drawn scenes; the text encoder is frozen."""

    def __init__(self, stage: CascadeStage, num_steps: int, lr: float = 1e-3):
        super().__init__()
        self.stage, self.denoiser = stage, stage.denoiser
        self.num_steps, self.lr = num_steps, lr

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        stage, noise = self.stage, torch.Generator().manual_seed(batch["step"])
        images = batch["images"]
        with torch.no_grad():
            text = stage.prompt_encoder.model(batch["tokens"]).last_hidden_state
        condition: dict[str, Tensor] = {"text": text}
        if stage.low_resolution_px is not None:
            low = F.avg_pool2d(images, images.shape[-1] // stage.low_resolution_px)
            level = log10_uniform(1e-6, 0.3, torch.rand(len(low), generator=noise))
            eps = torch.randn(low.shape, generator=noise)
            condition["low_resolution"] = corrupt_low_resolution(low, level, eps)
            condition["noise_level"] = level
        x = F.avg_pool2d(images, images.shape[-1] // stage.resolution_px)
        t = torch.randint(len(stage.scheduler), (len(x),), generator=noise)
        eps = torch.randn(x.shape, generator=noise)
        z_t = stage.schedule.corrupt(x, eps, t)
        # min-SNR: an error of x matters more where there is little noise.
        weights = loss_weights("min_snr", stage.schedule.snr(t), stage.schedule.prediction_type)
        loss = weighted_mse(
            stage.predict(z_t, t, condition), stage.schedule.target(x, eps, t), weights
        )
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        # Lightning's gradient clipping refuses fused optimizers, which are faster.
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)

    def configure_optimizers(self) -> Any:
        return decaying_adamw(self.denoiser.parameters(), self.lr, self.num_steps)


def pretrain(
    part: str,
    weights: Path,
    work: Path,
    num_steps: int,
    batch_size: int,
    num_scenes: int,
    learning_rate: float,
    ema_decay: float,
    max_minutes: float | None = None,
    seed: int = 0,
    samples: str | None = None,
) -> bool:
    """Train one part of the miniature and write its averaged weights to the folder `weights`.

    Resumes from the checkpoint in `work`. The part `text` must come before `base` and `sr`;
    otherwise the order is free. `samples`, for the oracle only, is a .npy file of pictures that
    weak models generated; they count as not clean.

    Returns whether all steps are done. The weights are written in any case.
    """
    from transformers import CLIPTextModel

    if part not in PARTS:
        raise ValueError(f"part={part!r} is not known; choose one of {', '.join(PARTS)}")
    if part in ("base", "sr") and not (weights / "text_encoder").is_dir():
        raise ValueError(f"part={part} needs the text encoder in {weights}: run part=text first")
    if part == "dino" and find_spec("lightly") is None:
        raise ValueError("part=dino needs lightly: pip install -e '.[pretrain]'")
    L.seed_everything(seed, verbose=False)
    if part == "oracle":
        oracle = OraclePretraining(OracleNetwork(), num_steps, learning_rate)
        damaged = None if samples is None else read_samples(Path(samples))
        groups = max(1, batch_size // 6)
        batches: Dataset = OracleBatches(num_steps, seed, groups, samples=damaged)
        done = fit(oracle, batches, num_steps, work, ema_decay, 100, max_minutes)
        calibrate(oracle.network, seed)
        Oracle(oracle.network).save(weights)
        return done

    if part in ("base", "sr"):
        text_encoder = CLIPTextModel.from_pretrained(weights / "text_encoder", dtype=torch.float32)
    else:
        text_encoder = new_text_encoder()
    prompt_encoder = PromptEncoder(build_tokenizer(), text_encoder, MAX_TOKENS)
    if part == "text":
        text_encoder.train()
        batches = CaptionBatches(prompt_encoder.tokens, batch_size, num_steps, seed)
        text = TextPretraining(text_encoder, num_steps, learning_rate)
        done = fit(text, batches, num_steps, work, ema_decay, max_minutes=max_minutes)
        save_as(text_encoder, weights / "text_encoder", torch.float16)
        prompt_encoder.tokenizer.save_pretrained(weights / "tokenizer")
        return done
    scenes, pixels = drawn_scenes(work.parent, num_scenes, seed)
    batches = SceneBatches(
        scenes,
        pixels,
        prompt_encoder.tokens,
        batch_size,
        num_steps,
        dropout={"clip": 0.0, "dino": 0.0}.get(part, 0.1),
        seed=seed,
    )
    if part == "clip":
        clip = encoders.ClipPretraining(encoders.new_clip(), num_steps, learning_rate)
        done = fit(clip, batches, num_steps, work, ema_decay, max_minutes=max_minutes)
        encoders.save_clip(clip.model, weights / "clip")
        return done
    if part == "dino":
        dino = encoders.DinoPretraining(encoders.new_dino(), num_steps, learning_rate)
        done = fit(dino, batches, num_steps, work, ema_decay, max_minutes=max_minutes)
        save_as(dino.model, weights / "dino", torch.float16)
        return done

    stage = new_stage(part, prompt_encoder)
    denoiser = DenoiserPretraining(stage, num_steps, learning_rate)
    done = fit(denoiser, batches, num_steps, work, ema_decay, max_minutes=max_minutes)
    save_as(stage.denoiser, weights / part, torch.float16)
    stage.scheduler.save_pretrained(weights / part)
    written = [name for name in ("base", "sr") if (weights / name).is_dir()]
    stages = {name: new_stage(name, prompt_encoder) for name in written}
    CascadeBackbone("miniature", stages, prompt_encoder, known_words_only=True).describe(weights)
    return done
