"""A study's pictures as data of the page: which are shown, small copies, scores and commands."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dreambooth.reporting.look import heading
from dreambooth.reporting.pictures import Sample, samples_of, spread
from dreambooth.reporting.planned import quoted
from dreambooth.reporting.study import Study, Trial
from dreambooth.reporting.thumbnails import thumbnails

MOST_PICTURES = 2000  # on the page
_ONCE = ("photos", "originals", "before")  # the same in all runs of a subject: shown once
_OF_EACH_RUN = ("prompts", "class", "restored")
_CAPTIONS = {"photos": "photo", "originals": "photo", "before": "before fine-tuning"}


@dataclass(frozen=True)
class Gallery:
    """What page.js shows: plain JSON, and how much of the study it is."""

    data: Mapping[str, Any]
    num_shown: int
    num_pictures: int  # that there are


def gallery_of(study: Study, folder: Path, most: int = MOST_PICTURES) -> Gallery:
    """The pictures of all runs; of more than `most`, the same prompts and numbers of each run,
    evenly spread. `folder`: of the page, which paths start from and where thumbnails are kept."""
    everything = list(_all(study))
    chosen = _chosen(everything, most)
    size_px = 160 if len(chosen) <= 900 else 96
    small = thumbnails([s.path for _, s in chosen], size_px, folder / "thumbnails.json")
    groups = list(dict.fromkeys(_group(sample) for _, sample in sorted(chosen, key=_order)))
    runs = list(dict.fromkeys(trial for trial, _ in chosen))
    left_out = Counter(trial for trial, _ in everything) - Counter(trial for trial, _ in chosen)
    cell_of = {trial: i for i, cell in enumerate(study.cells) for trial in cell.trials}
    data = {
        "cells": [cell.label for cell in study.cells],
        "subjects": list(study.subjects),
        "groups": [{"kind": kind, "name": _in_words(kind, text)} for kind, text in groups],
        "runs": [
            {
                "cell": cell_of[trial],
                "subject": study.subjects.index(trial.subject),
                "seed": trial.seed,
                "folder": str(trial.run.folder),
                "link": _link(trial.run.folder, folder),
                "more": left_out[trial],
            }
            for trial in runs
        ],
        "pictures": [
            {
                "run": runs.index(trial),
                "group": groups.index(_group(sample)),
                "label": _CAPTIONS.get(sample.image_set, ""),
                "prompt": sample.prompt,
                "index": sample.index,
                "link": _link(sample.path, folder),
                "small": small.get(sample.path, ""),
                "scores": {heading(k): _short(v) for k, v in sample.scores.items()},
                "command": command_of(trial, sample),
            }
            for trial, sample in sorted(chosen, key=_order)
        ],
    }
    return Gallery(data, len(chosen), len(everything))


def command_of(trial: Trial, sample: Sample) -> str:
    """The command that draws a picture again, to the same bits; "" where no command of a finished
    run does: photos, their enlargements, the pictures of other systems and unfinished runs."""
    if sample.image_set not in ("prompts", "class") or trial.status.state != "finished":
        return ""
    if not trial.run.weights.is_dir():
        return ""
    prompt = sample.template if sample.image_set == "prompts" else sample.prompt
    words = [
        "python src/generate.py",
        shlex.quote(f"run={quoted(str(trial.run.folder))}"),
        shlex.quote(f"prompts=[{quoted(prompt, always=True)}]"),
        f"images_per_prompt=1 first_index={sample.index} image_set=again",
    ]
    return " ".join(words)


def _all(study: Study) -> Iterator[tuple[Trial, Sample]]:
    seen: set[tuple[str, str, str, int]] = set()
    for trial in study.trials:
        for image_set in (*_ONCE, *_OF_EACH_RUN):
            for sample in samples_of(trial, image_set):
                prompt = sample.prompt if image_set == "before" else ""
                key = (trial.subject, image_set, prompt, sample.index)
                if image_set in _ONCE and key in seen:
                    continue
                seen.add(key)
                yield trial, sample


def _chosen(everything: Sequence[tuple[Trial, Sample]], most: int) -> list[tuple[Trial, Sample]]:
    if len(everything) <= most:
        return list(everything)
    chosen = [(trial, s) for trial, s in everything if s.image_set == "photos" and s.index < 3]
    for image_set, part in (("prompts", most * 3 // 4), ("class", most // 4)):
        own = [(trial, s) for trial, s in everything if s.image_set == image_set]
        own.sort(key=lambda item: (item[1].index, _group(item[1])))
        draws = [list(same) for _, same in groupby(own, lambda i: (i[1].index, _group(i[1])))]
        if draws:
            number = max(1, part // max(map(len, draws)))
            chosen += [item for same in spread(draws, number) for item in same]
    return chosen


def _group(sample: Sample) -> tuple[str, str]:
    """Pictures side by side on the page: of one prompt, whatever a run calls the subject."""
    if sample.image_set in ("class", "before"):
        return "class", sample.prompt
    if sample.image_set in ("originals", "restored"):
        return "restored", ""
    if sample.image_set == "photos":
        return "photos", ""
    return "prompts", sample.template or sample.prompt


def _order(item: tuple[Trial, Sample]) -> tuple[int, tuple[str, str], int, bool]:
    kind, text = _group(item[1])
    kinds = ("photos", "prompts", "class", "restored")
    return kinds.index(kind), (kind, text), item[1].index, item[1].image_set not in _ONCE


def _in_words(kind: str, text: str) -> str:
    if kind == "photos":
        return "the subject's photos"
    if kind == "restored":
        return "photos, shrunk and enlarged by super-resolution"
    if kind == "class":
        return f"{text} (the class prompt)"
    return text.replace("{}", "[V]")


def _link(path: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix())


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
