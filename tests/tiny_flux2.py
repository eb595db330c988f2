"""A complete, tiny, randomly initialised FLUX.2 klein, with the shapes of the big model."""

import json
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
from tiny_flux import SCHEDULER, VAE, reaching
from tiny_models import WORDS

# Of Qwen3, for one message of the user and without thinking.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n{% if not enable_thinking %}<think>\n\n</think>\n\n"
    "{% endif %}"
)
RARE_TOKEN_IDS = (353, 483)  # 130 pairs of letters


def flux2_klein_folder(folder: Path, is_distilled: bool = False, seed: int = 0) -> Path:
    """A FLUX.2-klein-base of about 0.2 M parameters for 64x64 images (8x8 latents), in `folder`.

    `is_distilled`: as the model that is distilled to four steps. The same seed gives the same
    weights.
    """
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2Transformer2DModel,
    )
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = qwen_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=len(tokenizer) + 2,  # padded, as that of Qwen3
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=30,  # of which the text is that of layers 9, 18 and 27
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=8,
                initializer_range=0.3,  # so that prompts matter as they do in a trained model
                tie_word_embeddings=True,
            )
        )
        transformer = Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * 16,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )
        vae = AutoencoderKLFlux2(**VAE, sample_size=64)
        reaching(transformer, vae)
        vae.bn.running_mean.copy_(torch.randn(16) / 10)
        vae.bn.running_var.copy_(1 + torch.rand(16))
    parts: dict[str, Any] = {
        "scheduler": FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "transformer": transformer,
        "vae": vae,
    }
    index: dict[str, Any] = {
        "_class_name": "Flux2KleinPipeline",
        "_diffusers_version": "0.37.0",
        "is_distilled": is_distilled,
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        package = "transformers" if name in ("tokenizer", "text_encoder") else "diffusers"
        index[name] = [package, type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def qwen_tokenizer() -> Any:
    """A byte-level BPE tokenizer of the kind of Qwen3.

    Ids: 256 bytes, one merge each, then the special tokens. Common words (`WORDS`) are one token
    behind a space; so are 130 rare pairs of letters, the last merges (`RARE_TOKEN_IDS`).
    """
    from transformers import Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    merges: dict[tuple[str, str], None] = {}  # an ordered set
    for word in WORDS.split():
        left = "Ġ"
        for right in word:
            merges[left, right] = None
            left += right
    for first in "jqvxz":
        merges["Ġ", first] = None
    for first, second in product("jqvxz", ascii_lowercase):
        merges[f"Ġ{first}", second] = None
    tokens = [*bytes_to_unicode().values(), *(a + b for a, b in merges)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary |= {token: len(vocabulary) + i for i, token in enumerate(special)}
    return Qwen2Tokenizer(
        vocab=vocabulary,
        merges=list(merges),
        additional_special_tokens=special[1:],
        chat_template=CHAT_TEMPLATE,
    )
