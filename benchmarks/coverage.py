"""How often the report's 95 % interval has the truth in it, over simulated studies.

A study: subjects with 25 prompts each and 2 images of each prompt. Scores have an effect of the
subject that is normal, or as skewed as an exponential; beside them the plain bootstrap: subjects,
prompts and images drawn anew, and percentiles. Shares (scores of 0 and 1) are of subjects whose own
shares are Beta(8 p, 8 (1 - p)), and of the paired differences between two such cells.

python benchmarks/coverage.py [num_studies]
"""

import sys
from collections.abc import Sequence

import numpy as np

from dreambooth.reporting.statistics import Scores, difference, estimate

NUM_SUBJECTS = (2, 3, 5, 8, 15, 30)
NUM_PROMPTS, NUM_IMAGES, NUM_DRAWS = 25, 2, 500
SHARES: Sequence[tuple[float, ...]] = (
    *((0.5,), (0.8,), (0.9,), (0.95,), (0.99,)),  # of a cell
    *((0.9, 0.9), (0.95, 0.6), (0.99, 0.95)),  # of two that are compared
)


def study(rng: np.random.Generator, subjects: int, skewed: bool) -> np.ndarray:
    """Scores (subjects, prompts, images) whose true mean is 0."""
    of_subjects = rng.exponential(1, subjects) - 1 if skewed else rng.standard_normal(subjects)
    of_prompts = rng.standard_normal((subjects, NUM_PROMPTS, 1))
    of_images = 1.5 * rng.standard_normal((subjects, NUM_PROMPTS, NUM_IMAGES))
    return of_subjects[:, None, None] + of_prompts + of_images


def shares(rng: np.random.Generator, subjects: int, share: float) -> np.ndarray:
    """Scores of 0 and 1, of the same shape, whose true mean is `share`."""
    of_subjects = rng.beta(8 * share, 8 * (1 - share), (subjects, 1, 1))
    return (rng.random((subjects, NUM_PROMPTS, NUM_IMAGES)) < of_subjects).astype(float)


def ours(*cells: np.ndarray) -> tuple[float, float]:
    """As the report has it, of a cell or of the difference of two."""
    found = (estimate if len(cells) == 1 else difference)(*map(_by_picture, cells))
    assert found is not None
    return found.low, found.high


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
    """Percentiles of all levels drawn anew."""
    size = (NUM_DRAWS, len(scores), NUM_PROMPTS, NUM_IMAGES)
    s = rng.integers(len(scores), size=(*size[:2], 1, 1))
    p = rng.integers(NUM_PROMPTS, size=(*size[:3], 1))
    means = scores[s, p, rng.integers(NUM_IMAGES, size=size)].mean((1, 2, 3))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def covered(found: Sequence[tuple[float, float]], truth: float = 0.0) -> float:
    """The share of the intervals that have the truth in them, rounding aside."""
    return float(np.mean([low - 1e-9 <= truth <= high + 1e-9 for low, high in found]))


def main(num_studies: int = 1000) -> None:
    print(f"the truth is in the interval, of {num_studies} studies:")
    for told in SHARES:
        truth, kind = told[0] - sum(told[1:]), " - ".join(map(str, told))
        for subjects in NUM_SUBJECTS:
            rng = np.random.default_rng([subjects, *(round(100 * share) for share in told)])
            cells = ([shares(rng, subjects, p) for p in told] for _ in range(num_studies))
            rate = covered([ours(*some) for some in cells], truth)
            print(f"{subjects:3d} subjects: {rate:.1%}, shares {kind}", flush=True)
    for skewed in (False, True):
        for subjects in NUM_SUBJECTS:
            rng = np.random.default_rng([subjects, skewed])
            drawn = [study(rng, subjects, skewed) for _ in range(num_studies)]
            rates = covered([ours(s) for s in drawn]), covered([plain(s, rng) for s in drawn])
            kind = "skewed" if skewed else "normal"
            print(f"{subjects:3d} {kind} subjects: {rates[0]:.1%}, plain bootstrap {rates[1]:.1%}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
