"""The oracle's training: on drawings and damaged drawings, made anew in every step.

Drawings teach it the attributes and the individuals. Damaged drawings, and samples of weak
diffusion models if there are any, teach it what is not clean.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from dreambooth.methods.two_terms import learning_rate_factor
from dreambooth.miniature import world
from dreambooth.miniature.damage import damage_and_label, mildly_changed
from dreambooth.miniature.drawing import SIZE_PX, draw
from dreambooth.miniature.muon import Muon
from dreambooth.miniature.oracle import ATTRIBUTES, OracleNetwork, identity_features, scene_labels
from dreambooth.miniature.references import draw_as_prompted, prompted_except_class, references
from dreambooth.miniature.scenes import to_tensor
from dreambooth.miniature.subjects import look_alike, random_individual
from dreambooth.miniature.world import Individual, random_scene
from dreambooth.subjects.prompt_sets import MINIBENCH


class OracleBatches(Dataset[dict[str, Any]]):
    """Batch number `step`: two scenes of each individual, and damaged pictures.

    The individuals come in groups of look-alikes: they share the class and the main colour, and in
    half of the groups the second colour too. Every picture is drawn anew, so none can be memorized.
    A batch, with B = 2 groups * per_group and float32 images in [-1, 1]:

    - `images` (B, 3, 64, 64), the two scenes of an individual one after the other; `labels`, each
      (B,); `individuals` (B,), the number of the individual;
    - `damaged` (B // 2, 3, 64, 64), some of these drawings with damage; `damaged_clean` (B // 2,),
      their labels (`damage.is_clean`).

    `samples`: pictures of weak diffusion models, uint8 (N, 64, 64, 3), which make up a quarter of
    the damaged pictures.
    """

    def __init__(
        self,
        num_steps: int,
        seed: int,
        groups: int = 12,
        per_group: int = 3,
        samples: np.ndarray | None = None,
    ):
        self.num_steps, self.seed = num_steps, seed
        self.groups, self.per_group, self.samples = groups, per_group, samples

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, step])
        scenes = []
        for _ in range(self.groups):
            first = random_individual(rng, str(rng.choice(world.CLASSES)))
            both_colours = rng.random() < 0.5
            others = [look_alike(rng, first, both_colours) for _ in range(self.per_group - 1)]
            scenes += [random_scene(rng, who) for who in (first, *others) for _ in range(2)]
        drawings = np.stack([draw(scene) for scene in scenes])
        damaged, clean = self._damaged(rng, drawings)
        labels = [scene_labels(s) for s in scenes]
        return {
            "step": step,
            "images": to_tensor(np.stack([mildly_changed(d, rng) for d in drawings])),
            "labels": {k: torch.tensor([row[k] for row in labels]) for k in ATTRIBUTES},
            "individuals": torch.arange(len(scenes) // 2).repeat_interleave(2),
            "damaged": to_tensor(damaged),
            "damaged_clean": torch.tensor(clean),
        }

    def _damaged(
        self, rng: np.random.Generator, drawings: np.ndarray
    ) -> tuple[np.ndarray, list[float]]:
        """Return half as many damaged pictures as there are drawings, and their labels."""
        count = len(drawings) // 2
        num_samples = 0 if self.samples is None else count // 4
        pictures, labels = [], []
        for _ in range(count - num_samples):
            i, j = rng.choice(len(drawings), 2, replace=False)
            picture, label = damage_and_label(drawings[i], drawings[j], rng)
            pictures.append(mildly_changed(picture, rng))
            labels.append(label)
        if self.samples is not None:
            chosen = rng.integers(len(self.samples), size=num_samples)
            pictures += [mildly_changed(self.samples[i], rng) for i in chosen]
            labels += num_samples * [0.0]
        return np.stack(pictures), labels


def read_samples(path: Path) -> np.ndarray:
    """Return the pictures of a .npy file, uint8 (N, 64, 64, 3), as a memory map."""
    if not path.is_file():
        raise ValueError(f"parts.oracle.samples={path} is not a file: give a .npy file, or null")
    samples = np.load(path, mmap_mode="r")
    if samples.dtype != np.uint8 or samples.shape[1:] != (SIZE_PX, SIZE_PX, 3):
        raise ValueError(
            f"{path} holds an array of {samples.dtype} {samples.shape}: "
            f"give one of uint8 (N, {SIZE_PX}, {SIZE_PX}, 3)"
        )
    return samples


def roughen(images: Tensor, noise: torch.Generator) -> Tensor:
    """Soften some images (B, 3, H, W) and add a little noise to all.

    A model's sample is never as crisp as a drawing. `noise` is a CPU generator, so that the draws
    are the same on every device.
    """
    each = (len(images), 1, 1, 1)
    amount, chance = torch.rand(each, generator=noise), torch.rand(each, generator=noise)
    strength = 0.15 * torch.rand(each, generator=noise) ** 2
    eps = torch.randn(images.shape, generator=noise)
    soft = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
    mix = (0.8 * amount * (chance < 0.4)).to(images.device)
    return images + mix * (soft - images) + (strength * eps).to(images.device)


def same_individual_loss(embeddings: Tensor, individuals: Tensor, temperature: float) -> Tensor:
    """Return the supervised contrastive loss (arXiv 2004.11362).

    It is the mean over all pairs i != j that show the same individual of

        -log(exp(e_i . e_j / temperature) / sum over k != i of exp(e_i . e_k / temperature))

    `embeddings` (B, D) have unit length. `individuals` (B,) says which individual each shows; every
    individual must occur at least twice.
    """
    logits = embeddings @ embeddings.T / temperature
    itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(itself, float("-inf"))
    partner = (individuals[:, None] == individuals[None]) & ~itself
    return -logits.log_softmax(1)[partner].mean()


ADAM_LR = 1.5e-3  # of biases, norms and heads


class OraclePretraining(L.LightningModule):
    """Trains the oracle by the sum of three losses:

    - the sum of the cross-entropies of the attributes, divided by 3;
    - half of the contrastive loss of the individuals (`same_individual_loss`);
    - the cross-entropy of clean (`clean_loss`).
    """

    def __init__(self, network: OracleNetwork, num_steps: int, lr: float = 0.02):
        super().__init__()
        self.network, self.num_steps, self.lr = network, num_steps, lr

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        noise = torch.Generator().manual_seed(batch["step"])
        labels, n = batch["labels"], len(batch["images"])
        outputs = self.network(roughen(torch.cat([batch["images"], batch["damaged"]]), noise))
        attributes = {
            k: F.cross_entropy(v[:n].float(), labels[k], label_smoothing=0.02)
            for k, v in outputs.attributes.items()
        }
        identity = same_individual_loss(outputs.embeddings[:n], batch["individuals"], 0.1)
        clean = clean_loss(outputs.clean.float(), batch["damaged_clean"])
        loss = torch.stack([*attributes.values()]).sum() / 3 + 0.5 * identity + clean
        self.log_dict({"identity": identity, "clean": clean, **attributes}, prog_bar=True)
        return loss

    def on_before_optimizer_step(self, _optimizer: Any) -> None:
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)

    def configure_optimizers(self) -> Any:
        network = self.network
        convolutions = [weight for weight in network.trunk.parameters() if weight.ndim == 4]
        others = [weight for weight in network.parameters() if weight.ndim != 4]
        optimizer = Muon(convolutions, others, self.lr, adam_lr=ADAM_LR, weight_decay=0.02)

        def factor(step: int) -> float:
            return min((step + 1) / 20, learning_rate_factor(step, self.num_steps, 0.7))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def clean_loss(logits: Tensor, damaged_clean: Tensor) -> Tensor:
    """Return the binary cross-entropy of clean, averaged over drawings and over damaged pictures
    separately, so that both count equally.

    `logits` (B + D,): of B drawings, which are clean, then of D damaged pictures. `damaged_clean`
    (D,): the labels of the latter, 1, 0, or NaN, which is left out (`damage.is_clean`).
    """
    drawings = logits[: len(logits) - len(damaged_clean)]
    damaged, known = logits[len(drawings) :], ~damaged_clean.isnan()
    bce = F.binary_cross_entropy_with_logits
    loss = bce(drawings, torch.ones_like(drawings))
    return (loss + bce(damaged[known], damaged_clean[known])) / 2 if known.any() else loss


# --- calibration -----------------------------------------------------------------------------

# Relation of a picture to the prompted individual -> how many of a case's pictures have it.
RELATIONS = {
    "same individual": 6,
    "same class and both colours": 2,
    "same class and colour": 2,
    "same class": 1,
    "another class": 1,
}
_SAME = "same individual"


@dataclass(frozen=True)
class IdentityCase:
    """Drawings of an individual, and pictures of it and of others, all drawn as one prompt asks.

    As many of the pictures show the individual as show another one.
    """

    prompt: str
    references: Tensor  # (16, 3, 64, 64), float32 [-1, 1], all of the individual
    pictures: Tensor  # (12, 3, 64, 64)
    relations: list[str]  # of each picture, a key of `RELATIONS`

    @property
    def is_same(self) -> Tensor:
        """Whether each picture shows the individual, 1 or 0, (12,)."""
        return torch.tensor([float(relation == _SAME) for relation in self.relations])


def identity_cases(seed: int, count: int) -> Iterator[IdentityCase]:
    """Yield `count` cases, each of a random individual and a prompt of MiniBench, or, for one case
    in five, no prompt. Like samples, the pictures are a little soft and noisy.

    A picture of another individual shows that it is another one: a look-alike that differs only by
    an emblem is not drawn from behind."""
    for number in range(count):
        rng = np.random.default_rng([31, seed, number])
        who = random_individual(rng, str(rng.choice(world.CLASSES)))
        templates = MINIBENCH[world.kind_of(who.class_noun)]
        prompt = str(rng.choice(templates)) if rng.random() < 0.8 else ""
        asked = prompted_except_class(prompt)
        relations = [name for name, times in RELATIONS.items() for _ in range(times)]
        drawings = [_drawing(rng, who, relation, asked) for relation in relations]
        pictures = to_tensor(np.stack([mildly_changed(pixels, rng) for pixels in drawings]))
        noise = torch.Generator().manual_seed(int(rng.integers(2**31)))
        yield IdentityCase(prompt, references(who, prompt), roughen(pictures, noise), relations)


_VISIBLE_PX = 20  # of 64 x 64, by which a look-alike differs from the individual in one scene


def _drawing(
    rng: np.random.Generator, who: Individual, relation: str, asked: Mapping[str, str]
) -> np.ndarray:
    """Draw an individual with this relation to `who`, (64, 64, 3), in a scene that shows it."""
    while True:
        shown, seed = _related(rng, who, relation), int(rng.integers(2**31))
        drawing, same_scene = (
            draw_as_prompted(np.random.default_rng(seed), each, asked, 1)[0].astype(int)
            for each in (shown, who)
        )
        differs = np.abs(drawing - same_scene).max(-1) > 32
        if relation == _SAME or differs.sum() >= _VISIBLE_PX:
            return drawing.astype(np.uint8)


def _related(rng: np.random.Generator, who: Individual, relation: str) -> Individual:
    match relation:
        case "same individual":
            return who
        case "same class and both colours":
            return look_alike(rng, who, both_colours=True)
        case "same class and colour":
            return look_alike(rng, who, both_colours=False)
        case "same class":
            return random_individual(rng, who.class_noun)
    return random_individual(
        rng, str(rng.choice([noun for noun in world.CLASSES if noun != who.class_noun]))
    )


@torch.no_grad()
def calibrate(network: OracleNetwork, seed: int, num_cases: int = 300) -> None:
    """Fit the probability of `Oracle.identity` by logistic regression on fresh drawings.

    Sets `network.same` and leaves the network in eval mode.
    """
    network.eval()
    features, same = [], []
    for case in identity_cases(seed + 1_000_003, num_cases):
        embeddings = network(torch.cat([case.references, case.pictures])).embeddings
        n = len(case.references)
        features.append(identity_features(embeddings[n:], embeddings[:n]))
        same.append(case.is_same)
    network.same.copy_(logistic_fit(torch.cat(features), torch.cat(same)))


def logistic_fit(features: Tensor, truth: Tensor) -> Tensor:
    """Return the w (D,), float64, that maximizes the likelihood of `truth` (N,), 1 or 0, under
    P(1) = sigmoid(features @ w). `features` has the shape (N, D)."""
    x, y = features.double(), truth.double()
    w = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            value = F.binary_cross_entropy_with_logits(x @ w, y)
            value.backward()
        return value

    optimizer.step(loss)
    return w.detach()
