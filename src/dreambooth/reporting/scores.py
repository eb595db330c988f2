"""The scores of a study: of each picture, and which runs were measured alike."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from dreambooth.reporting.settings import told
from dreambooth.reporting.statistics import Estimate, Picture, Scores, estimate, pair_influences
from dreambooth.reporting.study import Study, Trial

_COLUMNS = {  # metric -> set of pictures, column of scores.csv; others: prompts and their own name
    "drift": ("class", "identity"),
    "pres": ("class", "pres"),
    "diversity": ("class", "diversity"),
    "clean": ("prompts", "is_clean"),
    "class_accuracy": ("prompts", "class_right"),
    "context_accuracy": ("prompts", "context_right"),
}
_MEANS_OVER_PAIRS = ("diversity",)
STEPS = ("method.max_steps", "sr.max_steps")


@dataclass(frozen=True)
class Heading:
    """A score's name in a table, which direction is better, and the values that it can have."""

    text: str
    better: str = ""
    least: float = -math.inf
    most: float = math.inf


HEADINGS = {
    "dino": Heading("DINO", "higher", -1, 1),
    "clip_i": Heading("CLIP-I", "higher", -1, 1),
    "clip_t": Heading("CLIP-T", "higher", -1, 1),
    "pres": Heading("PRES", "lower", -1, 1),
    "div": Heading("DIV", "higher", 0),
    "identity": Heading("identity", "higher", 0, 1),
    "drift": Heading("drift", "lower", 0, 1),
    "diversity": Heading("diversity", "higher", 0),
    "clean": Heading("clean", "higher", 0, 1),
    "class_accuracy": Heading("class", "higher", 0, 1),
    "context_accuracy": Heading("context", "higher", 0, 1),
    "asked": Heading("shown as asked", "higher", 0, 1),
    "copy": Heading("copy", "", -1, 1),
    "copied": Heading("copied", "lower", 0, 1),
    "detail": Heading("detail"),
    "sr_detail": Heading("SR detail"),
    "sr_kept": Heading("SR detail kept", "higher"),
    "sr_invented": Heading("SR detail invented", "lower", 0),
    "sr_layout_error": Heading("SR layout error", "lower", 0, 1),
    "sr_identity": Heading("SR identity", "higher", 0, 1),
    "sr_dino": Heading("SR DINO", "higher", -1, 1),
    "sr_lpips": Heading("SR LPIPS", "lower", 0),
    "sr_psnr": Heading("SR PSNR", "higher"),
    "sr_ssim": Heading("SR SSIM", "higher", -1, 1),
}


def image_set_of(metric: str) -> str:
    """The set of pictures that a metric is of: prompts, class or restored."""
    if metric.startswith("sr_"):
        return "restored"
    return _COLUMNS.get(metric, ("prompts", ""))[0]


class Measured:
    """Scores of trials by picture, read once each."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, str], dict[Picture, float]] = {}

    def scores(
        self,
        trials: Iterable[Trial],
        metric: str,
        of: Callable[[str], bool] | None = None,
    ) -> Scores:
        """Of the finished trials that have the metric; `of`: only prompts whose template fits."""
        found: dict[tuple[str, str], dict[Picture, float]] = {}
        for trial in trials:
            pictures = self._of_trial(trial, metric)
            if of is not None:
                pictures = {key: value for key, value in pictures.items() if of(key[0])}
            if pictures:
                found[trial.subject, trial.seed] = pictures
        return found

    def estimate(
        self,
        trials: Sequence[Trial],
        metric: str,
        of: Callable[[str], bool] | None = None,
    ) -> Estimate | None:
        """Of a cell. A single run that keeps no score of each picture has its own interval.

        Intervals end where the score's values do.
        """
        found = estimate(self.scores(trials, metric, of))
        if found is None:
            return None
        limits = HEADINGS.get(metric, Heading(metric))
        found = replace(found, low=max(found.low, limits.least), high=min(found.high, limits.most))
        if of is not None:
            return found
        own = [t.metrics[metric] for t in trials if self._of_trial(t, metric)]
        if all(self._is_whole(t, metric) for t in trials if metric in t.metrics):
            low, high = own[0].ci95 or (math.nan, math.nan)
            if len(own) == 1:
                found = replace(found, low=low, high=high, unit="pictures")
            found = replace(found, num_images=sum(metric.count for metric in own))
        return found

    def _is_whole(self, trial: Trial, metric: str) -> bool:
        return list(self._of_trial(trial, metric)) == [("", 0)]

    def _of_trial(self, trial: Trial, metric: str) -> dict[Picture, float]:
        key = (id(trial), metric)
        if key not in self._found:
            self._found[key] = _pictures(trial, metric)
        return self._found[key]


def _pictures(trial: Trial, metric: str) -> dict[Picture, float]:
    """Its pictures' scores, where their mean is the run's number; else that number alone."""
    measured = trial.metrics.get(metric)
    if measured is None and metric != "asked":
        return {}
    image_set, column = _COLUMNS.get(metric, (image_set_of(metric), metric))
    found: dict[Picture, float] = {}
    for row in trial.rows:
        value = _asked(row) if metric == "asked" else row.get(column)
        if row["set"] == image_set and isinstance(value, float):
            index = row["index"]
            found[str(row["template"] or ""), int(index or 0)] = value
    if measured is None:
        return found
    if math.isnan(measured.value):
        return {}
    mean = sum(found.values()) / len(found) if found else math.nan
    if not math.isclose(mean, measured.value, rel_tol=1e-3, abs_tol=1e-5):
        return {("", 0): measured.value}
    return pair_influences(found) if metric in _MEANS_OVER_PAIRS else found


def _asked(row: Mapping[str, object]) -> float | None:
    """Whether a picture shows all that its prompt asks for, its class aside."""
    right = [v for k, v in row.items() if k.endswith("_right") and k != "class_right"]
    known = [value for value in right if isinstance(value, float)]
    return float(all(known)) if known else None


@dataclass(frozen=True)
class Part:
    """What of a study may stand in one table."""

    study: Study
    words: str = ""  # how it differs from the other parts; "" if there is one
    note: str = ""


def uniform_parts(study: Study, by_steps: bool = True) -> list[Part]:
    """The study in parts that were measured alike: protocols, package versions, code, and steps.

    Nothing is compared across them. The number and size of a subject's photos, which are in the
    protocols too, are the subject's own.
    """
    groups: list[dict[str, str]] = []
    place: dict[int, int] = {}
    for trial in study.trials:
        facts = _facts(trial)
        if by_steps:
            facts |= {axis: trial.settings[axis] for axis in STEPS if axis in study.axes}
        if not facts:
            continue  # it has its row in every part
        fitting = (n for n, group in enumerate(groups) if _fits(facts, group))
        number = next(fitting, len(groups))
        if number == len(groups):
            groups.append({})
        groups[number] |= facts
        place[id(trial)] = number
    if len(groups) < 2:
        return [Part(study)]
    differing = [
        key
        for key in dict.fromkeys(key for group in groups for key in group)
        if len({group.get(key) for group in groups} - {None}) > 1
    ]
    note = f"The runs differ in {', '.join(map(_said, differing))}: each has tables of its own."
    return [
        Part(
            _restricted(study, {key for key, n in place.items() if n != number}),
            _distinct(groups, number, differing),
            note,
        )
        for number in range(len(groups))
    ]


def shared_protocol(text: str) -> str:
    """A protocol without the number and size of the subject's photos."""
    text = re.sub(r"\d+ real photos( \([^)]*\))?", "the real photos", text)
    return re.sub(r"\(\d+ photos\)", "(the photos)", text)


def _facts(trial: Trial) -> dict[str, str]:
    """What must be alike in one table; nothing of a run that was not measured."""
    if trial.status.state != "finished":
        return {}
    facts = {f"protocol of {m}": shared_protocol(v.protocol) for m, v in trial.metrics.items()}
    if code := trial.provenance.get("code"):
        facts["code"] = str(code)
    versions = trial.provenance.get("versions", {})
    return facts | {f"version of {key}": str(value) for key, value in versions.items()}


def _fits(facts: Mapping[str, str], group: Mapping[str, str]) -> bool:
    return all(group.get(key, value) == value for key, value in facts.items())


def _restricted(study: Study, others: set[int]) -> Study:
    """Without the trials of other parts, and without cells that then have no finished run."""
    cells = [
        replace(cell, trials=tuple(t for t in cell.trials if id(t) not in others))
        for cell in study.cells
    ]
    return replace(study, cells=tuple(cell for cell in cells if cell.finished))


def _distinct(groups: Sequence[Mapping[str, str]], number: int, differing: Sequence[str]) -> str:
    """A few words for a part: "steps 1000", or "code 3f1c9a"; protocols are under the table."""
    short = [key for key in differing if not key.startswith("protocol")]
    named = [f"{_said(key)} {groups[number][key]}" for key in short if key in groups[number]]
    named = [told(k, groups[number][k]) for k in STEPS if k in differing] or named
    return ", ".join(named[:2]) or f"protocol {number + 1} of {len(groups)}"


def _said(key: str) -> str:
    if key.startswith("protocol of "):
        metric = key.removeprefix("protocol of ")
        return f"the protocol of {HEADINGS.get(metric, Heading(metric)).text}"
    return key.removeprefix("version of ")
