"""How often the 95 % intervals of DIV and of diversity have the truth in them, over simulated runs.

Features of pictures lie about a centre, a picture's own deviation log-normal in its size; prompts
differ in theirs too. Distances are 1 - cosine. Beside DIV's interval, which draws prompts, that of
pairs taken as independent.

python benchmarks/intervals.py [num_runs]
"""

import sys
from collections.abc import Callable

import numpy as np

from dreambooth.metrics.intervals import mean_of_groups, mean_of_pairs
from dreambooth.runs.records import Metric

NUM_IMAGES = 4  # of a prompt, as in the paper
DIMENSIONS = 16


def distances(rng: np.random.Generator, num_images: int, spread: float) -> np.ndarray:
    """(num_images, num_images)."""
    own = spread * rng.lognormal(sigma=0.7, size=(num_images, 1))
    features = DIMENSIONS**-0.5 + own * rng.standard_normal((num_images, DIMENSIONS))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(1 - features @ features.T)


def prompt(rng: np.random.Generator) -> list[float]:
    """Distances of its pairs."""
    found = distances(rng, NUM_IMAGES, 0.1 * rng.lognormal(sigma=0.5))
    return found[np.triu_indices(NUM_IMAGES, 1)].tolist()


def of_prompts(rng: np.random.Generator, n: int) -> Metric:
    return mean_of_groups([prompt(rng) for _ in range(n)], "")


def of_single_pairs(rng: np.random.Generator, n: int) -> Metric:
    return mean_of_groups([[pair] for _ in range(n) for pair in prompt(rng)], "")


def of_images(rng: np.random.Generator, n: int) -> Metric:
    return mean_of_pairs(distances(rng, n, 0.4), "")


def coverage(run: Callable[[np.random.Generator, int], Metric], n: int, num_runs: int) -> float:
    rng = np.random.default_rng(n)
    truth = run(rng, 3000).value
    intervals = [run(rng, n).ci95 or (np.nan, np.nan) for _ in range(num_runs)]
    return float(np.mean([low <= truth <= high for low, high in intervals]))


def main(num_runs: int = 1000) -> None:
    print(f"the truth is in the interval, of {num_runs} runs:")
    for n in (25, 10, 5):
        share, single = (coverage(run, n, num_runs) for run in (of_prompts, of_single_pairs))
        print(f"DIV, {n:2d} prompts of 4: {share:.1%}; pairs as independent: {single:.1%}")
    for n in (32, 16, 8):
        print(f"diversity, {n:2d} images: {coverage(of_images, n, num_runs):.1%}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
