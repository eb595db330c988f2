"""A subject to personalize a model on, and how to load one from a folder of photos."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreambooth.randomness import generator
from dreambooth.subjects.files import captions_of
from dreambooth.subjects.masks import check_masks, load_masks
from dreambooth.subjects.photos import CROPS, load_photos, read_original, read_photo
from dreambooth.subjects.prompt_sets import PROMPT_SETS, UNRELATED, Families, application_of
from dreambooth.subjects.prompts import DREAMBENCH_CLASSES, resolve_kind


@dataclass(frozen=True)
class Subject:
    """A subject: its photos (3-5 in the paper), its class nouns and its evaluation prompts."""

    name: str
    class_noun: str
    wrong_class_noun: str  # for the "wrong class noun" ablation (paper, section 4.3)
    kind: str  # "live" or "object": decides the evaluation prompts
    photos: Callable[[int], Tensor]  # resolution_px -> [-1, 1] (N, 3, R, R)
    originals: Callable[[], list[Tensor]]  # uint8 (3, H, W), neither cropped nor resized
    prompts: tuple[str, ...]  # evaluation prompts, with {} for "[V] [class noun]"
    description: str = ""  # the subject in words, for method=prompt_only
    held_out: Callable[[int], Tensor] | None = None  # photos unseen in training
    crop: str = "centre"  # how photos are made square, of CROPS in photos.py
    # What each photo shows, in words, with {} for "[V] [class noun]"; None for a photo without.
    captions: tuple[str | None, ...] = ()
    # resolution_px -> [0, 1] (N, 1, R, R), 1 where the subject is in each photo.
    masks: Callable[[int], Tensor] | None = None
    truth: Any = None  # ground truth beyond the photos: the miniature's individual
    # What prompts ask for (prompt_sets.py); for those that it lacks, `application_of`.
    families: Mapping[str, str] = field(default_factory=dict)
    unrelated: tuple[str, ...] = UNRELATED  # whole prompts that show how far a model has changed

    def __post_init__(self) -> None:
        resolve_kind(self.kind, self.class_noun)
        if self.class_noun.casefold() == self.wrong_class_noun.casefold():
            raise ValueError(
                f"the wrong class noun {self.wrong_class_noun!r} is the subject's true class: "
                "set subject.wrong_class_noun to another class"
            )

    def family_of(self, template: str) -> str:
        """What a prompt asks for, such as "recontextualization"; "" if it is not known."""
        return self.families.get(template) or application_of(template)


def subject_from_folder(
    photos: str,
    class_noun: str,
    kind: str | None = None,
    wrong_class_noun: str | None = None,
    name: str | None = None,
    description: str = "",
    prompts: str | Sequence[str] = "dreambench",
    crop: str = "centre",
) -> Subject:
    """A subject from a folder of photos, with their captions and masks (files.py).

    `prompts`: those it is evaluated on, one of `PROMPT_SETS` by name, or any templates.
    Every file is read now, so that a broken one is reported before a model is loaded. Without
    `kind`, the class noun decides. If no wrong class noun is given, it is another class of
    DreamBench, drawn with the true class as the seed: always the same for that class.
    """
    kind = resolve_kind(kind, class_noun)
    if crop not in CROPS:
        raise ValueError(f"subject.crop={crop!r} is not known; choose centre, pad or none")
    asked = _asked(prompts, kind)
    folder = Path(photos).expanduser()
    paths = load_photos(folder, 8, crop).paths  # at 8 px: only to find broken files
    captions, has_masks = captions_of(paths), check_masks(paths, crop)
    return Subject(
        name=name or folder.resolve().name,
        class_noun=class_noun,
        wrong_class_noun=wrong_class_noun or other_class(class_noun, DREAMBENCH_CLASSES),
        kind=kind,
        photos=lambda size_px: torch.stack([read_photo(p, size_px, crop) for p in paths]),
        originals=lambda: [read_original(p) for p in paths],
        prompts=tuple(asked),
        description=description,
        crop=crop,
        captions=captions if any(captions) else (),
        masks=(lambda size_px: load_masks(paths, size_px, crop)) if has_masks else None,
        families=asked,
    )


def _asked(prompts: str | Sequence[str], kind: str) -> Families:
    """The prompts of a set, or those that are given, with what they ask for."""
    if isinstance(prompts, str):
        if prompts not in PROMPT_SETS:
            raise ValueError(
                f"subject.prompts={prompts} is not known: choose {', '.join(PROMPT_SETS)}, or give "
                "a list of prompts with {} for the subject"
            )
        return PROMPT_SETS[prompts][kind]
    for prompt in prompts:
        if not isinstance(prompt, str) or not re.fullmatch(r"[^{}]*\{\}[^{}]*", prompt):
            raise ValueError(
                f"subject.prompts has {prompt!r}: give texts with one {{}}, which stands for the "
                "subject, as 'a {} in the snow'"
            )
    if not prompts or len(set(prompts)) < len(prompts):
        what = "a prompt twice" if prompts else "no prompt"
        raise ValueError(f"subject.prompts has {what}: give a list of different prompts")
    return {prompt: application_of(prompt) for prompt in prompts}


def other_class(class_noun: str, classes: Sequence[str]) -> str:
    """Another of `classes`, drawn at random with the class noun as the seed (paper, table 4)."""
    true = class_noun.casefold()
    others = [noun for noun in classes if noun.casefold() != true]
    return others[int(torch.randint(len(others), (), generator=generator("wrong", true)))]
