"""One root seed gives every generator, by name and place; nothing random has to be saved.

Each iteration derives fresh generators from ``(seed, purpose, iteration)``. A resumed run therefore
draws exactly what the uninterrupted run would have drawn, with no generator state in the
checkpoint.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def derive(seed: int, *place: int | str) -> int:
    """A 63-bit seed for a place such as ``("tasks", 17)``; places of one length are independent.

    Raises:
        ValueError: the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}; expected a whole number >= 0")
    words = [zlib.crc32(p.encode()) if isinstance(p, str) else int(p) for p in place]
    state = np.random.SeedSequence([seed, *words]).generate_state(2, np.uint32)
    return (int(state[0]) << 31) ^ int(state[1])


def generator(seed: int, *place: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on ``device`` for this place."""
    return torch.Generator(device=device).manual_seed(derive(seed, *place))


def child_seed(rng: torch.Generator) -> int:
    """Draw a seed from ``rng``, to hand randomness to code that wants an integer."""
    return int(torch.randint(2**31 - 1, (), generator=rng, device=rng.device))
