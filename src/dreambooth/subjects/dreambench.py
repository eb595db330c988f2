"""DreamBench in its own layout: prompts_and_classes.txt and a folder of photos for each subject.

It is the folder `dataset` of github.com/google/dreambooth: 30 subjects of 15 classes, 25 prompts
for objects and 25 for live subjects (paper, section 4.1). This module does not import torch.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dreambooth.subjects.files import image_files, no_such_folder
from dreambooth.subjects.prompts import resolve_kind

PROMPTS_FILE = "prompts_and_classes.txt"
ALL = "all"  # subject.name=all: every subject, in a sweep


@dataclass(frozen=True)
class DreamBench:
    """What the dataset's own file says."""

    folder: Path
    classes: Mapping[str, str]  # the class noun of each subject
    prompts: Mapping[str, list[str]]  # of "object" and "live", with {} for "[V] [class noun]"

    @classmethod
    def read(cls, folder: Path | str) -> "DreamBench":
        """Read prompts_and_classes.txt. ValueError if it is missing or cannot be read."""
        folder = Path(folder).expanduser()
        try:
            lines = [line.strip() for line in (folder / PROMPTS_FILE).read_text().splitlines()]
        except FileNotFoundError:
            raise ValueError(_not_here(folder)) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read {folder / PROMPTS_FILE} ({error})") from error
        classes: dict[str, str] = {}
        prompts: dict[str, list[str]] = {"object": [], "live": []}
        kind = None
        for line in lines:
            if heading := re.fullmatch(r"(Object|Live Subject) Prompts", line):
                kind = heading[1].split()[0].lower()
            elif kind is None and (row := re.fullmatch(r"([\w-]+),\s*(\S.*)", line)):
                classes[row[1]] = row[2]
            elif kind and (text := re.match(r"""(['"])(.*)\1\.format\(""", line)):
                prompts[kind].append(re.sub(r"\{0\} *\{1\}", "{}", text[2]))
        classes.pop("subject_name", None)  # the heading of the two columns
        if not classes or not all(prompts.values()):
            lacks = "classes" if not classes else "prompts of live subjects and of objects"
            raise ValueError(
                f"{folder / PROMPTS_FILE} has no list of {lacks}: get DreamBench's own file"
            )
        return cls(folder, classes, prompts)

    @property
    def present(self) -> list[str]:
        """The subjects whose photos are in the folder."""
        return [name for name in self.classes if _has_photos(self.folder / name)]

    def check(self, name: str) -> None:
        """ValueError unless `name` is a subject whose photos are in the folder."""
        if name == ALL:
            raise ValueError(
                "subject.name=all is a run for each subject of DreamBench: add -m, and give "
                "subject=dreambench and subject.name=all alone"
            )
        present = ", ".join(self.present) or "none"
        if name not in self.classes:
            near = difflib.get_close_matches(str(name), self.classes, 1, 0)
            raise ValueError(
                f"DreamBench has no subject {name}: did you mean {near[0]}? {self.folder} has "
                f"{present}"
            )
        if name not in self.present:
            raise ValueError(
                f"{self.folder} lacks the photos of {name}, and has those of {present}: choose one "
                "of these, or get all by python src/fetch.py dreambench=FOLDER"
            )

    def prompts_of(self, name: str, kind: str | None = None) -> list[str]:
        """The evaluation prompts of a subject. ValueError if there is no such subject."""
        self.check(name)
        return self.prompts[resolve_kind(kind, self.classes[name])]


def _has_photos(folder: Path) -> bool:
    return folder.is_dir() and bool(image_files(folder))


def _not_here(folder: Path) -> str:
    if not folder.is_dir():
        get = "python src/fetch.py dreambench=FOLDER downloads DreamBench"
        return f"{no_such_folder(folder)}; {get}"
    near = [p for p in (folder / "dataset", folder.parent) if (p / PROMPTS_FILE).is_file()]
    remedy = near[0] if near else "the folder that holds it and the folders of the subjects"
    return (
        f"{folder} is not DreamBench's folder, it has no {PROMPTS_FILE}: give dreambench={remedy}"
    )
