"""Windows, doors and shop windows: what is drawn into the wall of a house."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.types import Image
from progeo_edge.world.lettering import draw_accent, poster
from progeo_edge.world.surfaces import Colour, Rng, jitter, shade, to_image, value_noise

PX_PER_M = 48


@dataclass(frozen=True)
class WindowStyle:
    """What the windows of one house have in common."""

    width_px: int
    height_px: int
    panes: tuple[int, int]
    frame: Colour
    surround: Colour
    shutters: Colour | None
    arched: bool
    balcony: bool


class Canvas:
    """A picture and its emission plane, drawn together."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.emission: NDArray[np.uint8] = np.zeros(image.shape[:2], np.uint8)

    def rectangle(self, x: int, y: int, w: int, h: int, colour: Colour, line: int = -1) -> None:
        """Fill a rectangle, or draw its outline when `line` is its width."""
        cv2.rectangle(self.image, (x, y), (x + w - 1, y + h - 1), colour, line)

    def glow(self, x: int, y: int, w: int, h: int, level: int) -> None:
        """Set how strongly a rectangle glows at night, 0 to 255."""
        cv2.rectangle(self.emission, (x, y), (x + w - 1, y + h - 1), level, -1)

    def bgra(self) -> Image:
        """Picture and emission as (H, W, 4)."""
        return np.dstack([self.image, self.emission])


def _any_colour(rng: Rng, low: float, high: float) -> Colour:
    b, g, r = rng.uniform(low, high, 3)
    return float(b), float(g), float(r)


def draw_style(rng: Rng, spacing_px: int, trim: Colour) -> WindowStyle:
    """What the windows of one house have in common, for windows `spacing_px` apart."""
    shutters = draw_accent(rng, 0.2) if rng.random() < 0.4 else None
    widest = int(spacing_px * (0.5 if shutters else 0.72))
    return WindowStyle(
        width_px=int(np.clip(rng.uniform(0.8, 1.5) * PX_PER_M, 30, widest)),
        height_px=int(rng.uniform(1.25, 1.75) * PX_PER_M),
        panes=(int(rng.integers(1, 4)), int(rng.integers(1, 4))),
        frame=jitter(rng, (236, 238, 240) if rng.random() < 0.6 else (58, 66, 84), 0.05),
        surround=trim,
        shutters=shutters,
        arched=bool(rng.random() < 0.2),
        balcony=bool(rng.random() < 0.25),
    )


def draw_window(rng: Rng, canvas: Canvas, x: int, y: int, style: WindowStyle) -> None:
    """One window with its sill, and shutters, balcony or flowers as the style has it."""
    w, h = style.width_px, style.height_px
    canvas.rectangle(x - 5, y - 5, w + 10, h + 10, style.surround)
    if style.arched:
        cv2.ellipse(
            canvas.image, (x + w // 2, y - 4), (w // 2 + 4, w // 4), 0, 180, 360, style.surround, -1, cv2.LINE_AA
        )
    _glass(rng, canvas, x, y, w, h)
    _frame(canvas, x, y, w, h, style.panes, style.frame)
    canvas.rectangle(x - 8, y + h + 4, w + 16, 5, shade(style.surround, 1.1))
    canvas.rectangle(x - 8, y + h + 9, w + 16, 3, (60, 62, 66))
    if style.shutters is not None:
        _shutters(canvas, x, y, w, h, style.shutters)
    if style.balcony:
        _balcony(canvas, x - 12, y + h - 26, w + 24)
    elif rng.random() < 0.22:
        _flower_box(rng, canvas, x, y + h - 4, w)


def _glass(rng: Rng, canvas: Canvas, x: int, y: int, w: int, h: int) -> None:
    """Dark glass with a reflection, then a curtain, a blind or nothing; lit at night or not."""
    shade = np.linspace(rng.uniform(70, 130), rng.uniform(30, 60), h, dtype=np.float32)[:, None, None]
    tint = np.array([1.15, 1.0, 0.88], np.float32)
    reflection = 1.0 + 0.35 * value_noise(rng, h, w, 22)[:, :, None]
    canvas.image[y : y + h, x : x + w] = to_image(shade * tint * reflection)
    kind = rng.random()
    if kind < 0.35:
        drape = int(w * rng.uniform(0.15, 0.4))
        cloth = jitter(rng, (205, 215, 222), 0.15)
        canvas.rectangle(x, y, drape, h, cloth)
        canvas.rectangle(x + w - drape, y, drape, h, cloth)
        for fold in range(x, x + drape, 4):
            cv2.line(canvas.image, (fold, y), (fold, y + h - 1), (160, 168, 176), 1)
    elif kind < 0.6:
        drop = int(h * rng.uniform(0.2, 0.85))
        canvas.rectangle(x, y, w, drop, jitter(rng, (190, 200, 205), 0.15))
        for slat in range(y, y + drop, 5):
            cv2.line(canvas.image, (x, slat), (x + w - 1, slat), (120, 128, 134), 1)
    if rng.random() < 0.4:
        canvas.glow(x, y, w, h, int(rng.integers(110, 255)))


def _frame(canvas: Canvas, x: int, y: int, w: int, h: int, panes: tuple[int, int], colour: Colour) -> None:
    canvas.rectangle(x, y, w, h, colour, 3)
    for i in range(1, panes[0]):
        canvas.rectangle(x + i * w // panes[0] - 1, y, 3, h, colour)
        canvas.glow(x + i * w // panes[0] - 1, y, 3, h, 0)
    for j in range(1, panes[1]):
        canvas.rectangle(x, y + j * h // panes[1] - 1, w, 3, colour)
        canvas.glow(x, y + j * h // panes[1] - 1, w, 3, 0)


def _shutters(canvas: Canvas, x: int, y: int, w: int, h: int, colour: Colour) -> None:
    leaf = w // 2 - 2
    for left in (x - leaf - 6, x + w + 6):
        canvas.rectangle(left, y - 2, leaf, h + 4, colour)
        for slat in range(y + 3, y + h - 2, 6):
            cv2.line(canvas.image, (left + 3, slat), (left + leaf - 4, slat), shade(colour, 0.55), 2)
        canvas.rectangle(left, y - 2, leaf, h + 4, shade(colour, 0.5), 1)


def _balcony(canvas: Canvas, x: int, y: int, w: int) -> None:
    canvas.rectangle(x - 4, y + 36, w + 8, 8, (150, 152, 156))
    canvas.rectangle(x, y, w, 3, (40, 40, 44))
    for bar in range(x, x + w, 6):
        cv2.line(canvas.image, (bar, y), (bar, y + 36), (40, 40, 44), 1)


def _flower_box(rng: Rng, canvas: Canvas, x: int, y: int, w: int) -> None:
    canvas.rectangle(x, y, w, 10, (50, 70, 110))
    petal = tuple(float(c) for c in rng.uniform(90, 250, 3))
    for _ in range(w // 2):
        spot = (int(rng.integers(x, x + w)), int(rng.integers(y - 9, y + 3)))
        cv2.circle(canvas.image, spot, 2, petal if rng.random() < 0.4 else (45, 125, 60), -1)


def _plain_glass(rng: Rng, canvas: Canvas, x: int, y: int, w: int, h: int) -> None:
    shade = (70 + 25 * value_noise(rng, h, w, 40))[:, :, None] * np.array([1.1, 1.0, 0.9], np.float32)
    canvas.image[y : y + h, x : x + w] = to_image(shade)
    canvas.glow(x, y, w, h, int(rng.integers(60, 220)))


def draw_display(rng: Rng, canvas: Canvas, x: int, y: int, w: int, h: int) -> None:
    """A shop window with goods on two shelves."""
    _plain_glass(rng, canvas, x, y, w, h)
    for shelf in (0.45, 0.95):
        base = y + int(shelf * h)
        left = x + 4
        while left < x + w - 16:
            item_w, item_h = int(rng.integers(6, 18)), int(rng.integers(8, max(10, int(0.35 * h))))
            colour = _any_colour(rng, 40, 235)
            canvas.rectangle(left, base - item_h, item_w, item_h, colour)
            if rng.random() < 0.3:
                cv2.circle(canvas.image, (left + item_w // 2, base - item_h), item_w // 2, colour, -1, cv2.LINE_AA)
            left += item_w + int(rng.integers(3, 12))
        canvas.rectangle(x, base, w, 3, (120, 140, 160))
    if w > 70 and rng.random() < 0.6:
        bill = poster(rng, 30, 42)
        px, py = int(rng.integers(x + 4, x + w - 36)), y + 6
        canvas.image[py : py + 42, px : px + 30] = bill
    canvas.rectangle(x, y, w, h, (50, 54, 60), 3)


def draw_door(rng: Rng, canvas: Canvas, x: int, y: int, w: int, h: int, *, glazed: bool) -> None:
    """A door, panelled or with a pane of glass."""
    colour = draw_accent(rng, 0.3)
    canvas.rectangle(x, y, w, h, colour)
    dark: Colour = (0.55 * colour[0], 0.55 * colour[1], 0.55 * colour[2])
    if glazed:
        _plain_glass(rng, canvas, x + 7, y + 8, w - 14, int(0.7 * h))
    else:
        for row in range(3):
            for column in range(2):
                canvas.rectangle(x + 6 + column * w // 2, y + 8 + row * h // 3, w // 2 - 12, h // 3 - 14, dark, 2)
    canvas.rectangle(x, y, w, h, dark, 2)
    cv2.circle(canvas.image, (x + w - 8, y + h // 2), 3, (60, 190, 220), -1, cv2.LINE_AA)


def draw_awning(rng: Rng, canvas: Canvas, y: int, accent: Colour) -> None:
    """A striped awning over the whole width."""
    width, drop, stripe = canvas.image.shape[1], int(0.45 * PX_PER_M), int(rng.integers(9, 20))
    for i, x in enumerate(range(6, width - 6, stripe)):
        w = min(stripe, width - 6 - x)
        canvas.rectangle(x, y, w, drop, (225, 230, 235) if i % 2 else accent)
        cv2.circle(canvas.image, (x + w // 2, y + drop), w // 2, (225, 230, 235) if i % 2 else accent, -1, cv2.LINE_AA)
    canvas.glow(6, y, width - 12, drop + stripe // 2, 0)


def draw_garage(rng: Rng, canvas: Canvas, top: int) -> None:
    """A roller door somewhere along the wall."""
    height, width = canvas.image.shape[:2]
    w = int(min(2.8 * PX_PER_M, 0.55 * width))
    x = int(rng.integers(12, width - w - 12))
    y, colour = top + 34, jitter(rng, (168, 170, 172), 0.15)
    canvas.rectangle(x, y, w, height - y, colour)
    for slat in range(y, height, int(rng.integers(7, 13))):
        cv2.line(canvas.image, (x, slat), (x + w - 1, slat), shade(colour, 0.6), 1)
    canvas.rectangle(x, y, w, height - y, (70, 72, 76), 3)
