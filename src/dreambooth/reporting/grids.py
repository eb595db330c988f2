"""Figures made of images: the paper's image grids, drift of the class prompt, detail after SR."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.reporting.look import INK, MUTED, WIDTH, wrapped
from dreambooth.reporting.pictures import Sample, samples_of, spread
from dreambooth.reporting.plot import Plot
from dreambooth.reporting.study import Cell, Study, Trial

MOST_SUBJECTS = 2  # that get figures; the page's gallery shows all subjects
COLUMNS = 7
MAX_PX = 224  # on an image's longer side: about 300 pixels per printed inch


@dataclass(frozen=True)
class Line:
    """A row of a grid."""

    label: str
    paths: Sequence[Path | None]  # None where an image is missing
    gap_above: bool = False


def plots(study: Study) -> Iterator[Plot]:
    """Draw the grids of the first subjects, from the first finished run of each cell."""
    for number, subject in enumerate(study.subjects[:MOST_SUBJECTS]):
        runs = {
            cell: trial
            for cell in study.cells
            for trial in cell.finished[::-1]  # the first seed is the last to be set
            if trial.subject == subject
        }
        if not runs:
            continue
        key = f"_{number + 1}" if len(study.subjects) > 1 else ""
        yield from _prompts(runs, subject, key)
        yield from _drift(runs, subject, key)
        if "sr" in study.axes:
            yield from _detail(runs, subject, key)


def _prompts(runs: Mapping[Cell, Trial], subject: str, key: str) -> Iterator[Plot]:
    """Draw the first image of the same prompts for every cell, beside the photos."""
    samples = {cell: _first_of_template(trial) for cell, trial in runs.items()}
    samples = {cell: by_template for cell, by_template in samples.items() if by_template}
    if not samples:
        return
    first_cell, *_ = samples.values()
    shared = [t for t in first_cell if all(t in by_template for by_template in samples.values())]
    templates = spread(shared, COLUMNS)
    if not templates:
        return
    photos = max((samples_of(trial, "photos") for trial in runs.values()), key=len)
    first_column = [s.path for s in photos] + [None] * len(samples)
    lines = [
        Line(cell.label, [photo, *(by_template[t].path for t in templates)])
        for photo, (cell, by_template) in zip(first_column, samples.items(), strict=False)
    ]
    headings = ["real photos", *(t.replace("{}", "[V]") for t in templates)]
    caption = (
        f"{subject}: each row is a cell; all images of a column have the same prompt and start "
        "from the same noise. [V] stands for the subject's name in the prompt. The first column "
        "shows the training photos. The images are the first of each prompt, not selected by eye."
    )
    yield _plot(f"prompts{key}", f"The subject under its prompts: {subject}", caption, lines,
                headings, after_first=bool(photos))  # fmt: skip


def _drift(runs: Mapping[Cell, Trial], subject: str, key: str) -> Iterator[Plot]:
    """Draw the class prompt's images before and after fine-tuning.

    Cells with the wrong class noun have a class prompt of their own.
    """
    before: dict[str, dict[int, Path]] = {}
    after: dict[str, list[tuple[str, dict[int, Path]]]] = {}
    for cell, trial in runs.items():
        for sample in samples_of(trial, "before"):
            before.setdefault(sample.prompt, {}).setdefault(sample.index, sample.path)
        of_class = {s.index: s for s in samples_of(trial, "class")}
        if of_class:
            prompt = next(iter(of_class.values())).prompt
            paths = {index: s.path for index, s in of_class.items()}
            after.setdefault(prompt, []).append((cell.label, paths))
    lines: list[Line] = []
    for prompt, cells in after.items():
        if prompt not in before:
            continue
        indices = sorted(before[prompt])[:8]
        first = [before[prompt][i] for i in indices]
        label = f"“{prompt}”, before any fine-tuning"
        lines.append(Line(label, first, gap_above=bool(lines)))
        lines += [Line(label, [paths.get(i) for i in indices]) for label, paths in cells]
    if not lines:
        return
    caption = (
        f"What the class prompt shows before and after fine-tuning on {subject}; all images of a "
        "column start from the same noise. If the class is preserved, the images change little; "
        "if it has collapsed, all of them show the subject."
    )
    title = f"Drift of the class prompt: {subject}"
    yield _plot(f"drift{key}", title, caption, lines)


def _detail(runs: Mapping[Cell, Trial], subject: str, key: str) -> Iterator[Plot]:
    """Draw the most detailed quarter of held-out photos, and of the photos that SR restored."""
    originals = next((o for t in runs.values() if (o := samples_of(t, "originals"))), [])
    photos = spread(originals, 5)
    if not photos:
        return
    boxes = [_richest(sample.path) for sample in photos]
    lines = [Line("original", [s.path for s in photos])]
    for cell, trial in runs.items():
        restored = {s.index: s.path for s in samples_of(trial, "restored")}
        if restored:
            lines.append(Line(cell.label, [restored.get(s.index) for s in photos]))
    if len(lines) == 1:
        return
    caption = (
        f"Photos of {subject} that were not trained on, shrunk to the base stage's size and "
        "enlarged by super-resolution: the most detailed quarter of each photo, pixel by pixel. "
        "Blur is lost detail; a pattern that the original lacks is invented detail."
    )
    title = f"Detail after super-resolution: {subject}"
    yield _plot(f"detail{key}", title, caption, lines, boxes=boxes)


def _plot(
    key: str,
    title: str,
    caption: str,
    lines: Sequence[Line],
    headings: Sequence[str] = (),
    boxes: Sequence[tuple[int, int, int, int]] = (),
    after_first: bool = False,
) -> Plot:
    """Draw rows of square images, or the `boxes` of them, a box per column.

    `after_first` separates the first column by a gap.
    """
    from matplotlib.figure import Figure as Canvas

    gap, line_gap, label_width, heading_height = 0.05, 0.35, 1.25, 0.42
    columns = max(len(line.paths) for line in lines)
    extra = 0.2 if after_first else 0.0
    size = min(0.95, (WIDTH - label_width) / (columns * (1 + gap) + extra))  # inches
    height = (1 + gap) * len(lines) + line_gap * sum(line.gap_above for line in lines)
    inches = height * size + (heading_height if headings else 0)
    canvas = Canvas(figsize=(label_width + size * (columns * (1 + gap) + extra), inches))
    width, top = canvas.get_size_inches()[0] / size, inches / size
    axes = canvas.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(top, 0))
    axes.axis("off")
    left, y = label_width / size, (heading_height / size if headings else 0.0)
    xs = [left + i * (1 + gap) + (extra if i else 0) for i in range(columns)]
    for x, text in zip(xs, headings, strict=False):
        axes.text(x + 0.5, y - 0.08, wrapped(text, 13), ha="center", va="bottom", fontsize=6.5)
    for line in lines:
        y += line_gap if line.gap_above else 0
        axes.text(left - 0.12, y + 0.5, wrapped(line.label, 21), ha="right", va="center",
                  fontsize=7, color=INK)  # fmt: skip
        for i, (x, path) in enumerate(zip(xs, line.paths, strict=False)):
            pixels = None if path is None else _pixels(path, boxes[i] if boxes else None)
            if pixels is not None:
                extent = (x, x + 1, y + 1, y)
                axes.imshow(pixels, extent=extent, interpolation="none", aspect="auto")
            elif i or not after_first:  # there may be fewer photos than rows
                axes.text(x + 0.5, y + 0.5, "missing", ha="center", va="center", color=MUTED)
        y += 1 + gap
    axes.set(xlim=(0, width), ylim=(top, 0))  # imshow has changed the limits
    return Plot(key, title, caption, canvas)


def _pixels(path: Path, box: tuple[int, int, int, int] | None) -> Any:
    """Return an image or a part of it, uint8 (H, W, 3); None if it cannot be read.

    `box` is (left, top, right, bottom), in pixels.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as image:
            part = image.convert("RGB").crop(box or (0, 0, *image.size))
        part.thumbnail((MAX_PX, MAX_PX), Image.Resampling.LANCZOS)
        return np.asarray(part)
    except (OSError, SyntaxError, ValueError):
        return None


def _richest(path: Path) -> tuple[int, int, int, int]:
    """Return the most detailed quarter of an image: (left, top, right, bottom), in pixels.

    Candidates are the windows of half its width and height on a grid of eighths. Detail is the sum
    of absolute grey differences between neighbouring pixels.
    """
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        grey = np.asarray(image.convert("L"), dtype=float)
    height, width = grey.shape
    change = np.zeros_like(grey)
    change[:, 1:] += np.abs(np.diff(grey, axis=1))
    change[1:] += np.abs(np.diff(grey, axis=0))
    windows = [
        (x, y, x + width // 2, y + height // 2)
        for y in range(0, height // 2 + 1, max(1, height // 8))
        for x in range(0, width // 2 + 1, max(1, width // 8))
    ]
    return max(windows, key=lambda w: change[w[1] : w[3], w[0] : w[2]].sum())


def _first_of_template(trial: Trial) -> dict[str, Sample]:
    """Return template -> the image of index 0."""
    first: dict[str, Sample] = {}
    for sample in samples_of(trial, "prompts"):
        if sample.index == 0:
            first.setdefault(sample.template or sample.prompt, sample)
    return first
