"""Draws scenes: the backdrop, the subject in front of it, and the art style over both."""

from collections.abc import Callable

import cv2
import numpy as np

from dreambooth.miniature.canvas import EDGE, Canvas, Colour, box, curve, ellipse, shade
from dreambooth.miniature.figures import draw_subject
from dreambooth.miniature.world import Scene

SIZE_PX = 64
_OVERSAMPLING = 2


def draw(scene: Scene, size_px: int = SIZE_PX) -> np.ndarray:
    """Draw a scene as RGB, uint8, (size_px, size_px, 3). Equal scenes give equal pixels.

    `size_px` must be a multiple of 8, so that the mosaic has whole tiles.
    """
    canvas = Canvas(size_px * _OVERSAMPLING)
    rng = np.random.default_rng(scene.seed)
    _BACKDROPS[scene.context](canvas, rng)
    draw_subject(canvas, scene)
    pixels = _STYLES[scene.style](canvas.pixels, rng) if scene.style else canvas.pixels
    return cv2.resize(pixels, (size_px, size_px), interpolation=cv2.INTER_AREA)


# --- backdrops: 1 unit is the image's side, (0, 0) its top left corner -------------------------


def _sky(c: Canvas, top: Colour, bottom: Colour) -> None:
    """Fill the canvas with a gradient from the colour `top` to the colour `bottom`."""
    mix = np.linspace(0, 1, c.size_px)[:, None]
    column = np.array(top) * (1 - mix) + np.array(bottom) * mix
    c.pixels[:] = column.astype(np.uint8)[:, None]


def _ground(c: Canvas, y: float, slope: float, colour: Colour) -> None:
    """Fill all below a gentle hill, at height `y` in the middle and `slope` higher on the left."""
    heights = y + slope * np.array([-1.2, -0.9, 0.0, 0.9, 1.2])
    line = curve(np.stack([np.linspace(-0.2, 1.2, 5), heights], 1), closed=False)
    c.fill(np.concatenate([line, [(1.3, 1.1), (-0.3, 1.1)]]), colour, outline=0)


def _side(rng: np.random.Generator) -> int:
    """Return -1 or +1: each backdrop has two versions, which are mirror images."""
    return int(rng.choice([-1, 1]))


def _jitter(rng: np.random.Generator, places: list[tuple[float, float]], side: int) -> np.ndarray:
    """Return the places (n, 2), mirrored if `side` is -1, each moved a little at random."""
    points = np.array(places)
    points[:, 0] = 0.5 + side * (points[:, 0] - 0.5)
    return points + rng.uniform(-0.02, 0.02, points.shape)


def _snow(c: Canvas, rng: np.random.Generator) -> None:
    side = _side(rng)
    _sky(c, (150, 186, 226), (206, 224, 242))
    for x, y in _jitter(rng, [(0.12, 0.66), (0.87, 0.62)], side):
        for k in range(3):
            w, top = 0.17 - 0.04 * k, y - 0.13 * k
            c.fill([(x - w, top), (x + w, top), (x, top - 0.22)], (70, 124, 118), outline=0)
    _ground(c, 0.64, 0.03 * side, (238, 245, 252))
    flakes = [(0.3, 0.12), (0.52, 0.06), (0.7, 0.16), (0.05, 0.2), (0.94, 0.1), (0.38, 0.32)]
    for x, y in _jitter(rng, flakes, side):
        c.fill(ellipse(x, y, 0.024, 0.024, n=8), (255, 255, 255), outline=0)


def _beach(c: Canvas, rng: np.random.Generator) -> None:
    side = _side(rng)
    _sky(c, (112, 194, 240), (190, 228, 248))
    ((x, y),) = _jitter(rng, [(0.15, 0.15)], side)
    c.fill(ellipse(x, y, 0.1, 0.1), (255, 236, 130), outline=0)
    c.fill(box(-0.01, 0.44, 1.01, 0.72), (44, 138, 196), outline=0)
    c.fill(box(-0.01, 0.52, 1.01, 0.56), (120, 192, 226), outline=0)
    _ground(c, 0.66, 0.02 * side, (242, 218, 158))


def _jungle(c: Canvas, rng: np.random.Generator) -> None:
    side = _side(rng)
    _sky(c, (24, 84, 60), (50, 120, 70))
    for x, _ in _jitter(rng, [(0.12, 0), (0.48, 0), (0.84, 0)], side):
        c.fill(box(x - 0.045, -0.01, x + 0.045, 0.8), (84, 68, 46), outline=0)
    _ground(c, 0.74, 0.03 * side, (30, 92, 48))
    leaves = [(0.02, 0.1, 0.6), (0.3, 0.02, 2.4), (0.7, 0.04, 0.7), (0.97, 0.18, 2.5)]
    leaves += [(0.05, 0.86, 2.4), (0.95, 0.9, 0.7)]
    places = _jitter(rng, [(x, y) for x, y, _ in leaves], side)
    for (x, y), (_, _, turn) in zip(places, leaves, strict=True):
        c.fill(ellipse(x, y, 0.19, 0.08, turn=side * turn, n=14), (64, 168, 80), outline=0)


def _desert(c: Canvas, rng: np.random.Generator) -> None:
    side, green = _side(rng), (74, 132, 80)
    _sky(c, (250, 186, 112), (254, 226, 166))
    sun, *cacti = _jitter(rng, [(0.7, 0.16), (0.12, 0.68), (0.9, 0.74)], side)
    c.fill(ellipse(sun[0], sun[1], 0.1, 0.1), (255, 246, 210), outline=0)
    _ground(c, 0.62, 0.05 * side, (226, 158, 92))
    for x, y in cacti:
        c.line([(x, y), (x, y - 0.32)], 0.075, green)
        c.line([(x - 0.09, y - 0.22), (x - 0.09, y - 0.11), (x, y - 0.11)], 0.05, green)
        c.line([(x, y - 0.16), (x + 0.09, y - 0.16), (x + 0.09, y - 0.26)], 0.05, green)
    _ground(c, 0.78, -0.05 * side, (212, 138, 78))


def _city(c: Canvas, rng: np.random.Generator) -> None:
    side = _side(rng)
    _sky(c, (160, 172, 196), (212, 212, 218))
    walls = [
        (0.0, 0.28, 0.1, 98),
        (0.28, 0.5, 0.3, 128),
        (0.5, 0.74, 0.16, 110),
        (0.74, 1, 0.34, 90),
    ]
    for left, right, top, grey in walls:
        if side < 0:
            left, right = 1 - right, 1 - left
        top += rng.uniform(-0.03, 0.03)
        c.fill(box(left, top, right, 0.8), (grey, grey, grey + 22), outline=0)
        for y in np.arange(top + 0.08, 0.7, 0.16):
            for x in (left + 0.27 * (right - left), left + 0.73 * (right - left)):
                c.fill(box(x - 0.04, y - 0.045, x + 0.04, y + 0.045), (250, 226, 130), outline=0)
    c.fill(box(-0.01, 0.76, 1.01, 1.01), (84, 86, 96), outline=0)
    for x in (0.06, 0.44, 0.82):
        c.fill(box(x - 0.02, 0.9, x + 0.14, 0.94), (236, 230, 200), outline=0)


def _meadow(c: Canvas, rng: np.random.Generator) -> None:
    side = _side(rng)
    _sky(c, (128, 200, 246), (206, 236, 250))
    for x, y in _jitter(rng, [(0.2, 0.15), (0.84, 0.24)], side):
        for dx, r in ((-0.09, 0.055), (0.0, 0.075), (0.09, 0.055)):
            c.fill(ellipse(x + dx, y, 0.085, r), (255, 255, 255), outline=0)
    _ground(c, 0.6, 0.05 * side, (146, 208, 96))
    _ground(c, 0.76, -0.04 * side, (112, 186, 74))
    places = [(0.08, 0.84), (0.2, 0.95), (0.8, 0.94), (0.93, 0.82), (0.07, 0.7), (0.92, 0.68)]
    for i, (x, y) in enumerate(_jitter(rng, places, side)):
        petal = ((255, 255, 255), (250, 110, 150), (255, 220, 70))[i % 3]
        c.fill(ellipse(x, y, 0.032, 0.032, n=10), petal, outline=0)


def _water(c: Canvas, rng: np.random.Generator) -> None:
    side = _side(rng)
    _sky(c, (52, 164, 204), (12, 72, 132))
    for x, _ in _jitter(rng, [(0.25, 0), (0.75, 0)], side):
        ray = [(x, -0.02), (x + 0.16, -0.02), (x - 0.02, 0.75), (x - 0.18, 0.75)]
        c.fill(ray, (72, 178, 212), outline=0)
    _ground(c, 0.88, 0.02 * side, (196, 186, 140))
    for x, _ in _jitter(rng, [(0.08, 0), (0.92, 0)], side):
        weed = [(x, 1.0), (x + 0.05, 0.86), (x - 0.04, 0.72), (x + 0.03, 0.56)]
        c.line(curve(weed, closed=False), 0.055, (34, 140, 90))
    bubbles = [(0.2, 0.3), (0.12, 0.16), (0.85, 0.35), (0.78, 0.12), (0.5, 0.07)]
    for x, y in _jitter(rng, bubbles, side):
        c.fill(ellipse(x, y, 0.034, 0.034, n=12), (186, 230, 246), outline=0)


def _moon(c: Canvas, rng: np.random.Generator) -> None:
    side = _side(rng)
    _sky(c, (12, 12, 32), (34, 32, 66))
    stars = [(0.08, 0.42), (0.4, 0.08), (0.55, 0.2), (0.72, 0.07), (0.92, 0.28), (0.9, 0.5)]
    for x, y in _jitter(rng, stars, side):
        c.fill(ellipse(x, y, 0.02, 0.02, n=8), (255, 250, 214), outline=0)
    ((x, y),) = _jitter(rng, [(0.17, 0.18)], side)
    c.fill(ellipse(x, y, 0.11, 0.11), (76, 146, 220), outline=0)
    c.fill(ellipse(x - 0.02, y - 0.02, 0.06, 0.045, n=12), (112, 190, 116), outline=0)
    _ground(c, 0.7, 0.03 * side, (154, 154, 164))
    for x, y in _jitter(rng, [(0.14, 0.84), (0.86, 0.8), (0.8, 0.95)], side):
        c.fill(ellipse(x, y, 0.09, 0.035, n=14), (118, 118, 130), outline=0)


_BACKDROPS: dict[str, Callable[[Canvas, np.random.Generator], None]] = {
    "snow": _snow,
    "beach": _beach,
    "jungle": _jungle,
    "desert": _desert,
    "city": _city,
    "meadow": _meadow,
    "water": _water,
    "moon": _moon,
}


# --- art styles: pixels to pixels ------------------------------------------------------------


def _painting(pixels: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    """Soften the colours and add a golden frame."""
    n, gilt = len(pixels), (186, 134, 44)
    soft = cv2.medianBlur(pixels, 5)
    edge = n // 16
    soft[:edge] = soft[-edge:] = soft[:, :edge] = soft[:, -edge:] = gilt
    cv2.rectangle(soft, (edge, edge), (n - 1 - edge, n - 1 - edge), shade(gilt, EDGE), 2)
    return soft


def _sketch(pixels: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    """Turn the picture into a coloured-pencil drawing: pale colours with dark edges on paper."""
    grey = cv2.GaussianBlur(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (0, 0), 1.2)
    edges = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    paper = np.array([250, 246, 236], np.float32)
    drawn = paper + (pixels - paper) * 0.42
    drawn -= np.minimum(3.0 * edges.astype(np.float32), 150)[..., None]
    return np.clip(drawn, 0, 255).astype(np.uint8)


def _mosaic(pixels: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    """Turn the picture into square tiles with pale joints, each tile nearly of one colour."""
    n, tile = len(pixels), len(pixels) // 16
    flat = cv2.resize(pixels, (16, 16), interpolation=cv2.INTER_AREA)
    flat = cv2.resize(flat, (n, n), interpolation=cv2.INTER_NEAREST)
    tiled = cv2.addWeighted(flat, 0.4, pixels, 0.6, 0)
    joint = np.arange(n) % tile < 2
    tiled[joint] = tiled[joint] // 2 + 110
    tiled[:, joint] = tiled[:, joint] // 2 + 110
    return tiled


_STYLES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "painting": _painting,
    "sketch": _sketch,
    "mosaic": _mosaic,
}
