"""Words, accents and posters for shop signs, vans and columns."""

from __future__ import annotations

import cv2
import numpy as np

from progeo_edge.types import Image
from progeo_edge.world.surfaces import Colour, Rng, jitter

SHOP_WORDS = (
    "BAKERY", "BOOKS", "CAFE", "FLOWERS", "RADIO", "OPTICS", "TAILOR", "HOTEL", "NOODLES", "BICYCLES", "MUSIC", "SHOES",
    "TOYS", "LAUNDRY", "GALLERY", "TEA ROOM", "FISH", "KEYS", "PAINTS", "RECORDS", "BARBER", "CLOCKS", "PHARMACY",
)  # fmt: skip
OWNERS = (
    "ADA", "BRUNO", "CLIO", "DORA", "EMIL", "FELIX", "GRETA", "HUGO", "IDA", "JONAS", "KARLA", "LEO", "MIRA", "NILS",
)  # fmt: skip
ACCENTS: tuple[Colour, ...] = (
    (60, 60, 170), (130, 80, 40), (60, 120, 50), (40, 150, 210),
    (120, 50, 110), (45, 45, 50), (160, 120, 30), (70, 90, 130),
)  # fmt: skip
_FONTS = (cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_SIMPLEX)


def draw_accent(rng: Rng, amount: float) -> Colour:
    """One of the accents, each channel changed by up to `amount`."""
    return jitter(rng, ACCENTS[int(rng.integers(len(ACCENTS)))], amount)


def poster(rng: Rng, width: int, height: int) -> Image:
    """A bill with blocks of colour and a headline; (height, width, 3)."""
    image = np.full((height, width, 3), draw_accent(rng, 0.3), np.uint8)
    for _ in range(5):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        shade = tuple(float(c) for c in rng.uniform(40, 240, 3))
        if rng.random() < 0.5:
            cv2.circle(image, centre, int(rng.integers(4, max(6, width // 3))), shade, -1, cv2.LINE_AA)
        else:
            end = (int(rng.integers(width)), int(rng.integers(height)))
            cv2.rectangle(image, centre, end, shade, -1)
    write(image, str(rng.choice(SHOP_WORDS)), (2, height // 8, width - 4, height // 5), (240, 240, 240), rng)
    cv2.rectangle(image, (0, 0), (width - 1, height - 1), (230, 230, 230), 2)
    return image


def write(image: Image, text: str, box: tuple[int, int, int, int], colour: Colour, rng: Rng) -> None:
    """Write `text` as large as it fits into box (x, y, w, h), centred, in place."""
    x, y, w, h = box
    font = _FONTS[int(rng.integers(len(_FONTS)))]
    (text_width, text_height), _ = cv2.getTextSize(text, font, 1.0, 2)
    scale = min(0.9 * w / text_width, 0.7 * h / text_height)
    origin = (round(x + 0.5 * (w - scale * text_width)), round(y + 0.5 * (h + scale * text_height)))
    cv2.putText(image, text, origin, font, scale, colour, max(1, round(2 * scale)), cv2.LINE_AA)
