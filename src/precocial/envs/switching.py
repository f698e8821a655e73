"""Worlds that change during an episode: when, and how that is said."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from precocial.seeding import randint
from precocial.types import UserError

SwitchAt = int | str
"""A step of every episode; ``random``: one in its middle half; ``never``."""


def check_switch_at(switch_at: SwitchAt, horizon: int) -> None:
    """Refuse what is no step within an episode.

    Raises:
        UserError: neither a word nor a step from 1 to horizon - 1.
    """
    if switch_at in ("never", "random"):
        return
    if isinstance(switch_at, str) or not 1 <= switch_at < horizon:
        raise UserError(
            f"--env-switch-at is {switch_at}; expected never, random, or a step from 1 to "
            f"{horizon - 1}, before the episode's end"
        )


def draw_switch_steps(
    switch_at: SwitchAt, horizon: int, shape: tuple[int, ...], rng: torch.Generator
) -> Int[Tensor, "..."]:
    """The step of an episode from which the change is in force: 0 where there is no change."""
    if switch_at == "random":
        low = max(1, horizon // 4)
        high = max(low + 1, 3 * horizon // 4)
        return randint(low, high, shape, rng)
    step = 0 if switch_at == "never" else int(switch_at)
    return torch.full(shape, step, dtype=torch.long, device=rng.device)
