"""Reads a study's scores of each image, and separates runs that were measured differently."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from dreambooth.metrics.applications import OUTCOMES, outcome_of
from dreambooth.metrics.columns import PictureKey, independent_scores, is_mean_of, scores_of
from dreambooth.reporting.settings import setting_in_words
from dreambooth.reporting.statistics import Estimate, StudyScores, estimate
from dreambooth.reporting.study import Study, Trial

_DERIVED = (*OUTCOMES, "copied_excess")  # from other scores; no run records them
STEPS = ("method.max_steps", "sr.max_steps")


@dataclass(frozen=True)
class Heading:
    """A score's name in a table, and which direction is better."""

    text: str
    better: str = ""


HEADINGS = {
    "dino": Heading("DINO", "higher"),
    "clip_i": Heading("CLIP-I", "higher"),
    "clip_t": Heading("CLIP-T", "higher"),
    "pres": Heading("PRES", "lower"),
    "div": Heading("DIV", "higher"),
    "identity": Heading("identity", "higher"),
    "drift": Heading("drift", "lower"),
    "diversity": Heading("diversity", "higher"),
    "unrelated_change": Heading("change of unrelated", "lower"),
    "clean": Heading("clean", "higher"),
    "class_accuracy": Heading("class", "higher"),
    "context_accuracy": Heading("context", "higher"),
    "asked": Heading("shown as asked", "higher"),
    "kept": Heading("subject kept", "higher"),
    "both": Heading("both", "higher"),
    "copy": Heading("copy"),
    "copied": Heading("copied", "lower"),
    "copied_excess": Heading("copied, excess", "lower"),
    "detail": Heading("detail"),
    "sr_detail": Heading("SR detail"),
    "sr_kept": Heading("SR detail kept", "higher"),
    "sr_invented": Heading("SR detail invented", "lower"),
    "sr_layout_error": Heading("SR layout error", "lower"),
    "sr_identity": Heading("SR identity", "higher"),
    "sr_dino": Heading("SR DINO", "higher"),
    "sr_lpips": Heading("SR LPIPS", "lower"),
    "sr_psnr": Heading("SR PSNR", "higher"),
    "sr_ssim": Heading("SR SSIM", "higher"),
}


class ScoreReader:
    """Reads the scores of trials by image, each of them once."""

    def __init__(self) -> None:
        self._cache: dict[tuple[int, str], dict[PictureKey, float]] = {}

    def scores(
        self,
        trials: Iterable[Trial],
        metric: str,
        family: str = "",
    ) -> StudyScores:
        """Return the scores of the finished trials that have the metric.

        `family` selects the prompts that ask for it; without it, all prompts are read.
        """
        scores: dict[tuple[str, str], dict[PictureKey, float]] = {}
        for trial in trials:
            pictures = self._of_trial(trial, metric)
            if family:
                pictures = {k: v for k, v in pictures.items() if trial.family_of(k[0]) == family}
            if pictures:
                scores[trial.subject, trial.seed] = pictures
        return scores

    def estimate(
        self,
        trials: Sequence[Trial],
        metric: str,
        family: str = "",
    ) -> Estimate | None:
        """Return the mean of a cell with its interval.

        A single run without scores of each image keeps the interval that it recorded itself.
        """
        result = estimate(self.scores(trials, metric, family), metric)
        if result is None or family or metric in _DERIVED:
            return result
        recorded = [t.metrics[metric] for t in trials if self._of_trial(t, metric)]
        if all(self._has_mean_only(t, metric) for t in trials if metric in t.metrics):
            low, high = recorded[0].ci95 or (math.nan, math.nan)
            if len(recorded) == 1:
                result = replace(result, low=low, high=high, unit="images")
            result = replace(result, num_images=sum(metric.count for metric in recorded))
        return result

    def _has_mean_only(self, trial: Trial, metric: str) -> bool:
        return list(self._of_trial(trial, metric)) == [("", 0)]

    def _of_trial(self, trial: Trial, metric: str) -> dict[PictureKey, float]:
        key = (id(trial), metric)
        if key not in self._cache:
            self._cache[key] = _read_scores(trial, metric)
        return self._cache[key]


def _read_scores(trial: Trial, metric: str) -> dict[PictureKey, float]:
    """Return a trial's scores by image.

    If their mean is not the value in metrics.json, that value is returned alone, as ("", 0).
    "copied_excess" is what `copied` has above the share of unseen photos.
    """
    if metric in OUTCOMES:
        return scores_of([{**row, **outcome_of(row)} for row in trial.rows], metric)
    if metric == "copied_excess":
        null = trial.metrics.get("copied_null")
        known = null is not None and not math.isnan(null.value)
        copied = _read_scores(trial, "copied") if known else {}
        return {key: value - null.value for key, value in copied.items()} if null else {}
    recorded = trial.metrics.get(metric)
    if recorded is None or math.isnan(recorded.value):
        return {}
    scores = scores_of(trial.rows, metric)
    if not is_mean_of(scores, recorded.value):
        return {("", 0): recorded.value}
    return independent_scores(scores, metric)


@dataclass(frozen=True)
class Part:
    """The runs of a study that may stand in one table."""

    study: Study
    words: str = ""  # how it differs from the other parts; "" if there are none
    note: str = ""


def uniform_parts(study: Study, by_steps: bool = True) -> list[Part]:
    """Split a study into parts that were measured alike; runs of different parts are not compared.

    The runs of a part have the same protocols, package versions, code and, if `by_steps`, training
    steps. The number and size of the photos in a protocol may differ, as they do between subjects.
    """
    groups: list[dict[str, str]] = []
    group_of: dict[int, int] = {}  # id of a trial -> number of its group
    for trial in study.trials:
        facts = _facts(trial)
        if by_steps:
            facts |= {axis: trial.settings[axis] for axis in STEPS if axis in study.axes}
        if not facts:
            continue  # an unfinished run is in every part
        matching = (n for n, group in enumerate(groups) if _is_compatible(facts, group))
        number = next(matching, len(groups))
        if number == len(groups):
            groups.append({})
        groups[number] |= facts
        group_of[id(trial)] = number
    if len(groups) < 2:
        return [Part(study)]
    differing = [
        key
        for key in dict.fromkeys(key for group in groups for key in group)
        if len({group.get(key) for group in groups} - {None}) > 1
    ]
    names = ", ".join(map(_fact_name, differing))
    note = f"The runs differ in {names} and are therefore in separate tables."
    return [
        Part(
            _without(study, {key for key, n in group_of.items() if n != number}),
            _part_name(groups, number, differing),
            note,
        )
        for number in range(len(groups))
    ]


def shared_protocol(text: str) -> str:
    """Remove the number and size of the subject's photos from a protocol."""
    text = re.sub(r"\d+ real photos( \([^)]*\))?", "the real photos", text)
    return re.sub(r"\(\d+ photos\)", "(the photos)", text)


def _facts(trial: Trial) -> dict[str, str]:
    """Return what must be equal for all runs of a table; {} for an unfinished run."""
    if trial.status.state != "finished":
        return {}
    facts = {f"protocol of {m}": shared_protocol(v.protocol) for m, v in trial.metrics.items()}
    if code := trial.provenance.get("code"):
        facts["code"] = str(code)
    versions = trial.provenance.get("versions", {})
    return facts | {f"version of {key}": str(value) for key, value in versions.items()}


def _is_compatible(facts: Mapping[str, str], group: Mapping[str, str]) -> bool:
    return all(group.get(key, value) == value for key, value in facts.items())


def _without(study: Study, trial_ids: set[int]) -> Study:
    """Remove trials by id, and then cells without a finished run."""
    cells = [
        replace(cell, trials=tuple(t for t in cell.trials if id(t) not in trial_ids))
        for cell in study.cells
    ]
    return replace(study, cells=tuple(cell for cell in cells if cell.finished))


def _part_name(groups: Sequence[Mapping[str, str]], number: int, differing: Sequence[str]) -> str:
    """Name a part by what differs: "max_steps 1000", "code 3f1c9a" or "protocol 1 of 2"."""
    facts = groups[number]
    short = [key for key in differing if not key.startswith("protocol") and key in facts]
    names = [f"{_fact_name(key)} {facts[key]}" for key in short]
    names = [setting_in_words(axis, facts[axis]) for axis in STEPS if axis in differing] or names
    return ", ".join(names[:2]) or f"protocol {number + 1} of {len(groups)}"


def _fact_name(key: str) -> str:
    if key.startswith("protocol of "):
        metric = key.removeprefix("protocol of ")
        return f"the protocol of {HEADINGS.get(metric, Heading(metric)).text}"
    return key.removeprefix("version of ")
