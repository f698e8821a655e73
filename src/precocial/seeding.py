"""One root seed gives every generator, by name and place; nothing random has to be saved.

Each iteration derives fresh generators from ``(seed, purpose, iteration)``. A resumed run therefore
draws exactly what the uninterrupted run would have drawn, with no generator state in the
checkpoint.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch

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
