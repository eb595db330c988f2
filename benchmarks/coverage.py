"""How often the report's 95 % intervals contain the truth, and its A/A tests find a difference.

    python benchmarks/coverage.py [num_studies]   # 1000; 4000 take about 3 minutes of a core

Simulated studies of known variance components: an effect of each subject, of each of its trainings,
and of each image (25 prompts, 2 images each), with standard deviations of 1, 1 and 1.5, in about
the miniature's ratio. Effects of subjects and trainings are normal, skewed (exponential) or
heavy-tailed (Student's t with 3 degrees of freedom). Shares are means of scores of 0 and 1 whose
rates are Beta(8 p, 8 (1 - p)) over the trainings. An A/A test compares a setting with itself under
other seeds of the same subjects. Prints the tables of docs/statistics.md, in per cent, with two
numbers in each entry: coverage / rejected A/A tests.
"""

import sys
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dreambooth.metrics.columns import interval_of
from dreambooth.metrics.intervals import ci95_of_share, units
from dreambooth.reporting.floor import halves
from dreambooth.reporting.statistics import StudyScores, difference, estimate

SUBJECTS, SEEDS, NUM_PICTURES = (2, 3, 5, 10, 20, 30), (1, 2, 5), 50
SHARES = (0.5, 0.8, 0.9, 0.95, 0.99)
PAIRS_OF_SHARES = ((0.9, 0.9), (0.95, 0.6), (0.99, 0.95))

Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]
EFFECTS: dict[str, Draw] = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "skewed": lambda rng, size: rng.exponential(1, size) - 1,
    "heavy-tailed": lambda rng, size: rng.standard_t(3, size) / 3**0.5,
}


def study(rng: np.random.Generator, draw: Draw, subjects: int, seeds: int) -> NDArray[np.float64]:
    """The means of the trainings, (subjects, seeds), of a study whose true mean is 0."""
    pictures = 1.5 / NUM_PICTURES**0.5 * rng.standard_normal((subjects, seeds))
    return draw(rng, (subjects, 1)) + draw(rng, (subjects, seeds)) + pictures


def shares(rng: np.random.Generator, subjects: int, share: float) -> NDArray[np.float64]:
    """The shares of a training of each subject, (subjects, 1), whose true mean is `share`."""
    rates = rng.beta(8 * share, 8 * (1 - share), (subjects, 1))
    return rng.binomial(NUM_PICTURES, rates) / NUM_PICTURES


def as_scores(means: NDArray[np.float64]) -> StudyScores:
    """As the report reads them; a run's mean stands for its images."""
    return {(f"s{s}", str(k)): {("", 0): float(m)} for (s, k), m in np.ndenumerate(means)}


def per_cent(outcomes: Sequence[bool]) -> float:
    return float(100 * np.mean(outcomes))


def entry(covered: Sequence[bool], rejected: Sequence[bool]) -> str:
    rate = f"{per_cent(rejected):.1f}" if rejected else "-"
    return f"{per_cent(covered):.1f} / {rate}"


def holds(interval: tuple[float, float] | None, truth: float) -> bool:
    assert interval is not None
    return interval[0] - 1e-9 <= truth <= interval[1] + 1e-9


def of_scores(kind: str, subjects: int, seeds: int, num_studies: int) -> str:
    """Coverage of a setting's mean / rejected A/A tests (from five pairs on)."""
    rng = np.random.default_rng([subjects, seeds])
    covered, rejected = [], []
    for _ in range(num_studies):
        found = estimate(as_scores(study(rng, EFFECTS[kind], subjects, seeds)))
        twice = difference(*halves(as_scores(study(rng, EFFECTS[kind], subjects, 2 * seeds))))
        assert found is not None
        assert twice is not None
        covered.append(holds((found.low, found.high), 0.0))
        rejected += [twice.p < 0.05] if twice.can_be_judged else []
    return entry(covered, rejected)


def of_shares(share: float, subjects: int, num_studies: int) -> str:
    rng = np.random.default_rng([subjects, round(100 * share)])
    covered, rejected = [], []
    for _ in range(num_studies):
        a, b = (shares(rng, subjects, share) for _ in range(2))
        covered.append(holds(interval_of("class_accuracy", a.ravel(), (0.0, 1.0)), share))
        twice = difference(as_scores(a), as_scores(b))
        assert twice is not None
        rejected += [twice.p < 0.05] if twice.can_be_judged else []
    return entry(covered, rejected)


def of_differences(pair: tuple[float, float], subjects: int, num_studies: int) -> str:
    rng = np.random.default_rng([subjects, *(round(100 * p) for p in pair)])
    covered = []
    for _ in range(num_studies):
        found = difference(*(as_scores(shares(rng, subjects, share)) for share in pair))
        assert found is not None
        covered.append(holds((found.low, found.high), pair[0] - pair[1]))
    return f"{per_cent(covered):.1f}"


def of_one_run(num_prompts: int, within: float, num_studies: int, share: float | None) -> str:
    """Coverage of one run's mean over prompts of 4 images, with a correlation within a prompt."""
    rng = np.random.default_rng([num_prompts, round(100 * within)])
    covered = []
    for _ in range(num_studies):
        if share is None:
            of_prompts = within**0.5 * rng.standard_normal((num_prompts, 1))
            x = of_prompts + (1 - within) ** 0.5 * rng.standard_normal((num_prompts, 4))
            covered.append(holds(interval_of("", units(x.tolist()), x.ravel()), 0.0))
        else:
            spread = 1 / within - 1
            rates = rng.beta(spread * share, spread * (1 - share), (num_prompts, 1))
            x = (rng.random((num_prompts, 4)) < rates).astype(float)
            covered.append(holds(ci95_of_share(units(x.tolist())), share))
    return f"{per_cent(covered):.1f}"


def row(name: str, cells: Iterable[str]) -> None:
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main(num_studies: int = 1000) -> None:
    row("subjects", map(str, SUBJECTS))
    row("---", ["---"] * len(SUBJECTS))
    for kind in EFFECTS:
        for k in SEEDS:
            name = f"{kind}, {k} seed{'s' if k > 1 else ''}"
            row(name, (of_scores(kind, n, k, num_studies) for n in SUBJECTS))
    for p in SHARES:
        row(f"a share of {p}", (of_shares(p, n, num_studies) for n in SUBJECTS))
    for pair in PAIRS_OF_SHARES:
        name = f"difference of shares, {pair[0]} - {pair[1]}"
        row(name, (of_differences(pair, n, num_studies) for n in SUBJECTS))
    print()
    row("one training: prompts", ("25", "10", "5"))
    for within in (0.26, 0.95):
        for share in (None, 0.9):
            name = f"correlation within a prompt {within}"
            name += f", a share of {share}" if share else ""
            row(name, [of_one_run(n, within, num_studies, share) for n in (25, 10, 5)])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
