"""The scorers of the group `metrics`, and what becomes of a run whose encoders cannot be had."""

from collections.abc import Mapping, Sequence
from typing import Any

from dreambooth.metrics.evaluation import Scorer
from dreambooth.metrics.weights import UnavailableError
from dreambooth.runs.building import build, problems_of
from dreambooth.subjects.subject import Subject

Loaded = tuple[Sequence[Scorer], UnavailableError | None]
"""Scorers, or none and why their encoders cannot be had."""


def load_scorers(metrics: Mapping[str, Any], key: str = "metrics") -> Loaded:
    """Build the scorers of `metrics`, at `key` of the config.

    The reason names all encoders that cannot be loaded, not just the first. ValueError for a
    mistake of another kind.
    """
    try:
        return list(build(metrics, key).values()), None
    except ValueError as error:
        problems = problems_of(metrics, key) or [error]
        message = "; ".join(map(str, problems))
        missing = [problem.what for problem in problems if isinstance(problem, UnavailableError)]
        if len(missing) < len(problems):
            raise ValueError(message) from error
        return [], UnavailableError(message, ", ".join(missing))


def scorers_of(metrics: Mapping[str, Any], subject: Subject | None = None) -> list[Scorer]:
    """The scorers, which must be there and fit the subject. ValueError otherwise."""
    return checked(load_scorers(metrics), subject, by_choice=True)


def checked(loaded: Loaded, subject: Subject | None, by_choice: bool) -> list[Scorer]:
    """The scorers, which fit the subject. ValueError otherwise.

    If their encoders cannot be had, this is an error where the metrics are the user's choice.
    Where they are the model's default, there are none.
    """
    scorers, missing = loaded
    if missing is not None and by_choice:
        raise missing
    if subject is not None:
        for scorer in scorers:
            scorer.check(subject)
    return [*scorers]
