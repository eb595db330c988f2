"""Scenes to pixels: the backdrop, the subject in front of it, and the art style over both."""

from collections.abc import Callable

import cv2
import numpy as np

from dreambooth.miniature.canvas import Canvas, Colour, box, curve, ellipse, shade
from dreambooth.miniature.figures import draw_subject
from dreambooth.miniature.world import Scene

SIZE_PX = 64
_OVERSAMPLING = 2


def draw(scene: Scene, size_px: int = SIZE_PX) -> np.ndarray:
    """The scene as RGB, uint8, (size_px, size_px, 3); the same scene is the same pixels.

    `size_px` is a multiple of 8, for whole tiles of the mosaic.
    """
    canvas = Canvas(size_px * _OVERSAMPLING)
    rng = np.random.default_rng(scene.seed)
    _BACKDROPS[scene.context](canvas, rng)
    draw_subject(canvas, scene)
    pixels = _STYLES[scene.style](canvas.pixels, rng) if scene.style else canvas.pixels
    return cv2.resize(pixels, (size_px, size_px), interpolation=cv2.INTER_AREA)


# --- backdrops: 1 unit is the image's side, (0, 0) its top left corner -------------------------


def _sky(c: Canvas, top: Colour, bottom: Colour) -> None:
    """All of the canvas, shading from `top` to `bottom`."""
    mix = np.linspace(0, 1, c.size_px)[:, None]
    column = np.array(top) * (1 - mix) + np.array(bottom) * mix
    c.pixels[:] = column.astype(np.uint8)[:, None]


def _ground(c: Canvas, rng: np.random.Generator, y: float, colour: Colour, waves: float) -> None:
    """Everything below a gently waving line around `y`."""
    heights = y + rng.uniform(-waves, waves, 5)
    line = curve(np.stack([np.linspace(-0.2, 1.2, 5), heights], 1), closed=False)
    c.fill(np.concatenate([line, [(1.3, 1.1), (-0.3, 1.1)]]), colour, outline=0)


def _snow(c: Canvas, rng: np.random.Generator) -> None:
    _sky(c, (168, 194, 224), (214, 228, 242))
    for x in rng.uniform(0, 1, 3):
        y = 0.58 + rng.uniform(-0.03, 0.03)
        for k in range(3):
            w, top = 0.13 - 0.03 * k, y - 0.12 * k
            c.fill([(x - w, top), (x + w, top), (x, top - 0.2)], (86, 128, 122), outline=0)
    _ground(c, rng, 0.6, (240, 246, 252), 0.03)
    _ground(c, rng, 0.82, (222, 234, 248), 0.03)
    for x, y in rng.uniform(0, 1, (14, 2)):
        c.fill(ellipse(x, y, 0.016, 0.016, n=6), (255, 255, 255), outline=0)


def _beach(c: Canvas, rng: np.random.Generator) -> None:
    _sky(c, (120, 198, 240), (200, 232, 248))
    x = rng.choice([0.14, 0.86]) + rng.uniform(-0.05, 0.05)
    c.fill(ellipse(x, 0.14, 0.09, 0.09), (255, 236, 130), outline=0)
    c.fill(box(0, 0.45, 1, 0.75), (36, 134, 190), outline=0)
    for y in (0.5, 0.57):
        x = rng.uniform(0, 0.7)
        c.line([(x, y), (x + 0.25, y)], 0.015, (140, 206, 232))
    _ground(c, rng, 0.66, (250, 240, 220), 0.02)
    _ground(c, rng, 0.69, (240, 214, 152), 0.02)
    for x, y in zip(rng.uniform(0, 1, 3), rng.uniform(0.78, 0.96, 3), strict=True):
        c.fill(ellipse(x, y, 0.03, 0.02, n=8), (250, 250, 240), outline=0)


def _jungle(c: Canvas, rng: np.random.Generator) -> None:
    _sky(c, (18, 70, 52), (44, 110, 62))
    for x in np.arange(0.0, 1.1, 0.25) + rng.uniform(-0.06, 0.06, 5):
        c.line([(x, -0.05), (x + rng.uniform(-0.05, 0.05), 0.8)], 0.055, (74, 60, 40))
    _ground(c, rng, 0.72, (30, 84, 44), 0.04)
    for x, y in zip(rng.uniform(0, 1, 9), rng.choice([0.05, 0.2, 0.75, 0.92], 9), strict=True):
        a = rng.uniform(0, np.pi)
        leaf = ellipse(x, y, 0.16, 0.06, turn=a, n=12)
        c.fill(leaf, (46, 142 + int(rng.integers(-24, 24)), 66), outline=0)
        d = np.array([np.cos(a), np.sin(a)]) * 0.14
        c.line([(x - d[0], y - d[1]), (x + d[0], y + d[1])], 0.01, (24, 78, 44))


def _desert(c: Canvas, rng: np.random.Generator) -> None:
    _sky(c, (252, 190, 118), (254, 226, 166))
    c.fill(ellipse(rng.uniform(0.1, 0.9), 0.2, 0.1, 0.1), (255, 246, 210), outline=0)
    _ground(c, rng, 0.58, (226, 158, 92), 0.06)
    for x in (rng.uniform(0.02, 0.2), rng.uniform(0.8, 0.98)):
        y, green = rng.uniform(0.6, 0.72), (70, 124, 74)
        c.line([(x, y), (x, y - 0.28)], 0.06, green)
        c.line([(x, y - 0.1), (x + 0.08, y - 0.1), (x + 0.08, y - 0.2)], 0.04, green)
        c.line([(x, y - 0.06), (x - 0.08, y - 0.06), (x - 0.08, y - 0.16)], 0.04, green)
    _ground(c, rng, 0.74, (210, 134, 76), 0.06)


def _city(c: Canvas, rng: np.random.Generator) -> None:
    _sky(c, (150, 160, 176), (206, 206, 210))
    x = -0.05
    while x < 1.0:
        w, top = rng.uniform(0.16, 0.26), rng.uniform(0.08, 0.36)
        grey = int(rng.integers(84, 140))
        c.fill(box(x, top, x + w, 0.8), (grey, grey, grey + 14), outline=0)
        for wy in np.arange(top + 0.06, 0.7, 0.11):
            for wx in (x + 0.25 * w, x + 0.7 * w):
                lit = (250, 230, 140) if rng.random() < 0.5 else (60, 66, 84)
                c.line([(wx - 0.015, wy), (wx + 0.015, wy)], 0.045, lit)
        x += w + 0.015
    c.fill(box(0, 0.76, 1, 1.01), (78, 80, 88), outline=0)
    c.fill(box(0, 0.73, 1, 0.77), (180, 178, 174), outline=0)
    x = rng.uniform(-0.2, 0.1)
    for k in range(4):
        c.line([(x + 0.32 * k, 0.9), (x + 0.32 * k + 0.16, 0.9)], 0.03, (236, 230, 200))


def _meadow(c: Canvas, rng: np.random.Generator) -> None:
    _sky(c, (134, 202, 246), (214, 238, 250))
    for x in rng.uniform(0.05, 0.95, 2):
        y = rng.uniform(0.08, 0.22)
        for dx in (-0.07, 0.0, 0.07):
            c.fill(ellipse(x + dx, y, 0.07, 0.05), (255, 255, 255), outline=0)
    _ground(c, rng, 0.56, (142, 204, 92), 0.05)
    _ground(c, rng, 0.74, (108, 180, 70), 0.04)
    for x, y in zip(rng.uniform(0, 1, 10), rng.uniform(0.68, 0.98, 10), strict=True):
        petal = [(255, 255, 255), (250, 110, 150), (255, 220, 70)][int(rng.integers(3))]
        c.fill(ellipse(x, y, 0.022, 0.022, n=7), petal, outline=0)


def _water(c: Canvas, rng: np.random.Generator) -> None:
    _sky(c, (40, 150, 190), (8, 58, 112))
    for x in rng.uniform(0, 1, 3):
        ray = [(x, -0.02), (x + 0.12, -0.02), (x - 0.05, 0.7), (x - 0.16, 0.7)]
        c.fill(ray, (62, 168, 202), outline=0)
    _ground(c, rng, 0.9, (88, 116, 118), 0.03)
    for x in (rng.uniform(0, 0.22), rng.uniform(0.78, 1), rng.uniform(0, 1)):
        weed = [(x, 1.0), (x + 0.05, 0.85), (x - 0.03, 0.72), (x + 0.04, 0.55)]
        c.line(curve(weed, closed=False), 0.035, (30, 130, 84))
    for x, y in rng.uniform(0, 1, (9, 2)):
        r = rng.uniform(0.012, 0.035)
        bubble = ellipse(x, y, r, r, n=10)
        c.line(np.concatenate([bubble, bubble[:1]]), 0.012, (190, 232, 246))


def _moon(c: Canvas, rng: np.random.Generator) -> None:
    _sky(c, (8, 8, 24), (28, 26, 56))
    for x, y in rng.uniform(0, 1, (22, 2)):
        r = rng.uniform(0.006, 0.014)
        c.fill(ellipse(x, 0.7 * y, r, r, n=6), (255, 252, 226), outline=0)
    x = rng.choice([0.16, 0.84]) + rng.uniform(-0.05, 0.05)
    c.fill(ellipse(x, 0.17, 0.1, 0.1), (70, 140, 214), outline=0)
    c.fill(ellipse(x - 0.02, 0.15, 0.05, 0.035, n=9), (108, 186, 112), outline=0)
    _ground(c, rng, 0.68, (150, 150, 158), 0.03)
    for x, y in zip(rng.uniform(0, 1, 6), rng.uniform(0.75, 0.97, 6), strict=True):
        r = rng.uniform(0.03, 0.08)
        c.fill(ellipse(x, y, r, 0.4 * r, n=12), (112, 112, 122), outline=0)


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
    """Soft colours in a golden frame."""
    n, gilt = len(pixels), (186, 134, 44)
    soft = cv2.GaussianBlur(cv2.medianBlur(pixels, 5), (0, 0), 0.005 * n)
    edge = round(0.055 * n)
    soft[:edge] = soft[-edge:] = soft[:, :edge] = soft[:, -edge:] = gilt
    cv2.rectangle(soft, (edge, edge), (n - 1 - edge, n - 1 - edge), shade(gilt, 0.5), 2)
    cv2.rectangle(soft, (0, 0), (n - 1, n - 1), shade(gilt, 0.6), 2)
    return soft


def _sketch(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Coloured pencil: pale hatching and dark edges on paper."""
    n = len(pixels)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    edges = cv2.convertScaleAbs(
        cv2.Laplacian(cv2.GaussianBlur(grey, (0, 0), 1), cv2.CV_16S, ksize=3), alpha=0.8
    )
    y, x = np.mgrid[:n, :n]
    hatch = ((x + y + int(rng.integers(8))) % 8 < 4).astype(np.float32) * 0.25 + 0.3
    paper = np.array([250, 246, 236], np.float32)
    drawn = paper + (pixels - paper) * hatch[..., None]
    drawn -= np.minimum(edges.astype(np.float32), 130)[..., None]
    return np.clip(drawn, 0, 255).astype(np.uint8)


def _mosaic(pixels: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    """Square tiles, each nearly of one colour, with pale joints."""
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
