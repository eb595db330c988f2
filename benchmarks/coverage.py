"""How often the report's 95 % interval has the truth in it, over simulated studies.

A study: subjects whose effect is normal, or as skewed as an exponential, with 25 prompts each and
2 images of each prompt. Beside it the plain bootstrap: subjects, prompts and images drawn anew, and
percentiles.

python benchmarks/coverage.py [num_studies]
"""

import sys

import numpy as np

from dreambooth.reporting.statistics import estimate

NUM_PROMPTS, NUM_IMAGES, NUM_DRAWS = 25, 2, 500


def study(rng: np.random.Generator, subjects: int, skewed: bool) -> np.ndarray:
    """Scores (subjects, prompts, images) whose true mean is 0."""
    of_subjects = rng.exponential(1, subjects) - 1 if skewed else rng.standard_normal(subjects)
    of_prompts = rng.standard_normal((subjects, NUM_PROMPTS, 1))
    of_images = 1.5 * rng.standard_normal((subjects, NUM_PROMPTS, NUM_IMAGES))
    return of_subjects[:, None, None] + of_prompts + of_images


def ours(scores: np.ndarray) -> tuple[float, float]:
    """As the report has it."""
    found = estimate(
        {
            (f"subject {s}", "0"): {
                (f"prompt {p}", i): float(value)
                for p, of_prompt in enumerate(of_subject)
                for i, value in enumerate(of_prompt)
            }
            for s, of_subject in enumerate(scores)
        }
    )
    assert found is not None
    return found.low, found.high


def plain(scores: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Percentiles of all levels drawn anew."""
    size = (NUM_DRAWS, len(scores), NUM_PROMPTS, NUM_IMAGES)
    s = rng.integers(len(scores), size=(*size[:2], 1, 1))
    p = rng.integers(NUM_PROMPTS, size=(*size[:3], 1))
    means = scores[s, p, rng.integers(NUM_IMAGES, size=size)].mean((1, 2, 3))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def main(num_studies: int = 1000) -> None:
    print(f"the truth is in the interval, of {num_studies} studies:")
    for skewed in (False, True):
        for subjects in (2, 3, 5, 8, 15, 30):
            rng = np.random.default_rng([subjects, skewed])
            drawn = [study(rng, subjects, skewed) for _ in range(num_studies)]
            found = [[ours(scores) for scores in drawn], [plain(s, rng) for s in drawn]]
            share = [np.mean([low <= 0 <= high for low, high in f]) for f in found]
            kind = "skewed" if skewed else "normal"
            print(f"{subjects:3d} {kind} subjects: {share[0]:.1%}, plain bootstrap {share[1]:.1%}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
