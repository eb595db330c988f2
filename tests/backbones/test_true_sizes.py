"""The published models have the parameters that their true configurations give, without weights.

Stable Diffusion 1.5: 860 M in the U-Net and 123 M in the text encoder (its model card); 2.1: 865 M
(model card of 2.0); XL: 2.6 B and 817 M (Podell et al., arXiv 2307.01952, table 1); FLUX.1-dev:
12 B in the transformer; FLUX.2 klein: 4 B, and 4.0 B in Qwen3-4B (their model cards). The
configurations are those of the published folders.
"""

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
)

DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
UNET_1 = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": DOWN,
    "up_block_types": UP,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
UNET_2 = UNET_1 | {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
UNET_XL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
FLUX_1 = {"num_layers": 19, "num_single_layers": 38, "guidance_embeds": True}
FLUX_2_KLEIN = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 3 * 2560,
    "guidance_embeds": False,
}
FLUX_1_VAE = VAE | {
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
T5_XXL = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
QWEN_3 = {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
}


def clip(width: int, layers: int, heads: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
        hidden_act=activation,
    )


CLIP_L = clip(768, 12, 12, "quick_gelu")
OPEN_CLIP_H = clip(1024, 23, 16, "gelu")  # without its last layer
OPEN_CLIP_G = clip(1280, 32, 20, "gelu")
PARAMETERS = {
    "sd15 unet": (859_520_964, lambda: UNet2DConditionModel(**UNET_1)),
    "sd15 text": (123_060_480, lambda: CLIPTextModel(CLIP_L)),
    "sd21 unet": (865_910_724, lambda: UNet2DConditionModel(**UNET_2)),
    "sd21 text": (340_387_840, lambda: CLIPTextModel(OPEN_CLIP_H)),
    "sdxl unet": (2_567_463_684, lambda: UNet2DConditionModel(**UNET_XL)),
    "sdxl text": (
        123_060_480 + 694_659_840,
        lambda: torch.nn.ModuleList(
            [CLIPTextModel(CLIP_L), CLIPTextModelWithProjection(OPEN_CLIP_G)]
        ),
    ),
    "vae": (83_653_863, lambda: AutoencoderKL(**VAE)),
    "flux1 transformer": (11_901_408_320, lambda: FluxTransformer2DModel(**FLUX_1)),
    "flux1 text": (4_762_310_656, lambda: T5EncoderModel(T5Config(**T5_XXL))),
    "flux1 vae": (83_819_683, lambda: AutoencoderKL(**FLUX_1_VAE)),
    "klein transformer": (3_875_544_576, lambda: Flux2Transformer2DModel(**FLUX_2_KLEIN)),
    "klein text": (4_022_468_096, lambda: Qwen3ForCausalLM(Qwen3Config(**QWEN_3))),
    "klein vae": (84_046_115, AutoencoderKLFlux2),
}


@pytest.mark.parametrize("part", PARAMETERS)
def test_a_part_of_true_size_has_the_published_number_of_parameters(part):
    published, make = PARAMETERS[part]
    with torch.device("meta"):
        model = make()
    assert sum(p.numel() for p in model.parameters()) == published
