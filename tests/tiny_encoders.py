"""Randomly initialised weights of encoders, in the layouts that their libraries save."""

import json
from pathlib import Path

import torch


def vit_s16_folder(folder: Path, seed: int = 0) -> Path:
    """A ViT-S/16 of facebook/dino-vits16's shape, 22 M parameters."""
    return _vit_folder(folder, seed, 384, 12, 6, 224, 16)


def tiny_vit_folder(folder: Path, image_px: int = 64, seed: int = 0) -> Path:
    """A ViT of 30,000 parameters for images of `image_px`."""
    return _vit_folder(folder, seed, 32, 2, 2, image_px, 16)


def _vit_folder(
    folder: Path, seed: int, width: int, layers: int, heads: int, image_px: int, patch_px: int
) -> Path:
    from transformers import ViTConfig, ViTModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ViTModel(
            ViTConfig(
                hidden_size=width,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                intermediate_size=4 * width,
                image_size=image_px,
                patch_size=patch_px,
                layer_norm_eps=1e-12,
                initializer_range=0.1,  # so that features differ as those of a trained model do
            ),
            add_pooling_layer=False,
        )
    model.save_pretrained(folder)
    return folder


def vit_b32_checkpoint(file: Path, seed: int = 0) -> Path:
    """An open_clip checkpoint of ViT-B-32's shape, 151 M parameters, 600 MB."""
    import open_clip
    from safetensors.torch import save_file

    with torch.device("meta"):  # the model's own initialisation takes a while
        shapes = open_clip.CLIP(**open_clip.get_model_config("ViT-B-32")).state_dict()
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, like in shapes.items():
        norm = like.ndim == 1 and name.endswith("weight")
        value = torch.empty(like.shape).normal_(std=0.03, generator=generator)
        state[name] = value + 1 if norm else value
    save_file(state, file)
    return file


def tiny_clip_folder(
    folder: Path, image_px: int = 64, vocabulary_size: int = 49408, seed: int = 0
) -> Path:
    """A CLIP in open_clip's folder layout; 0.8 M parameters, nearly all of them of the vocabulary.

    Its mean, deviation and interpolation are not open_clip's defaults.
    """
    import open_clip
    from safetensors.torch import save_file

    tower = {"width": 16, "layers": 2}
    model_cfg = {
        "embed_dim": 24,
        "vision_cfg": {**tower, "image_size": image_px, "patch_size": 16, "head_width": 8},
        "text_cfg": {**tower, "context_length": 77, "vocab_size": vocabulary_size, "heads": 2},
    }
    preprocess_cfg = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**model_cfg)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def lpips_backbone(file: Path, net: str = "alex", seed: int = 0) -> Path:
    """Torchvision's backbone of LPIPS without the classifier, which LPIPS does not use."""
    from torchvision import models

    name = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}[net]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = models.get_model(name).state_dict()
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({k: v for k, v in state.items() if k.startswith("features.")}, file)
    return file


def miniature_folder(folder: Path) -> Path:
    """`dino` and `clip` for images of 64 px, as the miniature's weights have them."""
    tiny_vit_folder(folder / "dino")
    tiny_clip_folder(folder / "clip")
    return folder
