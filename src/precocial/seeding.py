"""One root seed gives every generator, by name and place; nothing random has to be saved.

Each iteration derives fresh generators from ``(seed, purpose, iteration)``. A resumed run therefore
draws exactly what the uninterrupted run would have drawn, with no generator state in the
checkpoint.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

OF_EACH = frozenset({"tasks", "rollout", "evaluate", "evaluation tasks"})
"""Purposes with a seed of each iteration, chunk or split; all others have one."""


def derive(seed: int, *place: int | str) -> int:
    """A seed for a place: a purpose, and of which iteration, chunk or split where it has many.

    Distinct places are as good as independent: of the 63 bits torch's CPU generator uses the lowest
    32, so that two places draw the same with a chance of one in 4 billion. A purpose must not stand
    both alone and with a number, since ``(purpose,)`` and ``(purpose, 0)`` have one seed.

    Raises:
        ValueError: the seed is negative, or the purpose has too few or too many words beside it.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}; expected a whole number >= 0")
    if len(place) != 1 + (place[0] in OF_EACH):
        raise ValueError(
            f"the place is {place}; expected a purpose alone, or one of {sorted(OF_EACH)} and of "
            "which it is"
        )
    words = [zlib.crc32(p.encode()) if isinstance(p, str) else int(p) for p in place]
    state = np.random.SeedSequence([seed, *words]).generate_state(2, np.uint32)
    return (int(state[0]) << 31) ^ int(state[1])


def generator(seed: int, *place: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on ``device`` for this place."""
    return torch.Generator(device=device).manual_seed(derive(seed, *place))


def child_seed(rng: torch.Generator) -> int:
    """Draw a seed from ``rng``, to hand randomness to code that wants an integer."""
    return int(torch.randint(2**31 - 1, (), generator=rng, device=rng.device))


# ---- draws ----------------------------------------------------------------------------------


class Generators(torch.Generator):
    """A generator for each of S equal shares of the first axis, for ``rand`` and the like below.

    So each of S runs that are computed together draws what it would have drawn alone. What torch
    itself is given must be one of ``each``.
    """

    each: tuple[torch.Generator, ...]
    drawing: tuple[bool, ...]
    """Whose turn it is; the others draw nothing and get zeros."""

    def __new__(cls, each: Sequence[torch.Generator]) -> Generators:
        """On the device of all of them."""
        return super().__new__(cls, device=each[0].device)  # type: ignore[call-arg]

    def __init__(self, each: Sequence[torch.Generator]) -> None:
        self.each, self.drawing = tuple(each), (True,) * len(each)


def each_of(rng: torch.Generator) -> tuple[torch.Generator, ...]:
    """The generators of ``Generators``; a single one alone."""
    return rng.each if isinstance(rng, Generators) else (rng,)


@contextmanager
def only_where(rows: Tensor, rng: torch.Generator) -> Iterator[None]:
    """Let those of several draw in whose share of ``rows`` (N, ...) anything is True."""
    if not isinstance(rng, Generators):
        yield
        return
    before = rng.drawing
    rng.drawing = tuple(rows.reshape(len(rng.each), -1).any(1).tolist())
    try:
        yield
    finally:
        rng.drawing = before


def rand(shape: Sequence[int], rng: torch.Generator) -> Float[Tensor, "..."]:
    """Uniform in [0, 1)."""
    return _drawn(lambda s, g: torch.rand(s, generator=g, device=g.device), shape, rng)


def randn(shape: Sequence[int], rng: torch.Generator) -> Float[Tensor, "..."]:
    """Standard normal."""
    return _drawn(lambda s, g: torch.randn(s, generator=g, device=g.device), shape, rng)


def randint(low: int, high: int, shape: Sequence[int], rng: torch.Generator) -> Int[Tensor, "..."]:
    """Whole numbers in [low, high)."""
    return _drawn(
        lambda s, g: torch.randint(low, high, s, generator=g, device=g.device), shape, rng
    )


def exponential(shape: Sequence[int], rng: torch.Generator) -> Float[Tensor, "..."]:
    """Exponential with mean 1."""
    return _drawn(
        lambda s, g: torch.empty(s, device=g.device).exponential_(generator=g), shape, rng
    )


def _drawn(
    draw: Callable[[Sequence[int], torch.Generator], Tensor],
    shape: Sequence[int],
    rng: torch.Generator,
) -> Tensor:
    if not isinstance(rng, Generators):
        return draw(shape, rng)
    share = shape[0] // len(rng.each), *shape[1:]
    parts = [draw(share, g) if on else None for g, on in zip(rng.each, rng.drawing, strict=True)]
    some = next(part for part in parts if part is not None)
    return torch.cat([torch.zeros_like(some) if part is None else part for part in parts])
