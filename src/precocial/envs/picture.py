"""Drawings of a flat world, for task families that have no simulator to render them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from precocial.errors import UserError

PALETTE = {
    "paper": "#fbfaf7",
    "ink": "#22303c",
    "grey": "#9aa5ad",
    "light": "#e7e9e6",
    "blue": "#1f6fb2",
    "sky": "#8cc4e8",
    "green": "#1a936f",
    "orange": "#e08e2b",
    "red": "#c8472f",
    "purple": "#8b5aa5",
    "yellow": "#edc948",
}
"""Colours by name. Blue, orange and green stay apart for colour-blind eyes."""

OVERSAMPLING = 3
"""Drawn this many times larger and averaged down, which smooths edges."""

Point = Any
"""Two numbers (x, y) in metres: a tuple, an array or a tensor."""


def as_pixels(image: Any, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """A picture of any common kind as colours from 0 to 255.

    Grey or in colour, (h, w), (h, w, 1) or (h, w, 3), or with opacity, (h, w, 4), which is laid on
    white. Whole numbers are 0 to 255; floats are 0 to 1, or, where one is above 1.1, 0 to 255. A
    tenth too much, as interpolation makes it, is cut off floats.

    Raises:
        UserError: it is none of these; ``name`` says whose.
    """
    pixels = np.asarray(image)
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size:
        return pixels
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    kind, shape = pixels.dtype.kind, pixels.shape
    if len(shape) != 3 or shape[2] not in (1, 3, 4) or 0 in shape or kind not in "buif":
        raise UserError(
            f"{name} gave {'an array' if isinstance(image, np.ndarray) else type(image).__name__} "
            f"of shape {np.shape(image)} and dtype {pixels.dtype}; expected a picture, (h, w), "
            "(h, w, 3) or (h, w, 4) numbers"
        )
    values = pixels.astype(np.float64)
    low, high, slack = values.min(), values.max(), 0.1 if kind == "f" else 0.0
    full = 1 if kind == "b" or (kind == "f" and high <= 1 + slack) else 255
    if not (-slack * full <= low and high <= (1 + slack) * full):  # also what is not a number
        raise UserError(
            f"{name} gave colours from {low:g} to {high:g}; expected 0 to 255, or 0 to 1 as floats"
        )
    values = (255 / full * values).clip(0, 255)
    if shape[2] == 4:
        opacity = values[..., 3:] / 255
        values = opacity * values[..., :3] + 255 * (1 - opacity)
    return np.broadcast_to(values.round(), (*shape[:2], 3)).astype(np.uint8)


class Picture:
    """A square view of the world: [-half_width, half_width] on both axes in metres, y up.

    Args:
        size: Width and height of the result, in pixels.
        half_width: From the middle to an edge, in metres.
    """

    def __init__(self, size: int, half_width: float) -> None:
        self.size, self.half_width = size, half_width
        side = size * OVERSAMPLING
        self.image = Image.new("RGB", (side, side), PALETTE["paper"])
        self.canvas = ImageDraw.Draw(self.image)
        self.scale = side / (2 * half_width)

    @property
    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """The picture at its final size."""
        return np.array(self.image.reduce(OVERSAMPLING), dtype=np.uint8)

    def square(self, half_width: float, colour: str = "grey", width: float | None = None) -> None:
        """Outline of a square around the origin, such as the training region."""
        h = half_width
        self.line([(-h, -h), (h, -h), (h, h), (-h, h), (-h, -h)], colour, width)

    def grid(self, spacing: float, colour: str = "light") -> None:
        """Lines through every multiple of ``spacing``, the origin among them."""
        reach = int(self.half_width / spacing)
        for k in range(-reach, reach + 1):
            at, end = k * spacing, self.half_width
            self.line([(at, -end), (at, end)], colour)
            self.line([(-end, at), (end, at)], colour)

    def disc(self, position: Point, radius: float, colour: str) -> None:
        """A filled circle; never thinner than two pixels, so that it can be seen."""
        x, y = self._place(position)
        r = max(radius * self.scale, OVERSAMPLING)
        self.canvas.ellipse((x - r, y - r, x + r, y + r), fill=_colour(colour))

    def line(self, points: Iterable[Point], colour: str, width: float | None = None) -> None:
        """An open line with round ends and joints; ``width`` in metres, a hair line without it."""
        places = [self._place(point) for point in points]
        thickness = OVERSAMPLING if width is None else max(width * self.scale, OVERSAMPLING)
        self.canvas.line(places, fill=_colour(colour), width=round(thickness), joint="curve")
        r = thickness / 2
        for x, y in (places[0], places[-1]):
            self.canvas.ellipse((x - r, y - r, x + r, y + r), fill=_colour(colour))

    def polygon(self, points: Iterable[Point], colour: str) -> None:
        """A filled polygon: a cart, a bar, a grid cell."""
        self.canvas.polygon([self._place(point) for point in points], fill=_colour(colour))

    def text(
        self, position: Point, words: str, colour: str = "ink", height: float | None = None
    ) -> None:
        """Words centred on ``position``; ``height`` in metres, a twentieth of the view without."""
        pixels = (0.1 * self.half_width if height is None else height) * self.scale
        self.canvas.text(
            self._place(position), words, fill=_colour(colour), font=font(pixels), anchor="mm"
        )

    def _place(self, point: Point) -> tuple[float, float]:
        x, y = (float(value) for value in point)
        return (x + self.half_width) * self.scale, (self.half_width - y) * self.scale


def font(pixels: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that comes with Pillow, the same on every machine."""
    return ImageFont.load_default(size=max(1.0, pixels))


def _colour(name: str) -> str:
    return PALETTE.get(name, name)
