"""A complete, tiny, randomly initialised FLUX.1, with the shapes of the big model."""

import json
from pathlib import Path
from typing import Any

import torch
from tiny_deepfloyd import t5_tokenizer
from tiny_models import clip_tokenizer_folder

SCHEDULER = {  # of FLUX.1-dev
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "base_shift": 0.5,
    "max_shift": 1.15,
}
VAE: dict[str, Any] = {
    "block_out_channels": (8, 8, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "norm_num_groups": 8,
}


def flux_folder(folder: Path, schnell: bool = False, seed: int = 0) -> Path:
    """A FLUX.1 of about 0.2 M parameters for 64x64 images (8x8 latents), in `folder`.

    `schnell`: as the distilled model, without guidance and without a shift of the timesteps. The
    same seed gives the same weights.
    """
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    vocabulary = clip_tokenizer_folder(folder / "tokenizer")
    tokenizer_2 = t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocabulary),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=77,
                bos_token_id=vocabulary["<|startoftext|>"],
                eos_token_id=vocabulary["<|endoftext|>"],
                pad_token_id=vocabulary["<|endoftext|>"],
                initializer_factor=5.0,  # so that prompts matter as they do in a trained model
            )
        )
        text_encoder_2 = T5EncoderModel(
            T5Config(
                vocab_size=len(tokenizer_2) + 2,  # padded, as that of T5-XXL
                d_model=32,
                d_kv=8,
                d_ff=64,
                num_layers=2,
                num_heads=4,
                feed_forward_proj="gated-gelu",
                initializer_factor=2.0,
            )
        )
        transformer = FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            guidance_embeds=not schnell,
            axes_dims_rope=(4, 6, 6),
        )
        vae = AutoencoderKL(
            **VAE,
            sample_size=64,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
        reaching(transformer, vae)
    scheduler = FlowMatchEulerDiscreteScheduler(**({} if schnell else SCHEDULER))
    for name, part in (
        ("text_encoder", text_encoder),
        ("text_encoder_2", text_encoder_2),
        ("tokenizer_2", tokenizer_2),
        ("transformer", transformer),
        ("vae", vae),
        ("scheduler", scheduler),
    ):
        part.save_pretrained(folder / name)
    index = {
        "_class_name": "FluxPipeline",
        "_diffusers_version": "0.30.0",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


@torch.no_grad()
def reaching(transformer: torch.nn.Module, vae: torch.nn.Module) -> None:
    """Make decoded images use the whole range, and text reach them."""
    vae.decoder.conv_out.weight.mul_(4)
    for name, weight in transformer.named_parameters():
        if name.startswith(("transformer_blocks", "single_transformer_blocks")):
            weight.mul_(2)
