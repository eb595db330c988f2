"""What training an adapter costs, relative to full fine-tuning: step time and trained parameters.

    python benchmarks/adapters.py [adapter] [pairs] [steps]

Prints the median and range of adapter / full step time. Bare steps (forward, backward, optimizer)
of the miniature's base stage alternate, in an order that changes with each pair. Also prints the
fraction of parameters that train; the saved weights shrink by the same fraction. For Stable
Diffusion 1.5 it is counted on torch's meta device, which takes no memory.
"""

import sys
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dreambooth.methods.method import Method, TermPrompts
from dreambooth.methods.two_terms import TwoTermModule
from dreambooth.miniature import load_backbone
from dreambooth.training.draws import Draw

CONF = str(Path(__file__).resolve().parents[1] / "conf")
IMAGES = 4  # of each term


def method_of(adapter: str, *overrides: str) -> Method:
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("train", [f"adapter={adapter}", *overrides])
    method: Method = instantiate(OmegaConf.to_container(config.method.tuning, resolve=True))
    return method


class Steps:
    """Training steps of the miniature's base stage, on one batch of noise."""

    def __init__(self, adapter: str):
        stage = load_backbone(None).stages["base"]
        prompts = TermPrompts(["a dog"], ["a dog", ""])
        method = method_of(adapter)
        self.module = TwoTermModule(stage, method, prompts, 1.0, 1e-5, torch.optim.AdamW)
        self.optimizer = torch.optim.AdamW(self.module.trained.groups, lr=1e-5, fused=True)
        x, eps = torch.randn(2, IMAGES, *stage.x_shape)
        t = torch.randint(1000, (IMAGES,))
        self.draw = Draw(x, eps, t, torch.zeros(IMAGES, dtype=torch.int64), {})
        self.num_trained = sum(p.numel() for p in self.module.trained.parameters)
        self.seconds(2)  # warms up

    def seconds(self, steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.module.calc_loss(self.draw, self.draw).total.backward()
            self.optimizer.step()
        return time.perf_counter() - started


def trained_at_true_size(adapter: str) -> int:
    """How many parameters of Stable Diffusion 1.5's U-Net train."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)  # its other settings are the defaults
    stage: Any = SimpleNamespace(name="base", denoiser=unet, text_encoder=None)
    method = method_of(adapter, "model=sd15", "subject=olive")
    method.prepare(stage)
    return sum(p.numel() for p in method.trained(stage).parameters)


def main(adapter: str = "lora", num_pairs: str = "10", num_steps: str = "5") -> None:
    pairs, steps = int(num_pairs), int(num_steps)
    full, small = Steps("none"), Steps(adapter)
    ratios, times = [], []
    for pair in range(pairs):
        order = [full, small] if pair % 2 == 0 else [small, full]
        took = {one: one.seconds(steps) / steps for one in order}
        ratios.append(took[small] / took[full])
        times.append(took[full])
    print(
        f"step, {adapter} / full: median {median(ratios):.2f}, from {min(ratios):.2f} to "
        f"{max(ratios):.2f} ({pairs} pairs of {steps} steps; full {1e3 * median(times):.0f} ms)"
    )
    counts = {"the miniature's base stage": (small.num_trained, full.num_trained)}
    counts["Stable Diffusion 1.5"] = (trained_at_true_size(adapter), trained_at_true_size("none"))
    for model, (few, every) in counts.items():
        print(f"{model}: {few:,} of {every:,} parameters train, {few / every:.2%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
