"""The memory that training takes with each preset of conf/trainer, for models of true size.

    python benchmarks/memory.py [models]

Computed, not measured, from the published configurations of the denoisers, on torch's meta device:
it needs neither weights nor a GPU. Prints a row for each model, in GB at the peak of a step of the
model's own batch size; in brackets where that and CUDA's own 0.6 GB do not fit into the named GPU.
"""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dreambooth.backbones.stable_diffusion import StableDiffusionStage
from dreambooth.backbones.stable_diffusion_xl import StableDiffusionXLStage
from dreambooth.methods.memory import Memory, memory_of
from dreambooth.methods.method import TermPrompts

ROOT = Path(__file__).resolve().parents[1]
TRUE_SIZES = runpy.run_path(str(ROOT / "tests/backbones/test_true_sizes.py"))
UNETS: dict[str, tuple[dict[str, Any], type]] = {
    "sd15": (TRUE_SIZES["UNET_1"], StableDiffusionStage),
    "sd21": (TRUE_SIZES["UNET_2"], StableDiffusionStage),
    "sdxl": (TRUE_SIZES["UNET_XL"], StableDiffusionXLStage),
}
PRESETS = ("gpu_8gb", "gpu_16gb", "gpu_24gb", "gpu_80gb")


def stage_of(model: str) -> Any:
    """The stage of a model without weights, whose encoded prompts are zeros."""
    config, stage_class = UNETS[model]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)

    class Stage(stage_class):  # type: ignore[misc,valid-type]
        def encode_prompts(self, prompts: Any, with_gradient: bool = False) -> dict[str, Any]:
            text = torch.zeros(len(prompts), 77, config["cross_attention_dim"])
            pooled = {"pooled": torch.zeros(len(prompts), 1280)} if model == "sdxl" else {}
            return {"text": text, **pooled}

    scheduler = DDPMScheduler()
    vae = SimpleNamespace(config=SimpleNamespace(latent_channels=4))
    pipeline = SimpleNamespace(unet=unet, vae=vae, scheduler=scheduler, vae_scale_factor=8)
    for name in ("vae", *Stage.text_encoders):
        setattr(pipeline, name, torch.nn.Module())
    pipeline.vae.config = vae.config
    return Stage(pipeline)


def memory_with(*overrides: str) -> Memory:
    """The memory of training with these overrides, of which the first is model=..."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", [*overrides]), resolve=True)
    module = instantiate(config["method"]["module"])(
        stage=stage_of(overrides[0].partition("=")[2]),
        method=instantiate(config["method"]["tuning"]),
        prompts=TermPrompts(["a kzn dog"], ["a dog", ""]),
        prior_weight=config["prior"]["lambda"],
    )
    return memory_of(module, config["method"]["batch_size"], config["trainer"]["precision"])


def main() -> None:
    models = sys.argv[1:] or list(UNETS)
    print("| | " + " | ".join(f"`trainer={name}`" for name in PRESETS) + " |")
    print("|---" * (len(PRESETS) + 1) + "|")
    for model in models:
        for adapter in ("none", "lora"):
            cells = []
            for preset in PRESETS:
                # gpu_8gb has an adapter of its own.
                words = [f"adapter={adapter}"] * (adapter == "lora")
                peak = memory_with(f"model={model}", f"trainer={preset}", *words).peak / 1e9
                fits = peak + 0.6 < int(preset[4:-2]) * 1.024**3
                cells.append(f"{peak:.1f} GB" if fits else f"({peak:.1f} GB)")
            print(f"| `model={model}`{' `adapter=lora`' * len(words)} | {' | '.join(cells)} |")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
