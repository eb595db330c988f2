"""The oracle: a network that reads pictures of the drawn world, trained in oracle_pretraining.py.

It classifies the class, context, main colour, pattern, accessory, expression, view and style. It
gives the probability that the picture is an undamaged drawing. It embeds the individual; from the
embedding follows the probability that the picture shows a given individual.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreambooth.miniature import world
from dreambooth.miniature.world import Scene
from dreambooth.subjects.photos import from_uint8

ATTRIBUTES: dict[str, tuple[str | None, ...]] = {
    "class": world.CLASSES,
    "context": tuple(world.CONTEXTS),
    "colour": tuple(world.COLOURS),
    "pattern": world.PATTERNS,
    "accessory": (None, *world.ACCESSORIES),
    "expression": (None, *world.EXPRESSIONS),
    "view": tuple(world.VIEWS),
    "style": (None, *world.STYLES),
}
EMBEDDING = 64  # dimensions


def scene_values(scene: Scene) -> dict[str, str | None]:
    """Return the true value of each attribute that the oracle reads."""
    return {
        "class": scene.individual.class_noun,
        "context": scene.context,
        "colour": scene.individual.main,
        "pattern": scene.individual.pattern,
        "accessory": scene.accessory,
        "expression": scene.expression,
        "view": scene.view,
        "style": scene.style,
    }


def scene_labels(scene: Scene) -> dict[str, int]:
    """Return each attribute's value as its index in `ATTRIBUTES`."""
    return {name: ATTRIBUTES[name].index(value) for name, value in scene_values(scene).items()}


def prompted_values(prompt: str) -> dict[str, str]:
    """Return the attributes that a prompt states, and their values.

    As in the tokenizer, upper case and additional spaces make no difference.
    """
    phrases: dict[str, dict[str, str]] = {
        "class": {noun: noun for noun in world.CLASSES},
        "context": {phrase: name for name, phrase in world.CONTEXTS.items()},
        "colour": {colour: colour for colour in world.COLOURS},
        "pattern": {pattern: pattern for pattern in world.PATTERNS},
        "accessory": {phrase: name for name, phrase in world.ACCESSORIES.items()},
        "expression": {mood: mood for mood in world.EXPRESSIONS},
        "view": {phrase: name for name, phrase in world.VIEWS.items()},
        "style": {phrase: name for name, phrase in world.STYLES.items()},
    }
    text = f" {' '.join(prompt.lower().split())} "
    return {
        attribute: value
        for attribute, options in phrases.items()
        for phrase, value in options.items()
        if f" {phrase} " in text
    }


class _Block(nn.Module):
    """A residual block of two convolutions, (B, width, H, W) to the same shape."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Outputs(NamedTuple):
    """The network's outputs for B images."""

    attributes: dict[str, Tensor]  # attribute -> logits (B, number of its values)
    embeddings: Tensor  # (B, 64), of unit length
    clean: Tensor  # (B,), logit of an undamaged drawing


class OracleNetwork(nn.Module):
    """Maps images [-1, 1] (B, 3, 64, 64) to `Outputs`."""

    same: Tensor  # (a, b, offset) of `Oracle.identity`

    def __init__(self, stem: int = 32, widths: Sequence[int] = (64, 128, 192)):
        super().__init__()
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, stem, 3, padding=1),  # 32 x 32 positions
            nn.SiLU(),
        ]
        for before, width in itertools.pairwise((stem, *widths)):
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1)]
            layers += [_Block(width), _Block(width)]
        self.trunk = nn.Sequential(*layers, nn.GroupNorm(8, widths[-1]), nn.SiLU(), nn.Flatten())
        flat = widths[-1] * (32 // 2 ** len(widths)) ** 2
        self.heads = nn.ModuleDict(
            {name: nn.Linear(flat, len(values)) for name, values in ATTRIBUTES.items()}
        )
        self.embedding = nn.Linear(flat, EMBEDDING)
        self.clean = nn.Linear(flat, 1)
        self.register_buffer("same", torch.full((3,), float("nan")))  # set by `calibrate`

    def forward(self, images: Tensor) -> Outputs:
        features = self.trunk(images)
        attributes = {name: head(features) for name, head in self.heads.items()}
        embeddings = F.normalize(self.embedding(features).float(), dim=-1)
        return Outputs(attributes, embeddings, self.clean(features).squeeze(1))


@dataclass(frozen=True)
class Reading:
    """What the oracle reads in N images."""

    values: list[dict[str, str | None]]  # for each image, attribute -> value
    embeddings: Tensor  # (N, 64), of unit length
    clean: Tensor  # (N,), probability of an undamaged drawing

    @classmethod
    def join(cls, parts: Sequence["Reading"]) -> "Reading":
        return cls(
            [value for part in parts for value in part.values],
            torch.cat([torch.empty(0, EMBEDDING), *(part.embeddings for part in parts)]),
            torch.cat([torch.empty(0), *(part.clean for part in parts)]),
        )


class Oracle:
    """The trained and calibrated network in eval mode; it returns the names of the values."""

    def __init__(self, network: OracleNetwork):
        self.network = network.eval()

    @classmethod
    def load(cls, folder: Path) -> "Oracle":
        """Load `folder`/oracle.safetensors.

        Raises FileNotFoundError if it is missing, ValueError if its identity is not calibrated.
        """
        from safetensors.torch import load_file

        network = OracleNetwork()
        weights = load_file(folder / "oracle.safetensors")
        network.load_state_dict({name: value.float() for name, value in weights.items()})
        _check_calibrated(network, str(folder / "oracle.safetensors"))
        return cls(network)

    def save(self, folder: Path) -> None:
        """Save to `folder`/oracle.safetensors, in half precision.

        Raises ValueError if the identity is not calibrated.
        """
        from safetensors.torch import save_file

        _check_calibrated(self.network, "this oracle")
        folder.mkdir(parents=True, exist_ok=True)
        state = self.network.state_dict()
        half = {name: value if name == "same" else value.half() for name, value in state.items()}
        save_file(half, folder / "oracle.safetensors")

    @torch.no_grad()
    def read(self, images: Tensor, batch_size: int = 64) -> Reading:
        """Read `images` (N, 3, 64, 64), uint8 or float32 in [-1, 1]."""
        if images.dtype == torch.uint8:
            images = from_uint8(images)
        return Reading.join([self._read(part) for part in images.split(batch_size) if len(part)])

    def _read(self, images: Tensor) -> Reading:
        outputs = self.network(images)
        best = {name: scores.argmax(1).tolist() for name, scores in outputs.attributes.items()}
        values = [
            {name: ATTRIBUTES[name][best[name][i]] for name in ATTRIBUTES}
            for i in range(len(images))
        ]
        return Reading(values, outputs.embeddings, outputs.clean.float().sigmoid())

    def identity(self, embeddings: Tensor, references: Tensor) -> Tensor:
        """Return the probability (N,) that each picture shows a given individual:

            sigmoid(a * c + b * s + offset)

        `embeddings` (N, 64) are those of the pictures, `references` (M, 64) those of M >= 2
        drawings of the individual. c is the mean cosine of a picture to the references. s is the
        mean cosine of the references to each other; it measures how much drawings of this one
        individual differ. a, b and the offset are fitted by `calibrate`, on pictures of which half
        show the individual.
        """
        return torch.sigmoid(identity_features(embeddings, references) @ self.network.same)


def identity_features(embeddings: Tensor, references: Tensor) -> Tensor:
    """Return (c, s, 1) of `Oracle.identity` for each picture, (N, 3)."""
    c = embeddings @ references.mean(0)
    m = len(references)
    s = (references.sum(0).square().sum() - m) / (m * (m - 1))
    return torch.stack([c, s.expand_as(c), torch.ones_like(c)], 1)


def _check_calibrated(network: OracleNetwork, name: str) -> None:
    if not network.same.isfinite().all():
        raise ValueError(
            f"{name} is not calibrated, so its identity is not a probability: use the weights that "
            "python src/pretrain.py part=oracle writes, not one of its checkpoints"
        )
