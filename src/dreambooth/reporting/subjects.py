"""What the subjects of a study are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dreambooth.runs.run import Run


def subject_of(config: Mapping[str, Any]) -> str:
    """Return the subject's name; without one, the class and seed of a drawn subject ("dog 501") or
    the whole path of the photos' folder.
    """
    subject = config.get("subject", {})
    if not isinstance(subject, Mapping):
        return str(subject)
    if name := subject.get("name"):
        return str(name)
    if photos := subject.get("photos"):
        return str(Path(photos).expanduser().absolute())
    return " ".join(str(subject[key]) for key in ("class_noun", "seed") if key in subject)


def names_of(subjects: Sequence[tuple[Run, str]]) -> list[str]:
    """Return the name of each subject in a study, from its run and `subject_of`.

    A drawn subject has the same name in all runs, if any config has its name. A folder of photos is
    called by the last part of its path or, where another subject is called so too, by as many parts
    as tell them apart. Folders of the same photos are one subject: the first folder.
    """
    drawn: dict[str, str] = {}  # identity -> name
    folders: dict[str, str] = {}  # folder -> the first folder with the same photos
    by_photos: dict[str, str] = {}  # hashes -> the first folder with these photos
    for run, subject in subjects:
        identity = _drawn_identity(run.config)
        if identity and subject != identity:
            drawn[identity] = subject
        if Path(subject).is_absolute() and (photos := _photos_of(run)):
            folders.setdefault(subject, by_photos.setdefault(photos, subject))
    merged = [
        drawn.get(_drawn_identity(run.config)) or folders.get(subject, subject)
        for run, subject in subjects
    ]
    short = {subject: _shortened(subject, set(merged)) for subject in set(merged)}
    return [short[subject] for subject in merged]


def _drawn_identity(config: Mapping[str, Any]) -> str:
    """Return class and seed of a drawn subject, named or not: "dog 501"; "" for photos."""
    subject = config.get("subject", {})
    if not isinstance(subject, Mapping) or "photos" in subject or "seed" not in subject:
        return ""
    return f"{subject.get('class_noun')} {subject['seed']}"


def _photos_of(run: Run) -> str:
    """Return the names and hashes of a run's photos; "" if they are not known."""
    with suppress(ValueError):  # the file is damaged
        if inputs := run.read_inputs():
            return repr(sorted(inputs.items()))
    return ""


def _shortened(path: str, others: set[str]) -> str:
    """Return as few of the last parts of a path as no other path ends with."""
    parts = Path(path).parts if Path(path).is_absolute() else ()
    for count in range(1, len(parts)):
        shared = [o for o in others if o != path and Path(o).parts[-count:] == parts[-count:]]
        if not shared:
            return "/".join(parts[-count:])
    return path
