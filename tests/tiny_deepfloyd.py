"""A complete, tiny, randomly initialised DeepFloyd IF: two pipeline folders of diffusers."""

import json
from itertools import product
from pathlib import Path
from string import ascii_letters, ascii_lowercase, digits
from typing import Any

import torch
from tiny_models import WORDS

# The U-Nets of IF-I-XL and IF-II-L, without their sizes (diffusers' scripts/convert_if.py).
UNET: dict[str, Any] = {
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "out_channels": 6,
    "act_fn": "gelu",
    "addition_embed_type": "text",
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
}
SR_UNET = UNET | {
    "class_embed_type": "timestep",
    "only_cross_attention": True,
    "resnet_skip_time_act": True,
    "resnet_out_scale_factor": 1 / 0.7071,
    "mid_block_scale_factor": 1 / 0.7071,
    "time_embedding_act_fn": "gelu",
}
SCHEDULER = {
    "beta_schedule": "squaredcos_cap_v2",
    "variance_type": "learned_range",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.95,
}
RARE_TOKEN_IDS = (89, 219)  # 130 pairs of letters, 52 of them with a capital


def deepfloyd_folder(folder: Path, seed: int = 0) -> Path:
    """Stage I for 16 px in base/ and stage II for 32 px in sr/, of about 0.3 M parameters each.

    The same seed gives the same weights. Published stage II folders have a tokenizer and a text
    encoder too; this one has none, as many copies do.
    """
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from transformers import T5Config, T5EncoderModel

    tokenizer = t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = T5Config(
            vocab_size=128 * (len(tokenizer) // 128 + 1),  # padded, as that of T5-XXL
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            initializer_factor=2.0,  # so that prompts matter as they do in a trained model
        )
        text_encoder = T5EncoderModel(config)
        sizes = {
            "block_out_channels": (32, 32),
            "attention_head_dim": 8,
            "cross_attention_dim": 32,
            "encoder_hid_dim": 32,
            "addition_embed_type_num_heads": 2,
            "norm_num_groups": 8,
            "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        }
        base = UNet2DConditionModel(
            sample_size=16, in_channels=3, layers_per_block=1, **UNET, **sizes
        )
        sr = UNet2DConditionModel(
            sample_size=32,
            in_channels=6,
            layers_per_block=(1, 2),
            time_embedding_dim=32,
            **SR_UNET,
            **sizes,
        )
        with torch.no_grad():  # so that the text and the noise level reach the output
            for unet in (base, sr):
                for name, weight in unet.named_parameters():
                    if name.endswith("attentions.0.to_out.0.weight"):
                        weight.mul_(4)
                    if "embedding.linear_2.weight" in name:
                        weight.mul_(4)
    parts: dict[str, dict[str, Any]] = {
        "base": {
            "tokenizer": tokenizer,
            "text_encoder": text_encoder,
            "unet": base,
            "scheduler": DDPMScheduler(sample_max_value=1.5, **SCHEDULER),
        },
        "sr": {
            "unet": sr,
            "scheduler": DDPMScheduler(sample_max_value=1.0, **SCHEDULER),
            "image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        },
    }
    index: dict[str, Any] = {
        "base": {"_class_name": "IFPipeline"},
        "sr": {"_class_name": "IFSuperResolutionPipeline", "tokenizer": [None, None]},
    }
    for stage, models in parts.items():
        # As the published ones list it; the files are left out here.
        index[stage]["safety_checker"] = ["deepfloyd_if", "IFSafetyChecker"]
        index[stage]["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
        index[stage]["watermarker"] = ["deepfloyd_if", "IFWatermarker"]
        for name, model in models.items():
            model.save_pretrained(folder / stage / name)
            package = "transformers" if name in ("tokenizer", "text_encoder") else "diffusers"
            index[stage][name] = [package, type(model).__name__]
        index[stage] = {"text_encoder": [None, None]} | index[stage]
        (folder / stage / "model_index.json").write_text(json.dumps(index[stage], indent=2))
    return folder


def t5_tokenizer() -> Any:
    """A T5 tokenizer whose vocabulary has common words (`WORDS`), 130 rare pairs of letters, and
    single characters."""
    from transformers import T5Tokenizer

    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocabulary += [(character, -10.0) for character in ascii_letters + digits]
    vocabulary += [(f"▁{word}", -4.0) for word in WORDS.split()]
    vocabulary += [(f"▁{a}{b}", -6.0) for a, b in product("JQvxz", ascii_lowercase)]
    vocabulary += [(f"<extra_id_{i}>", 0.0) for i in range(99, -1, -1)]
    return T5Tokenizer(vocab=vocabulary)


def plain(folder: Path, stage: str) -> Any:
    """The pipeline of a stage as a user of diffusers loads it."""
    from diffusers import IFPipeline, IFSuperResolutionPipeline

    kind = {"base": IFPipeline, "sr": IFSuperResolutionPipeline}[stage]
    without = dict.fromkeys(["safety_checker", "feature_extractor", "watermarker"])
    pipeline = kind.from_pretrained(folder / stage, requires_safety_checker=False, **without)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def added(stage: Any, x: torch.Tensor, noise_level: float | None, key: str = "added") -> dict:
    """The condition besides text of a batch of training images."""
    from dreambooth.randomness import generator

    rows = [stage.added_condition(one, generator(key, i), noise_level) for i, one in enumerate(x)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
