"""How well the pretrained cascade follows prompts, and how near its images are to drawings.

    python benchmarks/miniature_quality.py [num_prompts] [--weights FOLDER] [--extractor FOLDER]
                                           [--samples PNG]

The prompts are captions of fresh scenes (`dreambooth.miniature.quality`). Prints:

- for each attribute, the share of images in which the oracle reads what the prompt states;
- for bare nouns such as "a dog", the entropy of the colours and of the contexts that the model
  chooses, relative to a uniform choice, from at most 50 images of each class (50 uniform draws
  would have 96.6 %);
- Frechet distance, precision and recall against drawings of other fresh scenes, by features of DINO
  and of untrained convolutions. They are also printed for the floor (other drawings, which is what
  a perfect model would get) and for damaged drawings. If these are no farther than the floor, the
  extractor cannot detect that damage;
- the time per image.

"/ variance" divides the Frechet distance by the reference's total variance. "above floor" subtracts
the floor's value, which is due to the limited number of images alone. Compare models by this row,
with the same number of prompts, at least 1,000. 1,000 prompts and 500 images of bare nouns take 5
minutes on one idle core.
"""

import argparse
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from dreambooth.backbones.stage import Sampling
from dreambooth.miniature import WEIGHTS, load_backbone, world
from dreambooth.miniature.oracle import Oracle, prompted_values
from dreambooth.miniature.quality import (
    Distance,
    UntrainedFeatures,
    contact_sheet,
    distances,
    load_extractor,
    prompted_scenes,
)
from dreambooth.runs.settings import Sampler, read

CONF = Path(__file__).parents[1] / "conf" / "model" / "miniature.yaml"
MAX_PER_NOUN = 50
NUM_SAMPLES = 64
Values = dict[str, str | None]


def default_sampling() -> Sampling:
    """Return the settings with which a run draws images."""
    settings = yaml.safe_load(CONF.read_text())["sampling"]["images"]
    return Sampling(read(dict[str, Sampler], settings))


def accuracy_lines(captions: Sequence[str], seen: Sequence[Values]) -> list[str]:
    """Return one line for each attribute: how often the oracle reads what the caption states."""
    right: dict[str, list[bool]] = {}
    for text, values in zip(captions, seen, strict=True):
        for name, value in prompted_values(text).items():
            right.setdefault(name, []).append(values[name] == value)
    return [f"{name:11s}{np.mean(hits):8.1%}  of {len(hits)}" for name, hits in right.items()]


def entropy_share(values: Sequence[str | None], size: int) -> float:
    """Return the entropy of the values, divided by that of `size` equally likely values."""
    p = np.array(list(Counter(values).values())) / len(values)
    return float(-(p * np.log(p)).sum() / np.log(size))


def entropy_lines(seen: Sequence[Values]) -> list[str]:
    """Return one line each for colour and context, from the values that the oracle reads in images
    of bare nouns: the same number for each class, class after class."""
    per_noun = len(seen) // len(world.CLASSES)
    lines = []
    for name, size in (("colour", len(world.COLOURS)), ("context", len(world.CONTEXTS))):
        shares = [
            entropy_share([values[name] for values in seen[start : start + per_noun]], size)
            for start in range(0, len(seen), per_noun)
        ]
        average, least = np.mean(shares), min(shares)
        lines.append(f"{name} entropy of bare nouns: mean {average:.1%}, least {least:.1%}")
    return lines


def distance_lines(distances_of: Mapping[str, Distance]) -> list[str]:
    """Return the lines of a table with a column for each set of images."""
    floor = distances_of["floor"].normalised
    rows = {
        "Frechet distance": [d.frechet for d in distances_of.values()],
        "... / variance": [d.normalised for d in distances_of.values()],
        "... above floor": [d.normalised - floor for d in distances_of.values()],
        "precision": [d.precision for d in distances_of.values()],
        "recall": [d.recall for d in distances_of.values()],
    }
    head = f"{'':18s}" + "".join(f"{name:>11s}" for name in distances_of)
    return [head] + [
        f"{name:18s}" + "".join(f"{value:11.4f}" for value in values)
        for name, values in rows.items()
    ]


def folder_with(part: str, weights: Path) -> Path:
    """Return `weights`, or the folder of the shipped weights if `weights` lacks the part, as after
    the pretraining of one stage."""
    return weights if (weights / part).exists() else WEIGHTS


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("num_prompts", nargs="?", type=int, default=1000)
    parser.add_argument(
        "--weights", type=Path, default=WEIGHTS, help="the folder of a pretrained cascade"
    )
    parser.add_argument(
        "--extractor", type=Path, help="the folder of a DINO ViT, by default that of the weights"
    )
    parser.add_argument("--samples", type=Path, help="write the first 64 images to this PNG file")
    given = parser.parse_args()
    given.extractor = given.extractor or folder_with("dino", given.weights) / "dino"
    if given.num_prompts < len(world.CLASSES):
        parser.error(f"num_prompts is {given.num_prompts}: give at least {len(world.CLASSES)}")
    return given


def main() -> None:
    given = arguments()
    backbone, dino = load_backbone(given.weights), load_extractor(given.extractor)
    oracle_folder = folder_with("oracle.safetensors", given.weights)
    oracle = Oracle.load(oracle_folder)
    _, captions = prompted_scenes(given.num_prompts)
    per_noun = min(MAX_PER_NOUN, given.num_prompts // len(world.CLASSES))
    bare = [f"a {noun}" for noun in world.CLASSES for _ in range(per_noun)]
    keys: list[tuple] = [("quality", i) for i in range(len(captions))]
    keys += [("quality", "bare", i) for i in range(len(bare))]

    started = time.monotonic()
    images = backbone.generate([*captions, *bare], keys, default_sampling())
    seconds = time.monotonic() - started

    prompted, unprompted = images.split([len(captions), len(bare)])
    if given.samples:
        contact_sheet(prompted[:NUM_SAMPLES], captions[:NUM_SAMPLES]).save(given.samples)
    print(f"weights: {given.weights}; oracle: {oracle_folder}; extractor: {given.extractor}")
    print(*accuracy_lines(captions, oracle.read(prompted).values), sep="\n")
    print(*entropy_lines(oracle.read(unprompted).values), sep="\n")
    print(f"distance of {len(captions)} images from as many drawings, by the features of")
    for extractor in (dino, UntrainedFeatures()):
        print(extractor.protocol)
        print(*distance_lines(distances(prompted, extractor.images)), sep="\n")
    print(f"{1e3 * seconds / len(images):.0f} ms an image")


if __name__ == "__main__":
    main()
