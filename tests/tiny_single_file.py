"""One .safetensors file of a Stable Diffusion 1.5, with the names of its original code."""

import re
from pathlib import Path

from safetensors.torch import load_file, save_file

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
VAE = {
    "conv_norm_out": "norm_out",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
    "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
    "mid_block.attentions.0.to_": "mid.attn_1.",
    "conv_shortcut": "nin_shortcut",
    "downsamplers.0.conv": "downsample.conv",
    "upsamplers.0.conv": "upsample.conv",
    "resnets": "block",
    "down_blocks": "down",
}


def single_file(folder: Path, file: Path) -> Path:
    """The weights of a folder as `stable_diffusion_folder` makes it, in one file."""
    unet = _weights(folder / "unet")
    attention = {key.split(".")[1] for key in unet if re.match(r"up_blocks.\d.attentions", key)}
    state = {f"model.diffusion_model.{_of_unet(k, attention)}": v for k, v in unet.items()}
    for key, value in _weights(folder / "vae").items():
        state[f"first_stage_model.{_of_vae(key)}"] = value
    for key, value in _weights(folder / "text_encoder").items():
        state[f"cond_stage_model.transformer.text_model.{key}"] = value
    save_file({key: value.contiguous() for key, value in state.items()}, file)
    return file


def _weights(folder: Path) -> dict:
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


def _of_unet(key: str, attention: set[str]) -> str:
    """The name of a weight in a U-Net with one layer in each block."""
    if found := re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(conv\.)?", key):
        way, block, kind, layer, _ = found.groups()
        rest, number = key[found.end() :], 2 * int(block) + int(layer)
        if kind == "downsamplers":
            return f"input_blocks.{2 * int(block) + 2}.0.op.{rest}"
        if kind == "upsamplers":
            return f"output_blocks.{number + 1}.{2 if block in attention else 1}.conv.{rest}"
        start = f"input_blocks.{number + 1}" if way == "down" else f"output_blocks.{number}"
        key = f"{start}.{0 if kind == 'resnets' else 1}.{rest}"
    for name, original in UNET.items():
        key = re.sub(rf"^{re.escape(name)}\.", f"{original}.", key)
    if "transformer_blocks" in key or ("proj_" in key and "time_emb" not in key):
        return key
    for name, original in RESNET.items():
        key = key.replace(f".{name}.", f".{original}.")
    return key


def _of_vae(key: str) -> str:
    for name, original in VAE.items():
        key = key.replace(name, original)
    return re.sub(r"up_blocks\.(\d)", lambda found: f"up.{3 - int(found[1])}", key)
