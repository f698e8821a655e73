"""What an agent sees as a picture, drawn for all lanes at once."""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from precocial.types import Picture, UserError

SIDE = 64
"""Pixels."""
PICTURE = Picture(SIDE, 3)
RGB = {"ground": (231, 233, 230), "agent": (31, 111, 178), "goal": (26, 147, 111)}

View = Literal["vector", "picture"]


def check_view(view: str, known: tuple[str, ...]) -> None:
    """Refuse other words.

    Raises:
        UserError: it is none of these.
    """
    if view not in known:
        words = f"{', '.join(known[:-1])} or {known[-1]}"
        raise UserError(f"--env-view is {view!r}; expected {words}")


def colour(name: str, device: torch.device) -> Float[Tensor, " 3"]:
    """0 to 255."""
    return torch.tensor(RGB[name], dtype=torch.float32, device=device)


@cache
def boards(size: int, device: torch.device) -> UInt8[Tensor, "c p"]:
    """Of each cell of a square board, rows from the top, a row of bytes: agent there, goal last."""
    line = torch.arange(SIDE, device=device) * size // SIDE
    cell = line[:, None] * size + line  # (64, 64)
    number = torch.arange(size * size, device=device).view(-1, 1, 1, 1)
    at = cell.unsqueeze(-1)
    board = torch.where(at == size * size - 1, colour("goal", device), colour("ground", device))
    board = torch.where(at == number, colour("agent", device), board)
    return board.byte().flatten(1)


def on_board(cell: Int[Tensor, "n e"], size: int) -> UInt8[Tensor, "n e p"]:
    """The board as it looks with the agent on these cells."""
    return boards(size, cell.device)[cell]


def on_plane(position: Float[Tensor, "n e 2"], half_width: float) -> UInt8[Tensor, "n e p"]:
    """A plane, y up, with the agent as a disc of three pixels, which stays within the picture."""
    scale = SIDE / (2 * half_width)
    centre = (position * scale).clamp(2 - SIDE / 2, SIDE / 2 - 2)  # from the middle, pixels
    line = torch.arange(SIDE, device=position.device) - (SIDE - 1) / 2
    across, down = line - centre[..., :1], line + centre[..., 1:]
    distance = (across.square().unsqueeze(-2) + down.square().unsqueeze(-1)).sqrt()
    share = (3.5 - distance).clamp(0, 1).unsqueeze(-1)  # of a pixel that the disc covers
    ground, agent = (colour(name, position.device) for name in ("ground", "agent"))
    return torch.lerp(ground, agent, share).round().byte().flatten(-3)
