"""The oracle: reads a picture of the drawn world. Trained on drawn scenes only, never on samples.

It names the class, context, main colour, pattern, accessory, expression, view and style, and embeds
the individual, so that the probability that two pictures show the same one can be told.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from dreambooth.miniature import world
from dreambooth.miniature.drawing import draw
from dreambooth.miniature.scenes import to_tensor
from dreambooth.miniature.world import Scene, individual, random_scene, recolour
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
EMBEDDING = 64


def scene_values(scene: Scene) -> dict[str, str | None]:
    """The truth that the oracle is to read off the scene's picture."""
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
    """Each attribute's value as its index in `ATTRIBUTES`."""
    return {name: ATTRIBUTES[name].index(value) for name, value in scene_values(scene).items()}


def prompted_values(prompt: str) -> dict[str, str]:
    """What a prompt in the world's words asks for: the attributes that it states, and no others.

    Upper and lower case and spaces are read as the tokenizer reads them.
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
    """Two convolutions around which the input (B, width, H, W) is carried past."""

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


class OracleNetwork(nn.Module):
    """Images [-1, 1] (B, 3, 64, 64) to logits of each attribute and unit embeddings (B, 64)."""

    same: Tensor  # (slope, offset): P(same individual) = sigmoid(slope * cosine + offset)

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 192)):
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, widths[0], 3, padding=1)]
        layers.append(_Block(widths[0]))  # 32 x 32 positions
        for before, width in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), _Block(width)]
            layers.append(_Block(width))
        self.trunk = nn.Sequential(*layers, nn.GroupNorm(8, widths[-1]), nn.SiLU(), nn.Flatten())
        flat = widths[-1] * (64 // 2 ** len(widths)) ** 2
        self.heads = nn.ModuleDict(
            {name: nn.Linear(flat, len(values)) for name, values in ATTRIBUTES.items()}
        )
        self.embedding = nn.Linear(flat, EMBEDDING)
        self.register_buffer("same", torch.tensor([10.0, -5.0]))  # until `calibrate` fits it

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        features = self.trunk(images)
        logits = {name: head(features) for name, head in self.heads.items()}
        return logits, F.normalize(self.embedding(features).float(), dim=-1)


@dataclass(frozen=True)
class Reading:
    """What the oracle sees in N images."""

    values: list[dict[str, str | None]]  # N times the value of each attribute
    embeddings: Tensor  # (N, 64), unit


class Oracle:
    """The trained network, in eval mode, with names for numbers."""

    def __init__(self, network: OracleNetwork):
        self.network = network.eval()

    @classmethod
    def load(cls, folder: Path) -> "Oracle":
        """From `folder`/oracle.safetensors; FileNotFoundError if it is not there."""
        from safetensors.torch import load_file

        network = OracleNetwork()
        weights = load_file(folder / "oracle.safetensors")
        network.load_state_dict({name: value.float() for name, value in weights.items()})
        return cls(network)

    def save(self, folder: Path) -> None:
        """To `folder`/oracle.safetensors, in half precision."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        state = self.network.state_dict()
        half = {name: value if name == "same" else value.half() for name, value in state.items()}
        save_file(half, folder / "oracle.safetensors")

    @torch.no_grad()
    def read(self, images: Tensor, batch_size: int = 64) -> Reading:
        """What is in `images` (N, 3, 64, 64), uint8 or float32 in [-1, 1]."""
        if images.dtype == torch.uint8:
            images = from_uint8(images)
        values: list[dict[str, str | None]] = []
        embeddings: list[Tensor] = []
        for part in images.split(batch_size):
            logits, embedding = self.network(part)
            best = {name: scores.argmax(1).tolist() for name, scores in logits.items()}
            values += [
                {name: ATTRIBUTES[name][best[name][i]] for name in ATTRIBUTES}
                for i in range(len(part))
            ]
            embeddings.append(embedding)
        return Reading(values, torch.cat(embeddings))

    def identity(self, embeddings: Tensor, subject: Tensor) -> Tensor:
        """P(same individual) in [0, 1], (N,), of embeddings (N, 64) against a subject's photos'
        (M, 64): the mean over the photos, so that one seen from behind does not decide.
        """
        slope, offset = self.network.same
        return torch.sigmoid(slope * embeddings @ subject.T + offset).mean(1)


# --- training --------------------------------------------------------------------------------


class IdentityBatches(Dataset[dict[str, Any]]):
    """Batch `step`: groups of individuals alike in class and main colour, two scenes of each.

    Everything is drawn afresh, so nothing can be learnt by heart. With B = 2 groups * per_group:
    `images` [-1, 1] (B, 3, 64, 64), `labels` each (B,), and `individuals` (B,), which numbers them;
    the two scenes of one follow each other.
    """

    def __init__(self, num_steps: int, seed: int, groups: int = 12, per_group: int = 3):
        self.num_steps, self.seed = num_steps, seed
        self.groups, self.per_group = groups, per_group

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, step])
        scenes, individuals = [], []
        for group in range(self.groups):
            noun, colour = str(rng.choice(world.CLASSES)), str(rng.choice(list(world.COLOURS)))
            for k in range(self.per_group):
                subject = recolour(individual(noun, int(rng.integers(2**31))), colour)
                scenes += [random_scene(rng, subject) for _ in range(2)]
                individuals += 2 * [group * self.per_group + k]
        labels = [scene_labels(s) for s in scenes]
        return {
            "step": step,
            "images": to_tensor(np.stack([draw(s) for s in scenes])),
            "labels": {k: torch.tensor([row[k] for row in labels]) for k in ATTRIBUTES},
            "individuals": torch.tensor(individuals),
        }


def roughen(images: Tensor, noise: torch.Generator) -> Tensor:
    """Some images (B, 3, H, W) softer, all a little noisier: a model's sample is never as crisp as
    a drawing. `noise` is a CPU generator, so that the draws are alike on every device."""
    each = (len(images), 1, 1, 1)
    amount, chance = torch.rand(each, generator=noise), torch.rand(each, generator=noise)
    strength = 0.15 * torch.rand(each, generator=noise) ** 2
    eps = torch.randn(images.shape, generator=noise)
    soft = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
    mix = (0.8 * amount * (chance < 0.4)).to(images.device)
    return images + mix * (soft - images) + (strength * eps).to(images.device)


def same_individual_loss(embeddings: Tensor, individuals: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss (arXiv 2004.11362), the mean over pairs (i, j) of an individual:

        -log(exp(e_i . e_j / temperature) / sum over k != i of exp(e_i . e_k / temperature))

    `embeddings`: unit, (B, D); `individuals` (B,) numbers whom each shows; each is there twice or
    more.
    """
    logits = embeddings @ embeddings.T / temperature
    itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(itself, float("-inf"))
    partner = (individuals[:, None] == individuals[None]) & ~itself
    return -logits.log_softmax(1)[partner].mean()


class OraclePretraining(L.LightningModule):
    """Cross-entropy of every attribute, and half of the contrastive loss of individuals."""

    def __init__(self, network: OracleNetwork, num_steps: int, lr: float = 1e-3):
        super().__init__()
        self.network, self.num_steps, self.lr = network, num_steps, lr

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        noise = torch.Generator().manual_seed(batch["step"])
        logits, embeddings = self.network(roughen(batch["images"], noise))
        labels = batch["labels"]
        reading = [
            F.cross_entropy(logits[k].float(), labels[k], label_smoothing=0.02) for k in logits
        ]
        identity = same_individual_loss(embeddings, batch["individuals"], temperature=0.1)
        loss = torch.stack(reading).mean() + 0.5 * identity
        self.log_dict({"reading": reading[0], "identity": identity}, prog_bar=True)
        return loss

    def on_before_optimizer_step(self, _optimizer: Any) -> None:
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.02, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.lr, total_steps=self.num_steps + 1, pct_start=0.05
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@torch.no_grad()
def calibrate(network: OracleNetwork, seed: int, num_batches: int = 40) -> None:
    """Fit P(same individual) from the cosine, by logistic regression on drawn pairs that training
    did not see: as many same pairs as pairs alike in class and colour only. Sets `network.same` and
    leaves the network in eval mode."""
    network.eval()
    cosines, same = [], []
    batches = IdentityBatches(num_batches, seed + 1_000_003)
    for step in range(num_batches):
        batch = batches[step]
        embeddings = network(batch["images"])[1].view(batches.groups, batches.per_group, 2, -1)
        cosines.append((embeddings[:, :, 0] * embeddings[:, :, 1]).sum(-1).flatten())
        others = (embeddings[:, :, 0] * embeddings.roll(1, dims=1)[:, :, 1]).sum(-1).flatten()
        cosines.append(others)
        same += [torch.ones_like(others), torch.zeros_like(others)]
    x, y = torch.cat(cosines).double(), torch.cat(same).double()
    fit = network.same.double().clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([fit], max_iter=200)

    def loss() -> Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            value = F.binary_cross_entropy_with_logits(fit[0] * x + fit[1], y)
            value.backward()
        return value

    optimizer.step(loss)
    network.same.copy_(fit.detach())
