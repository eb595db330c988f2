"""How well the pretrained cascade does what a prompt says, and how near its images are to drawings.

    python benchmarks/miniature_quality.py [num_prompts] [--weights FOLDER] [--extractor FOLDER]
                                           [--samples PNG]

The prompts are captions of fresh scenes (`dreambooth.miniature.quality`). Reported are:
- the share of images in which the oracle sees what the prompt states, for each attribute;
- the entropy of what "a dog" and the other bare nouns leave open, relative to a uniform choice,
  from at most 50 images of each class (50 uniform draws would have 96.6 %);
- the Frechet distance, precision and recall against drawings of other fresh scenes, by features of
  DINO and of untrained convolutions. Beside them are the floor, which is what a perfect model would
  get, and what drawings get that are damaged on purpose: an extractor for which these are no
  farther than the floor does not see that damage;
- the time per image.

"/ variance" divides the Frechet distance by the reference's total variance. "above floor" is what
then remains of it without the share of the floor, which is all due to the number of images:
compare models by this row, with equally many prompts, 1,000 or more. 1,000 prompts with their 500
images of bare nouns take 5 minutes on one quiet core.
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
MOST_PER_NOUN = 50
NUM_SAMPLES = 64
Values = dict[str, str | None]


def default_sampling() -> Sampling:
    """How a run's images are drawn."""
    settings = yaml.safe_load(CONF.read_text())["sampling"]["images"]
    return Sampling(read(dict[str, Sampler], settings))


def accuracy_lines(captions: Sequence[str], seen: Sequence[Values]) -> list[str]:
    """One line an attribute: how often the oracle sees what the caption states."""
    right: dict[str, list[bool]] = {}
    for text, values in zip(captions, seen, strict=True):
        for name, value in prompted_values(text).items():
            right.setdefault(name, []).append(values[name] == value)
    return [f"{name:11s}{np.mean(hits):8.1%}  of {len(hits)}" for name, hits in right.items()]


def entropy_share(values: Sequence[str | None], size: int) -> float:
    """Entropy of the values over that of `size` equally likely ones."""
    p = np.array(list(Counter(values).values())) / len(values)
    return float(-(p * np.log(p)).sum() / np.log(size))


def entropy_lines(seen: Sequence[Values]) -> list[str]:
    """Of images of the bare nouns, equally many of each class, class after class."""
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


def distance_lines(found: Mapping[str, Distance]) -> list[str]:
    """A table: a column a set of images."""
    floor = found["floor"].normalised
    rows = {
        "Frechet distance": [one.frechet for one in found.values()],
        "... / variance": [one.normalised for one in found.values()],
        "... above floor": [one.normalised - floor for one in found.values()],
        "precision": [one.precision for one in found.values()],
        "recall": [one.recall for one in found.values()],
    }
    head = f"{'':18s}" + "".join(f"{name:>11s}" for name in found)
    return [head] + [
        f"{name:18s}" + "".join(f"{value:11.4f}" for value in values)
        for name, values in rows.items()
    ]


def holder(weights: Path, part: str) -> Path:
    """`weights`, or the shipped weights where they lack the part, as in a trial of one stage."""
    return weights if (weights / part).exists() else WEIGHTS


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("num_prompts", nargs="?", type=int, default=1000)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="a pretrained cascade")
    parser.add_argument("--extractor", type=Path, help="a DINO ViT instead of the weights' own")
    parser.add_argument("--samples", type=Path, help="a PNG to write, of the first 64 images")
    given = parser.parse_args()
    given.extractor = given.extractor or holder(given.weights, "dino") / "dino"
    if given.num_prompts < len(world.CLASSES):
        parser.error(f"num_prompts is {given.num_prompts}: give at least {len(world.CLASSES)}")
    return given


def main() -> None:
    given = arguments()
    backbone, dino = load_backbone(given.weights), load_extractor(given.extractor)
    judge = holder(given.weights, "oracle.safetensors")
    oracle = Oracle.load(judge)
    _, captions = prompted_scenes(given.num_prompts)
    per_noun = min(MOST_PER_NOUN, given.num_prompts // len(world.CLASSES))
    bare = [f"a {noun}" for noun in world.CLASSES for _ in range(per_noun)]
    keys: list[tuple] = [("quality", i) for i in range(len(captions))]
    keys += [("quality", "bare", i) for i in range(len(bare))]

    started = time.monotonic()
    images = backbone.generate([*captions, *bare], keys, default_sampling())
    seconds = time.monotonic() - started

    prompted, unprompted = images.split([len(captions), len(bare)])
    if given.samples:
        contact_sheet(prompted[:NUM_SAMPLES], captions[:NUM_SAMPLES]).save(given.samples)
    print(f"weights: {given.weights}; oracle: {judge}; extractor: {given.extractor}")
    print(*accuracy_lines(captions, oracle.read(prompted).values), sep="\n")
    print(*entropy_lines(oracle.read(unprompted).values), sep="\n")
    print(f"distance of {len(captions)} images from as many drawings, by the features of")
    for extractor in (dino, UntrainedFeatures()):
        print(extractor.protocol)
        print(*distance_lines(distances(prompted, extractor.images)), sep="\n")
    print(f"{1e3 * seconds / len(images):.0f} ms an image")


if __name__ == "__main__":
    main()
