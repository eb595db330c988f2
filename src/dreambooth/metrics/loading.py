"""The scorers of the group `metrics`, and what happens if their encoders are unavailable."""

from collections.abc import Mapping, Sequence
from typing import Any

from dreambooth.metrics.evaluation import Scorer
from dreambooth.metrics.weights import UnavailableError
from dreambooth.runs.building import build, problems_of
from dreambooth.subjects.subject import Subject

Loaded = tuple[Sequence[Scorer], UnavailableError | None]
"""Scorers and None; or none, and why their encoders are unavailable."""


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
    """Load scorers. ValueError for none, for one that is unavailable or cannot score `subject`."""
    scorers = checked_scorers(load_scorers(metrics), subject, by_choice=True)
    if not scorers:
        raise ValueError("metrics=none scores nothing: choose metrics=miniature or metrics=paper")
    return scorers


def checked_scorers(loaded: Loaded, subject: Subject | None, by_choice: bool) -> list[Scorer]:
    """Return the scorers after checking that they can score `subject`. ValueError otherwise.

    If their encoders are unavailable: UnavailableError if `by_choice` (the user set the metrics),
    else [] (the metrics are the model's default).
    """
    scorers, missing = loaded
    if missing is not None and by_choice:
        raise missing
    if subject is not None:
        for scorer in scorers:
            scorer.check(subject)
    return [*scorers]
