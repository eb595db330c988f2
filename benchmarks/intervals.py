"""How often the 95 % intervals of DIV and of diversity cover the truth, over simulated runs.

    python benchmarks/intervals.py [num_runs]

The features of images scatter around a common centre. The size of the scatter is log-normal, over
images and over prompts. Distances are 1 - cosine. DIV's interval is over prompts; for comparison,
the interval that treats pairs as independent is shown as well.
"""

import sys
from collections.abc import Callable

import numpy as np

from dreambooth.metrics.intervals import mean_of_groups, mean_of_pairs
from dreambooth.runs.records import Metric

NUM_IMAGES = 4  # per prompt, as in the paper
DIMENSIONS = 16


def distances(rng: np.random.Generator, num_images: int, spread: float) -> np.ndarray:
    """Return the pairwise distances of a set of images, (num_images, num_images)."""
    scale = spread * rng.lognormal(sigma=0.7, size=(num_images, 1))
    features = DIMENSIONS**-0.5 + scale * rng.standard_normal((num_images, DIMENSIONS))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(1 - features @ features.T)


def prompt(rng: np.random.Generator) -> list[float]:
    """Return the distances of all pairs of a prompt's images."""
    square = distances(rng, NUM_IMAGES, 0.1 * rng.lognormal(sigma=0.5))
    return square[np.triu_indices(NUM_IMAGES, 1)].tolist()


def div(rng: np.random.Generator, num_prompts: int) -> Metric:
    return mean_of_groups([prompt(rng) for _ in range(num_prompts)], "")


def div_of_independent_pairs(rng: np.random.Generator, num_prompts: int) -> Metric:
    return mean_of_groups([[pair] for _ in range(num_prompts) for pair in prompt(rng)], "")


def diversity(rng: np.random.Generator, num_images: int) -> Metric:
    return mean_of_pairs(distances(rng, num_images, 0.4), "")


def coverage(metric: Callable[[np.random.Generator, int], Metric], n: int, num_runs: int) -> float:
    """Return the share of runs of size n whose interval covers the metric's true value."""
    rng = np.random.default_rng(n)
    truth = metric(rng, 3000).value
    intervals = [metric(rng, n).ci95 or (np.nan, np.nan) for _ in range(num_runs)]
    return float(np.mean([low <= truth <= high for low, high in intervals]))


def main(num_runs: int = 1000) -> None:
    print(f"share of {num_runs} runs whose interval covers the truth:")
    for n in (25, 10, 5):
        ours, naive = (coverage(m, n, num_runs) for m in (div, div_of_independent_pairs))
        print(f"DIV, {n:2d} prompts of 4: {ours:.1%}; pairs as independent: {naive:.1%}")
    for n in (32, 16, 8):
        print(f"diversity, {n:2d} images: {coverage(diversity, n, num_runs):.1%}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
