"""How well the oracle reads scenes that it was not trained on.

    python benchmarks/oracle.py [num_scenes]

Prints the accuracy of each attribute on new scenes from the world's distribution, and the area
under the ROC curve of the identity score: the same individual in another scene against other
individuals of the same class and main colour.
"""

import sys

import numpy as np
import torch

from dreambooth.miniature import WEIGHTS
from dreambooth.miniature.drawing import draw
from dreambooth.miniature.oracle import ATTRIBUTES, IdentityBatches, Oracle, scene_values
from dreambooth.miniature.scenes import scene_number, to_tensor

SEED = 991  # used by no training


def accuracies(oracle: Oracle, num_scenes: int) -> dict[str, float]:
    scenes = [scene_number(i, SEED) for i in range(num_scenes)]
    seen = oracle.read(to_tensor(np.stack([draw(s) for s in scenes]))).values
    truth = [scene_values(s) for s in scenes]
    return {
        name: float(np.mean([a[name] == b[name] for a, b in zip(seen, truth, strict=True)]))
        for name in ATTRIBUTES
    }


def identity_auc(oracle: Oracle, num_groups: int) -> float:
    """Return the AUC of the cosine for telling an individual from the others of its group.

    Positive pairs are an individual's two scenes; negative pairs are its first scene and the second
    scene of another individual.
    """
    batches = IdentityBatches(num_steps=1, seed=SEED, groups=num_groups)
    embeddings = oracle.read(batches[0]["images"]).embeddings
    first, second = embeddings.view(num_groups, batches.per_group, 2, -1).unbind(2)
    cosines = torch.einsum("gid,gjd->gij", first, second)
    same = torch.eye(batches.per_group, dtype=torch.bool).expand_as(cosines)
    return auc(cosines[same].numpy(), cosines[~same].numpy())


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return P(positive > negative); ties count one half (Mann-Whitney)."""
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(positive, negative).statistic) / (len(positive) * len(negative))


def main() -> None:
    num_scenes = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    oracle = Oracle.load(WEIGHTS)
    for name, value in accuracies(oracle, num_scenes).items():
        print(f"{name:11s}{value:8.2%}")
    print(f"identity AUC {identity_auc(oracle, num_scenes // 6):.4f}")


if __name__ == "__main__":
    main()
