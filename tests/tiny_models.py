"""Complete, tiny, randomly initialised diffusers folders: the shapes of the big models."""

import json
from itertools import product
from pathlib import Path
from string import ascii_lowercase

import torch

WORDS = (
    "photo painting dog cat backpack clock toy snow beach jungle sitting wearing hat the of in on "
    "with and special unique red blue"
)


def stable_diffusion_folder(folder: Path, v_prediction: bool = False, seed: int = 0) -> Path:
    """A Stable Diffusion of about 0.3 M parameters for 64x64 images (8x8 latents), in `folder`.

    Shaped as 1.5 (epsilon, PNDM), or with `v_prediction` as 2.1 (v, DDIM, linear projections, "!"
    as padding). The same seed gives the same weights.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    vocabulary = clip_tokenizer_folder(folder / "tokenizer", pad="!" if v_prediction else None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocabulary),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=77,
                hidden_act="gelu" if v_prediction else "quick_gelu",
                bos_token_id=vocabulary["<|startoftext|>"],
                eos_token_id=vocabulary["<|endoftext|>"],
                pad_token_id=vocabulary["!"] if v_prediction else vocabulary["<|endoftext|>"],
                initializer_factor=5.0,  # so that prompts matter as they do in a trained model
            )
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=32,
            attention_head_dim=(2, 4) if v_prediction else 4,
            use_linear_projection=v_prediction,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=64,
            scaling_factor=0.18215,
        )
        with torch.no_grad():  # so that decoded images use the whole range, and text reaches them
            vae.decoder.conv_out.weight.mul_(4)
            for name, weight in unet.named_parameters():
                if name.endswith("attn2.to_out.0.weight"):
                    weight.mul_(4)
    betas = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    if v_prediction:
        scheduler = DDIMScheduler(clip_sample=False, prediction_type="v_prediction", **betas)
    else:
        scheduler = PNDMScheduler(skip_prk_steps=True, **betas)
    text_encoder.save_pretrained(folder / "text_encoder")
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    scheduler.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.20.0",
        # As the published 1.5 lists it; the file itself is left out here, as many copies do.
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", type(scheduler).__name__],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def stable_diffusion_xl_folder(
    folder: Path, v_prediction: bool = False, latents_mean: bool = False, seed: int = 0
) -> Path:
    """A Stable Diffusion XL of about 0.3 M parameters for 64x64 images (8x8 latents), in `folder`.

    Shaped as the base model: two text encoders of different widths, the second with a projection
    and "!" as padding; the pooled text and sizes are added to the timestep. `latents_mean`: the VAE
    has a mean and a deviation for each channel, as that of some fine-tuned models.
    """
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    vocabulary = clip_tokenizer_folder(folder / "tokenizer")
    clip_tokenizer_folder(folder / "tokenizer_2", pad="!")

    def text_config(width: int, pad: str, activation: str) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=24,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=77,
            hidden_act=activation,
            bos_token_id=vocabulary["<|startoftext|>"],
            eos_token_id=vocabulary["<|endoftext|>"],
            pad_token_id=vocabulary[pad],
            initializer_factor=5.0,  # so that prompts matter as they do in a trained model
        )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(text_config(16, "<|endoftext|>", "quick_gelu"))
        text_encoder_2 = CLIPTextModelWithProjection(text_config(32, "!", "gelu"))
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            transformer_layers_per_block=(1, 2),
            norm_num_groups=8,
            cross_attention_dim=16 + 32,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 6 * 8,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=64,
            scaling_factor=0.13025,
            latents_mean=(0.3, -0.2, 0.1, 0.5) if latents_mean else None,
            latents_std=(0.9, 1.2, 0.7, 1.1) if latents_mean else None,
        )
        with torch.no_grad():  # so that decoded images use the whole range, and text reaches them
            vae.decoder.conv_out.weight.mul_(4)
            for name, weight in unet.named_parameters():
                if name.endswith("attn2.to_out.0.weight"):
                    weight.mul_(4)
    scheduler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        timestep_spacing="leading",
        prediction_type="v_prediction" if v_prediction else "epsilon",
    )
    for name, part in (
        ("text_encoder", text_encoder),
        ("text_encoder_2", text_encoder_2),
        ("unet", unet),
        ("vae", vae),
        ("scheduler", scheduler),
    ):
        part.save_pretrained(folder / name)
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "_diffusers_version": "0.20.0",
        "force_zeros_for_empty_prompt": True,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def clip_tokenizer_folder(folder: Path, pad: str | None = None) -> dict[str, int]:
    """A byte-level BPE tokenizer in CLIP's file layout and order of ids; returns its vocabulary.

    Ids: 256 bytes, the same with </w>, one merge each, <|startoftext|>, <|endoftext|>. Common words
    (`WORDS`) are one token; so are 130 rare pairs of letters (its rare-token range: the ids just
    before the two special ones).
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    characters = list(bytes_to_unicode().values())
    merges: dict[tuple[str, str], None] = {}  # an ordered set
    for word in WORDS.split():
        left, *rest = [*word[:-1], word[-1] + "</w>"]
        for right in rest:
            merges[left, right] = None
            left += right
    for first, second in product("jqvxz", ascii_lowercase):
        merges[first, second + "</w>"] = None
    tokens = [*characters, *(c + "</w>" for c in characters), *(a + b for a, b in merges)]
    vocabulary = {t: i for i, t in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}

    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines))
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": pad or "<|endoftext|>",
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return vocabulary


def cascade_folder(folder: Path, seed: int = 0) -> Path:
    """A cascade of about 0.1 M parameters, 32 px and 64 px, with the miniature's own tokenizer.

    The same seed gives the same weights. Its images show nothing, but depend on prompt and noise.
    """
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from dreambooth.backbones.cascade import CascadeBackbone, CascadeStage, PromptEncoder
    from dreambooth.miniature.pretraining import new_scheduler
    from dreambooth.miniature.tokenizer import MAX_TOKENS, VOCABULARY_SIZE, build_tokenizer

    def unet(patch_px: int, sr: bool) -> UNet2DConditionModel:
        channels = 3 * patch_px**2
        return UNet2DConditionModel(
            sample_size=8,
            in_channels=channels * (2 if sr else 1),
            out_channels=channels,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=2,
            norm_num_groups=4,
            cross_attention_dim=16,
            encoder_hid_dim=16,
            addition_embed_type="text",
            addition_embed_type_num_heads=2,
            class_embed_type="timestep" if sr else None,
        )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=VOCABULARY_SIZE,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=MAX_TOKENS,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
                initializer_factor=5.0,  # so that prompts matter as they do in a trained model
            )
        )
        base, sr = unet(4, sr=False), unet(8, sr=True)
    text = PromptEncoder(build_tokenizer(), text_encoder, MAX_TOKENS)
    stages = {
        "base": CascadeStage("base", base, new_scheduler(), text, 32, 4),
        "sr": CascadeStage("sr", sr, new_scheduler(), text, 64, 8, low_resolution_px=32),
    }
    CascadeBackbone("tiny", stages, text, known_words_only=True).save(folder)
    return folder
