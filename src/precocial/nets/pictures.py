"""Pictures as observations: rows of bytes, and the convolutions that read them.

An observation with a picture is a row of bytes, so that it takes a quarter of the room of floats
wherever it is kept::

    numbers, 4 bytes each | picture, side x side x channels, row by row, channels last

How many numbers there are follows from the length of the row: there are fewer than two rows of the
picture have bytes. Networks read rows of bytes by two convolutions with ReLU, as parameters beside
their layers; the numbers come after what these make of the picture. Strides are as long as kernels,
so a convolution is a product of patches and a matrix: it takes weights with or without a leading
task axis, and gradients of any order, as every other layer does. Each channel of a picture loses
its mean before them: most of a picture is ground, which says nothing, and what moves is small. What
comes out of them is as long as 64 numbers of mean square one: a step of Adam moves every weight as
far, and so what a layer makes of 2 048 such numbers 32 times as far as what it makes of 64.

What does not act sees thumbnails: averages over an 8 x 8 grid, of which nothing is learned.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from precocial.nets.initial import orthogonal
from precocial.nets.products import linear
from precocial.types import EnvSpec, Params, Picture, UserError

LAYERS = ((4, 16), (2, 32))
"""Stride, which is the size, and channels of the convolutions."""
LENGTH = 8.0
"""Of what comes out of the convolutions (Euclidean)."""
GRID = 8
"""Cells along a side of a thumbnail."""


def layout(size: int, channels: int) -> Picture:
    """What a row of so many bytes holds."""
    side = math.isqrt(size // channels)
    return Picture(side, channels, (size - side * side * channels) // 4)


def with_numbers(picture: Picture, more: int, name: str) -> Picture:
    """With so many numbers more beside it.

    Raises:
        UserError: they are too many to be told from the picture.
    """
    wider = picture._replace(numbers=picture.numbers + more)
    if layout(wider.size, wider.channels) != wider:
        raise UserError(
            f"{name} shows pictures of {picture.side} x {picture.side} with {wider.numbers} "
            "numbers beside them; expected fewer than two rows of the picture have bytes, leave "
            "some out or use a larger picture"
        )
    return wider


def out_dim(picture: Picture) -> int:
    """Size of what ``read`` makes of it."""
    side = picture.side
    for stride, _ in LAYERS:
        side //= stride
    return side * side * LAYERS[-1][1] + picture.numbers


def seen_dim(spec: EnvSpec) -> int:
    """Size of an observation as a network's first layer gets it."""
    return out_dim(spec.picture) if spec.picture else spec.obs_dim


def thumbnail_dim(spec: EnvSpec) -> int:
    """Size of an observation as ``thumbnail`` shows it."""
    if not spec.picture:
        return spec.obs_dim
    return GRID * GRID * spec.picture.channels + spec.picture.numbers


def initial(picture: Picture | None, rng: torch.Generator) -> Params:
    """Convolutions for pictures, orthogonal with gain sqrt 2; none where there are none."""
    params: Params = {}
    inputs = picture.channels if picture else 0
    for i, (stride, channels) in enumerate(LAYERS if inputs else ()):
        weight = orthogonal(stride * stride * inputs, channels, rng) * math.sqrt(2)
        params |= {f"conv_{i}": weight, f"conv_bias_{i}": torch.zeros(channels)}
        inputs = channels
    return params


def is_bytes(rows: Tensor) -> bool:
    """Whether they hold pictures."""
    return rows.dtype == torch.uint8


def numbers_of(rows: UInt8[Tensor, "*b o"], picture: Picture) -> Float[Tensor, "*b n"]:
    """The numbers before the pictures."""
    bytes_of_each = rows[..., : 4 * picture.numbers]
    if not picture.numbers:
        return bytes_of_each.float()
    # A copy, for a row may begin anywhere in memory.
    return bytes_of_each.clone(memory_format=torch.contiguous_format).view(torch.float32)


def pixels_of(rows: UInt8[Tensor, "*b o"], picture: Picture) -> UInt8[Tensor, "*b h w c"]:
    """The pictures."""
    return rows[..., 4 * picture.numbers :].unflatten(-1, picture.shape)


def beside(rows: Shaped[Tensor, "*b o"], numbers: Float[Tensor, "*b d"]) -> Shaped[Tensor, "*b i"]:
    """Rows with more numbers: after a vector, before a picture."""
    if not is_bytes(rows):
        return torch.cat([rows, numbers], -1)
    return torch.cat([numbers.float().contiguous().view(torch.uint8), rows], -1)


def layered(
    rows: UInt8[Tensor, "*b o"], others: UInt8[Tensor, "*b o"], picture: Picture
) -> UInt8[Tensor, "*b i"]:
    """Both pictures as channels of one, and the numbers of both."""
    pixels = torch.cat([pixels_of(x, picture) for x in (rows, others)], -1).flatten(-3)
    numbers = torch.cat([numbers_of(x, picture) for x in (rows, others)], -1)
    return beside(pixels, numbers)


def read(params: Params, rows: Shaped[Tensor, "*b o"]) -> Float[Tensor, "*b i"]:
    """Vectors as they are; pictures by the convolutions, and the numbers beside them.

    ``rows`` are (..., O) with shared parameters, (N, ..., O) with stacked ones.
    """
    if not is_bytes(rows):
        return rows
    stacked = params["conv_0"].ndim == 3
    lead, flat = rows.shape[:-1], rows.flatten(0, -2)
    picture = layout(rows.shape[-1], params["conv_0"].shape[-2] // LAYERS[0][0] ** 2)
    x = patches(pixels_of(flat, picture), LAYERS[0][0]).float()
    every = x.mean((1, 2), keepdim=True).unflatten(-1, (-1, picture.channels))
    x = x.sub_(every.mean(-2).tile(LAYERS[0][0] ** 2)).mul_(1 / 255)
    for i, (stride, channels) in enumerate(LAYERS):
        if i:
            x = patches(x, stride)
        side, size = x.shape[1], x.shape[-1]  # (B, side, side, stride x stride x channels)
        x = x.reshape(len(params["conv_0"]), -1, size) if stacked else x.reshape(-1, size)
        x = torch.relu(linear(x, params[f"conv_{i}"], params[f"conv_bias_{i}"]))
        x = x.reshape(-1, side, side, channels)
    x = x.flatten(1)
    x = x * (LENGTH / (x.square().sum(1, keepdim=True) + 1e-2).sqrt())
    if picture.numbers:
        x = torch.cat([x, numbers_of(flat, picture)], -1)
    return x.unflatten(0, lead)


def patches(x: Shaped[Tensor, "b h h c"], stride: int) -> Shaped[Tensor, "b p p k"]:
    """What a convolution looks at; not what is left over at the right and the bottom."""
    side = x.shape[1] // stride
    whole = x[:, : side * stride, : side * stride]
    cells = whole.unflatten(2, (side, stride)).unflatten(1, (side, stride))
    return cells.transpose(2, 3).flatten(3)


def thumbnail(
    rows: Shaped[Tensor, "*b o"], spec: EnvSpec, *, grey: bool = False
) -> Float[Tensor, "*b d"]:
    """Vectors as they are; pictures as averages over a grid, 0 to 1, and the numbers beside."""
    picture = spec.picture
    if picture is None:
        return rows
    parts = []
    for some in rows.flatten(0, -2).split(1000):  # as floats they take four times the room
        x = pixels_of(some, picture).movedim(-1, 1).float() / 255
        x = x.mean(1, keepdim=True) if grey else x
        x = torch.nn.functional.adaptive_avg_pool2d(x, GRID).flatten(1)
        parts.append(torch.cat([x, numbers_of(some, picture)], -1))
    return torch.cat(parts).unflatten(0, rows.shape[:-1])


def refuse(spec: EnvSpec, method: str, instead: str) -> None:
    """For a method that cannot take pictures.

    Raises:
        UserError: the observations hold any.
    """
    if spec.picture:
        raise UserError(f"{method} cannot take pictures, which {spec.name} shows; {instead}")
