"""The memory that a run takes with each preset of conf/trainer, for models of true size.

    python benchmarks/memory.py [models]

Computed, not measured, from the published configurations of the models, with tensors that have no
data: it needs neither weights nor a GPU. Prints a row for each model, in GB: the peak of a training
step of the model's own batch size, then that of generating images; in brackets where the larger one
and CUDA's own 0.6 GB do not fit into the named GPU.
"""

import runpy
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dreambooth.backbones.drawing_memory import DrawingMemory, drawing_memory
from dreambooth.backbones.flux import FluxBackbone
from dreambooth.backbones.flux2_klein import Flux2KleinBackbone
from dreambooth.backbones.latent import LatentBackbone
from dreambooth.backbones.stable_diffusion import StableDiffusionBackbone
from dreambooth.backbones.stable_diffusion_xl import StableDiffusionXLBackbone
from dreambooth.backbones.stage import Sampling
from dreambooth.methods.memory import CONTEXT, Memory, memory_of
from dreambooth.methods.method import TermPrompts
from dreambooth.runs.settings import Sampler, read

ROOT = Path(__file__).resolve().parents[1]
SIZES = runpy.run_path(str(ROOT / "tests/backbones/test_true_sizes.py"))
PRESETS = ("gpu_8gb", "gpu_16gb", "gpu_24gb", "gpu_80gb")


@dataclass(frozen=True)
class Model:
    """The parts of a model of true size, and the shapes of an encoded prompt."""

    backbone: type[LatentBackbone]
    denoiser: Any  # makes it
    vae: Any
    text: dict[str, tuple[int, ...]]


def unet(name: str) -> Any:
    return lambda: diffusers.UNet2DConditionModel(**SIZES[name])


def vae(name: str, size_px: int) -> Any:
    return lambda: AutoencoderKL(**SIZES[name], sample_size=size_px)


MODELS = {
    "sd15": Model(StableDiffusionBackbone, unet("UNET_1"), vae("VAE", 512), {"text": (77, 768)}),
    "sd21": Model(StableDiffusionBackbone, unet("UNET_2"), vae("VAE", 768), {"text": (77, 1024)}),
    "sdxl": Model(
        StableDiffusionXLBackbone,
        unet("UNET_XL"),
        vae("VAE", 1024),
        {"text": (77, 2048), "pooled": (1280,)},
    ),
    "flux1": Model(
        FluxBackbone,
        lambda: diffusers.FluxTransformer2DModel(**SIZES["FLUX_1"]),
        vae("FLUX_1_VAE", 1024),
        {"text": (512, 4096), "pooled": (768,)},
    ),
    "flux2_klein": Model(
        Flux2KleinBackbone,
        lambda: diffusers.Flux2Transformer2DModel(**SIZES["FLUX_2_KLEIN"]),
        diffusers.AutoencoderKLFlux2,
        {"text": (512, 3 * 2560)},
    ),
}


def backbone_of(name: str, **settings: Any) -> Any:
    """A model without weights, whose encoded prompts are zeros."""
    model = MODELS[name]
    family: Any = model.backbone

    class Stage(family.stage_class):
        def encode_prompts(self, prompts: Any, with_gradient: bool = False) -> dict[str, Any]:
            return {key: torch.zeros(len(prompts), *shape) for key, shape in model.text.items()}

    class Backbone(family):
        stage_class = Stage

    of_unet = family.stage_class.denoiser_name == "unet"
    parts: dict[str, Any] = {
        "scheduler": DDPMScheduler() if of_unet else FlowMatchEulerDiscreteScheduler()
    }
    with torch.device("meta"):
        parts |= {family.stage_class.denoiser_name: model.denoiser(), "vae": model.vae()}
    for encoder, tokenizer in family.stage_class.text_encoders.items():
        parts |= {encoder: torch.nn.Module(), tokenizer: None}
    pipeline = getattr(diffusers, family.pipeline_class)(**parts, **family.load_arguments)
    backbone: Any = Backbone(name, pipeline, **settings)
    backbone.stages["base"].backbone = backbone
    return backbone


def memory_with(*overrides: str) -> tuple[Memory, DrawingMemory]:
    """The memory of training and of drawing with overrides, of which the first is model=..."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", [*overrides]), resolve=True)
    model, precision = overrides[0].partition("=")[2], config["trainer"]["precision"]
    given = {k: v for k, v in config["model"]["backbone"].items() if k in DRAWING}
    method = config["method"]

    @cache
    def module() -> Any:
        return instantiate(method["module"])(
            stage=backbone_of(model, **given).stages["base"],
            method=instantiate(method["tuning"]),
            prompts=TermPrompts(["a kzn dog"], ["a dog", ""]),
            prior_weight=config["prior"]["lambda"],
        )

    def training() -> Memory:
        return memory_of(module(), method["batch_size"], precision)

    def drawing() -> DrawingMemory:
        samplers = read(dict[str, Sampler], config["model"]["sampling"]["images"])
        return drawing_memory(module().stage.backbone, Sampling(samplers), precision)

    # Presets that differ in something else have the same memory.
    return (
        _once(f"{model} {method} {precision}", training),
        _once(f"{model} {method['tuning']} {given} {precision}", drawing),
    )


DRAWING = ("batch_size", "vae_tiling")  # settings of a model that change the memory of drawing
_COMPUTED: dict[str, Any] = {}


def _once(key: str, compute: Any) -> Any:
    if key not in _COMPUTED:
        _COMPUTED[key] = compute()
    return _COMPUTED[key]


def fits(preset: str, *memories: Memory | DrawingMemory) -> bool:
    """Whether the GPU that a preset is named for has so much."""
    return max(memory.peak for memory in memories) + CONTEXT < int(preset[4:-2]) * 1024**3


def row(model: str, *words: str) -> str:
    """A line of the table, of a model with the overrides `words`."""
    cells = []
    for preset in PRESETS:
        memories = memory_with(f"model={model}", f"trainer={preset}", *words)
        figures = ", ".join(f"{memory.peak / 1e9:.1f}" for memory in memories)
        cells.append(figures if fits(preset, *memories) else f"({figures})")
    named = " ".join(f"`{word}`" for word in (f"model={model}", *words))
    return f"| {named} | {' | '.join(cells)} |"


def main() -> None:
    print("| | " + " | ".join(f"`trainer={name}`" for name in PRESETS) + " |")
    print("|---" * (len(PRESETS) + 1) + "|")
    for model in sys.argv[1:] or MODELS:
        for words in ([], ["adapter=lora"]):  # gpu_8gb has an adapter of its own
            print(row(model, *words), flush=True)


if __name__ == "__main__":
    main()
