"""How well the pretrained cascade follows its prompts, judged by the oracle.

    python benchmarks/miniature_quality.py [num_prompts] [samples.png]

Prompts state one or several attributes, as captions do. "a dog" and the other bare nouns are drawn
as well, to measure how varied unstated attributes are: by their entropy relative to the uniform
distribution, which the world has.
"""

import sys
import time
from collections import Counter
from pathlib import Path
from textwrap import fill

import numpy as np
import torch
import yaml
from matplotlib.figure import Figure

from dreambooth.backbones.stage import Sampling
from dreambooth.miniature import WEIGHTS, load_backbone, world
from dreambooth.miniature.oracle import Oracle, prompted_values
from dreambooth.runs.settings import Sampler, read

CONF = Path(__file__).parents[1] / "conf" / "model" / "miniature.yaml"


def prompts(count: int, rng: np.random.Generator) -> list[str]:
    """Return random prompts, with a class in each and every other attribute in some of them."""
    texts = []
    for _ in range(count):
        noun = str(rng.choice(world.CLASSES))
        live = world.kind_of(noun) == "live"
        extra = str(rng.choice(["context", "accessory", "expression", "view", "style"]))
        words = ["a"]
        if extra == "expression" and live:
            words.append(str(rng.choice(world.EXPRESSIONS)))
        if rng.random() < 0.5:
            words.append(str(rng.choice(list(world.COLOURS))))
        words.append(noun)
        if extra == "accessory" and live:
            words.append(str(rng.choice(list(world.ACCESSORIES.values()))))
        if extra == "context" or rng.random() < 0.5:
            words.append(str(rng.choice(list(world.CONTEXTS.values()))))
        if extra == "view":
            words.append(str(rng.choice(list(world.VIEWS.values()))))
        if extra == "style":
            words.insert(0, str(rng.choice(list(world.STYLES.values()))))
        texts.append(" ".join(words))
    return texts


def entropy_share(values: list[str | None], size: int) -> float:
    """Return the entropy of the values divided by that of `size` equally likely values."""
    p = np.array(list(Counter(values).values())) / len(values)
    return float(-(p * np.log(p)).sum() / np.log(size))


def save_samples(images: torch.Tensor, texts: list[str], path: str) -> None:
    """Save pictures, uint8 (N, 3, 64, 64), each above its prompt. N is a multiple of 8."""
    columns = 8
    figure = Figure(figsize=(12, 1.85 * len(images) / columns))
    figure.subplots_adjust(0.01, 0.06, 0.99, 0.99, wspace=0.08, hspace=0.28)
    axes = figure.subplots(len(images) // columns, columns)
    for ax, image, text in zip(axes.flat, images, texts, strict=False):
        ax.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
        ax.set_axis_off()
        ax.text(0.5, -0.05, fill(text, 24), transform=ax.transAxes, ha="center", va="top", size=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    backbone, oracle = load_backbone(), Oracle.load(WEIGHTS)
    settings = yaml.safe_load(CONF.read_text())["sampling"]["images"]
    sampling = Sampling(read(dict[str, Sampler], settings))
    texts = prompts(count, np.random.default_rng(17))
    bare = [f"a {noun}" for noun in world.CLASSES for _ in range(count // 10)]
    started = time.monotonic()
    keys: list[tuple] = [("quality", i) for i in range(len(texts) + len(bare))]
    images = backbone.generate([*texts, *bare], keys, sampling)
    seconds = time.monotonic() - started
    seen = oracle.read(images).values
    right: dict[str, list[bool]] = {}
    for text, values in zip(texts, seen, strict=False):
        for name, value in prompted_values(text).items():
            right.setdefault(name, []).append(values[name] == value)
    for name, hits in right.items():
        print(f"{name:11s}{np.mean(hits):8.1%}  of {len(hits)}")
    seen_of_bare = seen[len(texts) :]
    for name, size in (("colour", len(world.COLOURS)), ("context", len(world.CONTEXTS))):
        shares = []
        for i in range(len(world.CLASSES)):
            of_class = seen_of_bare[i * (count // 10) : (i + 1) * (count // 10)]
            shares.append(entropy_share([values[name] for values in of_class], size))
        print(f"{name} entropy of bare nouns: mean {np.mean(shares):.1%}, least {min(shares):.1%}")
    print(f"{1e3 * seconds / len(images):.0f} ms an image")
    if len(sys.argv) > 2:
        save_samples(images[:32], texts, sys.argv[2])


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
