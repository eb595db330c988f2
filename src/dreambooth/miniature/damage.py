"""Damage for drawings, and mild changes that do not count as damage.

The oracle's `clean` is trained and tested on both. The kinds of damage imitate how diffusion models
fail: shapes bend and smear, two things are drawn in one place, patches of stray colour appear,
parts are missing or doubled, and edges melt into each other.

Every function takes and returns uint8 RGB (H, W, 3). All randomness comes from `rng`: the same
arguments give the same pixels. A `Damage` also takes a second drawing, from which blends and pasted
parts come. Sizes are in pixels of 64 x 64 pictures.
"""

from collections.abc import Callable

import cv2
import numpy as np

Damage = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]

CENTRE = slice(8, 56)  # rows and columns around the subject
_WINDOW_PX = 16
CLEAN_BELOW, DAMAGED_FROM = 3.0, 9.0  # of `visible_change`, in grey levels of 255


def visible_change(before: np.ndarray, after: np.ndarray) -> float:
    """Return the greatest mean absolute difference, in grey levels, of any 16 x 16 window whose
    centre is in the middle of the picture, where the subject is."""
    change = cv2.absdiff(before, after).astype(np.float32).mean(2)
    windows = cv2.blur(change, (_WINDOW_PX, _WINDOW_PX), borderType=cv2.BORDER_REFLECT_101)
    return float(windows[CENTRE, CENTRE].max())


def is_clean(change: float) -> float:
    """Return the label for a `visible_change`: 1 if hardly a pixel has changed, 0 if the damage is
    obvious, NaN between the two, where it is debatable."""
    if change < CLEAN_BELOW:
        return 1.0
    return 0.0 if change >= DAMAGED_FROM else float("nan")


# --- damage ----------------------------------------------------------------------------------


def warp(
    pixels: np.ndarray,
    _other: np.ndarray,
    rng: np.random.Generator,
    displacement_px: float | None = None,
) -> np.ndarray:
    """Move pixels along a smooth random field, everywhere or in one region.

    `displacement_px`: the root mean square length of the field, which then acts everywhere; without
    it, the length is random in 1.5..4.
    """
    length = rng.uniform(1.5, 4) if displacement_px is None else displacement_px
    height, width = pixels.shape[:2]
    sigma = rng.uniform(2.5, 6)
    noise = rng.standard_normal((height, width, 2)).astype(np.float32)
    field = np.asarray(cv2.GaussianBlur(noise, (0, 0), sigma))
    field *= length / np.sqrt((field**2).sum(2).mean())
    if displacement_px is None:
        field *= _region(pixels, rng, everywhere=0.5)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    where = (x + field[..., 0], y + field[..., 1])
    return cv2.remap(pixels, *where, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def smear(pixels: np.ndarray, _other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur along one to four strokes near the subject, as a finger smears wet paint."""
    for _ in range(rng.integers(1, 5)):
        angle, size = rng.uniform(0, np.pi), int(rng.integers(4, 10)) * 2 + 1
        towards = np.array([np.cos(angle), np.sin(angle)])
        kernel = np.zeros((size, size), np.float32)
        ends = size // 2 + np.outer([-1, 1], towards) * (size // 2)
        _line(kernel, ends, width_px=1)
        blurred = cv2.filter2D(pixels, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)
        stroke = np.zeros(pixels.shape[:2], np.float32)
        middle = rng.uniform(18, 46, 2)
        ends = middle + np.outer([-1, 1], towards) * rng.uniform(6, 18)
        _line(stroke, ends, width_px=int(rng.integers(6, 17)))
        pixels = _mix(pixels, blurred, cv2.GaussianBlur(stroke, (0, 0), 1.5)[..., None])
    return pixels


def blend(pixels: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mix two drawings: both visible everywhere, or the second one in a half or a region only."""
    share = rng.random()
    if share < 0.4:
        return _mix(pixels, other, np.float32(rng.uniform(0.3, 0.5)))
    if share < 0.7:
        return _mix(pixels, other, _half(pixels, rng))
    return _mix(pixels, other, _region(pixels, rng, everywhere=0))


def blot(pixels: np.ndarray, _other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paint two to seven soft patches near the subject, in colours of the picture."""
    for _ in range(rng.integers(2, 8)):
        row, column = rng.integers(0, pixels.shape[:2])
        colour = np.broadcast_to(pixels[row, column], pixels.shape)
        shape = _blob(pixels, rng, radius_px=rng.uniform(2.5, 8), softness_px=rng.uniform(0.5, 2))
        pixels = _mix(pixels, colour, np.float32(rng.uniform(0.6, 1)) * shape)
    return pixels


def misplace(pixels: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paste one or two parts, of this or the other picture, over the subject, so that parts of it
    are missing or doubled."""
    for _ in range(rng.integers(1, 3)):
        source = pixels if rng.random() < 0.6 else other
        dx, dy = rng.choice([-1, 1], 2) * rng.integers(7, 26, 2)
        moved = np.roll(source, (int(dy), int(dx)), axis=(0, 1))
        radius, softness = rng.uniform(6, 14), rng.uniform(0.5, 2.5)
        pixels = _mix(pixels, moved, _blob(pixels, rng, radius, softness))
    return pixels


def melt(pixels: np.ndarray, _other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Let edges run into each other, by a median filter or a morphological opening or closing."""
    kind, size = rng.random(), int(rng.choice([5, 7, 9]))
    if kind < 0.6:
        melted = cv2.medianBlur(pixels, size)
    else:
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size - 2, size - 2))
        change = cv2.MORPH_OPEN if kind < 0.8 else cv2.MORPH_CLOSE
        melted = cv2.morphologyEx(pixels, change, disc)
    soft = cv2.GaussianBlur(melted, (0, 0), rng.uniform(0.4, 1.2))
    return _mix(pixels, soft, _region(pixels, rng, everywhere=0.5))


def several(pixels: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply two or three kinds of damage, one after the other."""
    kinds = [warp, smear, blend, blot, misplace, melt]
    for i in rng.choice(len(kinds), int(rng.integers(2, 4)), replace=False):
        pixels = kinds[i](pixels, other, rng)
    return pixels


DAMAGES: dict[str, Damage] = {
    "warp": warp,
    "smear": smear,
    "blend": blend,
    "blot": blot,
    "misplaced part": misplace,
    "melt": melt,
    "several": several,
}
_SHARES = {"warp": 0.3, "blend": 0.2}  # the hardest to see; the others share the rest equally


def damage_and_label(
    pixels: np.ndarray, other: np.ndarray, rng: np.random.Generator, kind: str | None = None
) -> tuple[np.ndarray, float]:
    """Damage the picture, by a random kind of damage if `kind` is None.

    Returns the damaged picture and its label (`is_clean`).
    """
    if kind is None:
        rest = (1 - sum(_SHARES.values())) / (len(DAMAGES) - len(_SHARES))
        kind = str(rng.choice(list(DAMAGES), p=[_SHARES.get(name, rest) for name in DAMAGES]))
    after = DAMAGES[kind](pixels, other, rng)
    return after, is_clean(visible_change(pixels, after))


# --- no damage -------------------------------------------------------------------------------


def mildly_changed(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change a picture as little as a good sample of a model differs from a drawing.

    Four changes, each made in a third of the pictures: a shift of up to 1 px; softening, by a
    filter or by halving the size, adding noise of up to 4 grey levels and enlarging; other colours,
    by a few grey levels; JPEG compression.
    """
    chosen = rng.random(4) < 1 / 3
    if chosen[0]:
        dx, dy = rng.uniform(-1, 1, 2)
        shift = np.array([(1, 0, dx), (0, 1, dy)], np.float32)
        pixels = cv2.warpAffine(
            pixels, shift, pixels.shape[1::-1], borderMode=cv2.BORDER_REFLECT_101
        )
    if chosen[1] and rng.random() < 0.5:
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.3, 0.7))
    elif chosen[1]:
        height, width = pixels.shape[:2]
        small = cv2.resize(pixels, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        noisy = small + rng.uniform(0, 4) * rng.standard_normal(small.shape)
        enlarged = cv2.resize(noisy, (width, height), interpolation=cv2.INTER_CUBIC)
        pixels = enlarged.round().clip(0, 255).astype(np.uint8)
    if chosen[2]:
        colours = pixels * rng.uniform(0.96, 1.04) + rng.uniform(-6, 6, 3)
        pixels = colours.round().clip(0, 255).astype(np.uint8)
    if chosen[3]:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(70, 96))]
        file = cv2.imencode(".jpg", pixels, quality)[1]
        pixels = np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR))
    return pixels


# --- masks: float32 (H, W, 1), 0 where nothing changes -------------------------------------------


def _mix(pixels: np.ndarray, other: np.ndarray, mask: np.ndarray | np.float32) -> np.ndarray:
    """Return `pixels` where the mask is 0 and `other` where it is 1."""
    mixed = pixels + mask * (other.astype(np.float32) - pixels)
    return mixed.round().clip(0, 255).astype(np.uint8)


def _region(pixels: np.ndarray, rng: np.random.Generator, everywhere: float) -> np.ndarray:
    """Return a large blob near the subject or, with probability `everywhere`, the whole picture."""
    if rng.random() < everywhere:
        return np.ones((*pixels.shape[:2], 1), np.float32)
    return _blob(pixels, rng, radius_px=rng.uniform(9, 20), softness_px=rng.uniform(1, 4))


def _blob(
    pixels: np.ndarray, rng: np.random.Generator, radius_px: float, softness_px: float
) -> np.ndarray:
    """Return an irregular ellipse whose centre is near the subject."""
    height, width = pixels.shape[:2]
    x, y = rng.normal((width / 2, height * 0.54), 8)
    y_px, x_px = np.mgrid[:height, :width].astype(np.float32)
    angle, ratio = rng.uniform(0, np.pi), rng.uniform(0.7, 1.4)
    cos, sin = np.cos(angle), np.sin(angle)
    u = (cos * (x_px - x) + sin * (y_px - y)) * ratio
    v = (cos * (y_px - y) - sin * (x_px - x)) / ratio
    around = np.arctan2(v, u)
    edge = radius_px * (1 + 0.25 * np.sin(rng.integers(2, 5) * around + rng.uniform(0, 2 * np.pi)))
    inside = (np.hypot(u, v) < edge).astype(np.float32)
    return cv2.GaussianBlur(inside, (0, 0), softness_px)[..., None]


def _half(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return one side of a line through the subject, with a soft border."""
    height, width = pixels.shape[:2]
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    along = np.cos(angle) * (x - width / 2) + np.sin(angle) * (y - height / 2)
    steps = (along - rng.uniform(-7, 7)) / rng.uniform(0.5, 4)
    return (1 / (1 + np.exp(-np.clip(steps, -30, 30))))[..., None].astype(np.float32)


def _line(mask: np.ndarray, ends: np.ndarray, width_px: int) -> None:
    """Set `mask` to 1 along a line between two points (x, y)."""
    start, end = ends.round().astype(int).tolist()
    cv2.line(mask, start, end, (1.0,), width_px)
