"""The data of the page's gallery: the images to show, their thumbnails, scores and commands."""

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
from dreambooth.reporting.missing_runs import quoted
from dreambooth.reporting.pictures import Sample, samples_of, spread
from dreambooth.reporting.study import Study, Trial
from dreambooth.reporting.thumbnails import thumbnails

MOST_PICTURES = 2000  # on the page
_SHARED_SETS = ("photos", "originals", "before")  # the same in all runs of a subject: shown once
_RUN_SETS = ("prompts", "class", "restored")
_CAPTIONS = {"photos": "photo", "originals": "photo", "before": "before fine-tuning"}


@dataclass(frozen=True)
class Gallery:
    """The images that page.js shows."""

    data: Mapping[str, Any]  # plain JSON
    num_shown: int
    num_pictures: int  # of all runs, shown or not


def gallery_of(study: Study, folder: Path, most: int = MOST_PICTURES) -> Gallery:
    """Choose at most `most` images, evenly spaced, with the same prompts and indices in each run.

    `folder` is that of the page: links are relative to it, and thumbnails are cached in it.
    """
    pictures = list(_all_pictures(study))
    chosen = _choose(pictures, most)
    ordered = sorted(chosen, key=_order)
    size_px = 160 if len(chosen) <= 900 else 96
    small = thumbnails([s.path for _, s in chosen], size_px, folder / "thumbnails.json")
    groups = list(dict.fromkeys(_group(sample) for _, sample in ordered))
    runs = list(dict.fromkeys(trial for trial, _ in chosen))
    left_out = Counter(trial for trial, _ in pictures) - Counter(trial for trial, _ in chosen)
    cell_of = {trial: i for i, cell in enumerate(study.cells) for trial in cell.trials}
    data = {
        "cells": [cell.label for cell in study.cells],
        "subjects": list(study.subjects),
        "groups": [{"kind": kind, "name": _group_name(kind, text)} for kind, text in groups],
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
                "scores": {heading(k): _rounded(v) for k, v in sample.scores.items()},
                "command": redraw_command(trial, sample),
            }
            for trial, sample in ordered
        ],
    }
    return Gallery(data, len(chosen), len(pictures))


def redraw_command(trial: Trial, sample: Sample) -> str:
    """Return the command that draws an image again (each pixel within 1/255); "" if there is none.

    Only images that a finished run with weights has drawn can be drawn again: not photos, their
    enlargements, or images of other systems.
    """
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


def _all_pictures(study: Study) -> Iterator[tuple[Trial, Sample]]:
    """Yield all images of all runs, but those of `_SHARED_SETS` once for each subject."""
    seen: set[tuple[str, str, str, int]] = set()
    for trial in study.trials:
        for image_set in (*_SHARED_SETS, *_RUN_SETS):
            for sample in samples_of(trial, image_set):
                prompt = sample.prompt if image_set == "before" else ""
                key = (trial.subject, image_set, prompt, sample.index)
                if image_set in _SHARED_SETS and key in seen:
                    continue
                seen.add(key)
                yield trial, sample


def _choose(pictures: Sequence[tuple[Trial, Sample]], most: int) -> list[tuple[Trial, Sample]]:
    """Return all images or, if there are more than `most`, a selection.

    It has three photos of each subject and, of every run, the same prompts and indices: subject
    prompts for three quarters of `most`, and class prompts for a quarter.
    """
    if len(pictures) <= most:
        return list(pictures)
    chosen = [(trial, s) for trial, s in pictures if s.image_set == "photos" and s.index < 3]
    for image_set, share in (("prompts", most * 3 // 4), ("class", most // 4)):
        of_set = [(trial, s) for trial, s in pictures if s.image_set == image_set]
        of_set.sort(key=lambda item: (item[1].index, _group(item[1])))
        same_noise = [
            list(items) for _, items in groupby(of_set, lambda i: (i[1].index, _group(i[1])))
        ]
        if same_noise:
            number = max(1, share // max(map(len, same_noise)))
            chosen += [item for items in spread(same_noise, number) for item in items]
    return chosen


def _group(sample: Sample) -> tuple[str, str]:
    """Return the group of an image on the page, (kind, text): its prompt without the subject."""
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
    return kinds.index(kind), (kind, text), item[1].index, item[1].image_set not in _SHARED_SETS


def _group_name(kind: str, text: str) -> str:
    if kind == "photos":
        return "the subject's photos"
    if kind == "restored":
        return "photos, shrunk and enlarged by super-resolution"
    if kind == "class":
        return f"{text} (the class prompt)"
    return text.replace("{}", "[V]")


def _link(path: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix())


def _rounded(value: Any) -> Any:
    """Round a score to four significant digits."""
    return float(f"{value:.4g}") if isinstance(value, float) else value
