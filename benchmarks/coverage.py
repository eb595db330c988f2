"""How often the report's 95 % interval covers the truth, over simulated studies.

    python benchmarks/coverage.py [num_studies]

A study has several subjects with 25 prompts each and 2 images of each prompt. Scores have a subject
effect that is normal or exponential; for them, the plain percentile bootstrap of subjects, prompts
and images is shown as well. Shares (means of scores of 0 and 1) are Beta(8 p, 8 (1 - p)) over the
subjects; they are shown for single cells and for the paired differences of two cells.
"""

import sys
from collections.abc import Sequence

import numpy as np

from dreambooth.reporting.statistics import Scores, difference, estimate

NUM_SUBJECTS = (2, 3, 5, 8, 15, 30)
NUM_PROMPTS, NUM_IMAGES, NUM_DRAWS = 25, 2, 500
SHARES: Sequence[tuple[float, ...]] = (
    *((0.5,), (0.8,), (0.9,), (0.95,), (0.99,)),  # of a single cell
    *((0.9, 0.9), (0.95, 0.6), (0.99, 0.95)),  # of two compared cells
)


def study(rng: np.random.Generator, subjects: int, skewed: bool) -> np.ndarray:
    """Return scores (subjects, prompts, images) whose true mean is 0."""
    of_subjects = rng.exponential(1, subjects) - 1 if skewed else rng.standard_normal(subjects)
    of_prompts = rng.standard_normal((subjects, NUM_PROMPTS, 1))
    of_images = 1.5 * rng.standard_normal((subjects, NUM_PROMPTS, NUM_IMAGES))
    return of_subjects[:, None, None] + of_prompts + of_images


def shares(rng: np.random.Generator, subjects: int, share: float) -> np.ndarray:
    """Return scores of 0 and 1 (subjects, prompts, images) whose true mean is `share`."""
    of_subjects = rng.beta(8 * share, 8 * (1 - share), (subjects, 1, 1))
    return (rng.random((subjects, NUM_PROMPTS, NUM_IMAGES)) < of_subjects).astype(float)


def ours(*cells: np.ndarray) -> tuple[float, float]:
    """Return the report's interval of a cell or of the difference of two cells."""
    result = (estimate if len(cells) == 1 else difference)(*map(_by_picture, cells))
    assert result is not None
    return result.low, result.high


def _by_picture(scores: np.ndarray) -> Scores:
    return {
        (f"subject {s}", "0"): {
            (f"prompt {p}", i): float(value)
            for p, of_prompt in enumerate(of_subject)
            for i, value in enumerate(of_prompt)
        }
        for s, of_subject in enumerate(scores)
    }


def plain(scores: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Return the percentile interval of a bootstrap of subjects, prompts and images."""
    size = (NUM_DRAWS, len(scores), NUM_PROMPTS, NUM_IMAGES)
    s = rng.integers(len(scores), size=(*size[:2], 1, 1))
    p = rng.integers(NUM_PROMPTS, size=(*size[:3], 1))
    means = scores[s, p, rng.integers(NUM_IMAGES, size=size)].mean((1, 2, 3))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def coverage(intervals: Sequence[tuple[float, float]], truth: float = 0.0) -> float:
    """Return the share of the intervals that contain the truth, up to rounding."""
    return float(np.mean([low - 1e-9 <= truth <= high + 1e-9 for low, high in intervals]))


def main(num_studies: int = 1000) -> None:
    print(f"share of {num_studies} studies whose interval covers the truth:")
    for true_shares in SHARES:
        truth, kind = true_shares[0] - sum(true_shares[1:]), " - ".join(map(str, true_shares))
        for subjects in NUM_SUBJECTS:
            rng = np.random.default_rng([subjects, *(round(100 * p) for p in true_shares)])
            studies = ([shares(rng, subjects, p) for p in true_shares] for _ in range(num_studies))
            rate = coverage([ours(*cells) for cells in studies], truth)
            print(f"{subjects:3d} subjects: {rate:.1%}, shares {kind}", flush=True)
    for skewed in (False, True):
        for subjects in NUM_SUBJECTS:
            rng = np.random.default_rng([subjects, skewed])
            scores = [study(rng, subjects, skewed) for _ in range(num_studies)]
            rates = coverage([ours(s) for s in scores]), coverage([plain(s, rng) for s in scores])
            kind = "skewed" if skewed else "normal"
            print(f"{subjects:3d} {kind} subjects: {rates[0]:.1%}, plain bootstrap {rates[1]:.1%}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
