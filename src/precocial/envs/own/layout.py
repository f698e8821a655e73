"""How a Gymnasium observation lies in a row of numbers, or of bytes. No torch in here.

An observation without a picture is flattened to float32: discrete numbers become one-hot, texts
become counts of words. One with a picture is a row of bytes: its other numbers, four bytes each,
then the picture, which stays as it is (``nets/pictures.py``).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Float32, Shaped, UInt8

from precocial.errors import UserError

SMALLEST = 16
"""Sides of a picture, pixels; a smaller array of bytes is read as a vector."""
WORDS = 64
"""Numbers that a text becomes: of each word its hash modulo this many is counted."""

FLAT = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
"""Spaces of numbers."""


def is_text(space: spaces.Space) -> bool:
    """Whether observations are strings: ``Text``, and spaces of one's own such as MiniGrid's."""
    return space.dtype is not None and space.dtype.kind == "U"


def is_picture(space: spaces.Space) -> bool:
    """A box of bytes (h, w, c), (c, h, w) or (k, h, w, c), as frames are stacked."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return False
    return len(space.shape) in (3, 4) and min(_standing(space.shape)[:2]) >= SMALLEST


def _standing(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Height, width and channels of a picture's space."""
    if len(shape) == 4:
        return shape[1], shape[2], shape[0] * shape[3]
    if _leads(shape):
        return shape[1], shape[2], shape[0]
    return shape[0], shape[1], shape[2]


def _leads(shape: tuple[int, ...]) -> bool:
    """Whether channels come first."""
    return shape[0] < SMALLEST <= shape[2]


def upright(space: spaces.Space, picture: Any) -> UInt8[np.ndarray, "h w c"]:
    """A picture with channels last; of stacked frames all of them."""
    array = np.asarray(picture)
    if array.ndim == 4:
        array = np.moveaxis(array, 0, 2)  # (h, w, k, c)
        return array.reshape(*array.shape[:2], -1)
    return np.moveaxis(array, 0, 2) if _leads(array.shape) else array


def counts(text: str) -> Float32[np.ndarray, " w"]:
    """How often each word occurs, by its hash."""
    found = np.zeros(WORDS, np.float32)
    for word in re.findall(r"\w+", text.lower()):
        found[zlib.crc32(word.encode()) % WORDS] += 1
    return found


def leaves(space: spaces.Space, obs: Any = None) -> Iterator[tuple[spaces.Space, Any]]:
    """The parts of a nested space with those of an observation, in the order of flattening."""
    if isinstance(space, spaces.Dict):
        for name, part in space.spaces.items():
            yield from leaves(part, None if obs is None else obs[name])
    elif isinstance(space, spaces.Tuple):
        for i, part in enumerate(space.spaces):
            yield from leaves(part, None if obs is None else obs[i])
    else:
        yield space, obs


class Layout:
    """Of one observation space.

    Args:
        space: Any that ``check`` lets pass.
    """

    def __init__(self, space: spaces.Space) -> None:
        self.space = space
        parts = [part for part, _ in leaves(space)]
        pictures = [_standing(p.shape) for p in parts if is_picture(p) and p.shape]
        self.side = max((max(h, w) for h, w, _ in pictures), default=0)
        """Pixels; a picture that is not square, or smaller than another, has black beside it."""
        self.channels = sum(c for *_, c in pictures)
        self.numbers = sum(_size(p) for p in parts if not is_picture(p))
        self.dtype = np.dtype(np.uint8 if pictures else np.float32)
        self.size = self.numbers
        """Columns of a row."""
        if pictures:
            self.size = 4 * self.numbers + self.side * self.side * self.channels
        self.plain = not pictures and not any(map(is_text, parts))

    def check(self, name: str) -> None:
        """Refuse what cannot be laid out.

        Raises:
            UserError: a part of another kind, or more numbers than can be told from a picture.
        """
        for part, _ in leaves(self.space):
            if not isinstance(part, FLAT) and not is_text(part):
                raise UserError(
                    f"{name} observes {part}, which does not flatten to a vector; expected Box, "
                    "Discrete, MultiDiscrete, MultiBinary, Text, or a Dict or Tuple of them"
                )
        if self.channels and 4 * self.numbers >= (2 * self.side + 1) * self.channels:
            raise UserError(
                f"{name} observes {self.numbers} numbers beside a picture of {self.side} x "
                f"{self.side}; expected fewer than two rows of the picture have bytes, "
                f"{(2 * self.side + 1) * self.channels // 4}"
            )

    def vector(self, obs: Any) -> Shaped[np.ndarray, " n"]:
        """All that is no picture; of spaces without one in the dtype that they flatten to."""
        if self.plain:
            return np.ravel(np.asarray(spaces.flatten(self.space, obs)))
        parts = [
            counts(value) if is_text(part) else np.ravel(np.asarray(spaces.flatten(part, value)))
            for part, value in leaves(self.space, obs) if not is_picture(part)
        ]  # fmt: skip
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def write(self, obs: Any, row: Shaped[np.ndarray, " o"]) -> None:
        """Lay a fitting observation into its row."""
        if not self.channels:
            row[:] = self.vector(obs)
            return
        room = 4 * self.numbers
        row[:room].view(np.float32)[:] = self.vector(obs)
        picture = row[room:].reshape(self.side, self.side, self.channels)
        picture[:] = 0
        at = 0
        for part, value in leaves(self.space, obs):
            if is_picture(part):
                pixels = upright(part, value)
                h, w, c = pixels.shape
                picture[:h, :w, at : at + c] = pixels
                at += c

    def row(self, obs: Any) -> Shaped[np.ndarray, " o"]:
        """An observation laid out."""
        row = np.empty(self.size, self.dtype)
        self.write(obs, row)
        return row

    def finite(self, rows: Shaped[np.ndarray, "l o"]) -> Shaped[np.ndarray, "l n"]:
        """The numbers that must be finite."""
        if not self.channels:
            return rows
        return np.ascontiguousarray(rows[:, : 4 * self.numbers]).view(np.float32)


def _size(part: spaces.Space) -> int:
    if is_text(part):
        return WORDS
    return spaces.flatdim(part) if isinstance(part, FLAT) else 0
