"""How well the oracle reads drawn scenes that it was not trained on.

    python benchmarks/oracle.py [num_scenes]

Accuracy of each attribute on fresh scenes of the world's own distribution; area under the ROC curve
of the identity score, between the same individual in another scene and other individuals of the
same class and main colour.
"""

import sys

import numpy as np
import torch

from dreambooth.miniature import WEIGHTS
from dreambooth.miniature.drawing import draw
from dreambooth.miniature.oracle import ATTRIBUTES, IdentityBatches, Oracle, scene_values
from dreambooth.miniature.scenes import scene_number, to_tensor

SEED = 991  # of no training


def accuracies(oracle: Oracle, num_scenes: int) -> dict[str, float]:
    scenes = [scene_number(i, SEED) for i in range(num_scenes)]
    seen = oracle.read(to_tensor(np.stack([draw(s) for s in scenes]))).values
    truth = [scene_values(s) for s in scenes]
    return {
        name: float(np.mean([a[name] == b[name] for a, b in zip(seen, truth, strict=True)]))
        for name in ATTRIBUTES
    }


def identity_auc(oracle: Oracle, num_groups: int) -> float:
    """Pairs: each individual's two scenes, and its first scene with its group's others."""
    batches = IdentityBatches(num_steps=1, seed=SEED, groups=num_groups)
    embeddings = oracle.read(batches[0]["images"]).embeddings
    first, second = embeddings.view(num_groups, batches.per_group, 2, -1).unbind(2)
    cosines = torch.einsum("gid,gjd->gij", first, second)
    same = torch.eye(batches.per_group, dtype=torch.bool).expand_as(cosines)
    return auc(cosines[same].numpy(), cosines[~same].numpy())


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """P(positive > negative), ties half (Mann-Whitney)."""
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
