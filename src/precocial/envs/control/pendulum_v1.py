"""Gymnasium's Pendulum-v1, and the same with another rod."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from precocial.checks import positive
from precocial.envs.base import StandardConfig
from precocial.envs.control.pendulum import PendulumMass
from precocial.types import Split


@dataclass(frozen=True)
class PendulumV1Config(StandardConfig):
    """Options of ``Pendulum-v1``."""

    mass: float = 1.0
    """kg."""
    length: float = 1.0
    """m."""
    gravity: float = 10.0
    """m/s^2."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        positive(self, "mass", "length", "gravity")


class PendulumV1(PendulumMass):
    """Swing up and hold a pendulum: Gymnasium's task.

    As ``pendulum-mass``, with one mass, length and gravity. A single task; one step is Gymnasium's
    to 1e-6.
    """

    name = "Pendulum-v1"
    num_tasks = 1
    cfg: PendulumV1Config

    def __init__(self, cfg: PendulumV1Config | None = None) -> None:
        cfg = cfg or PendulumV1Config()
        self.length, self.gravity = cfg.length, cfg.gravity
        super(PendulumMass, self).__init__(cfg, cfg.horizon or 200)

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """The mass (n,), kg."""
        number = torch.zeros(n, dtype=torch.long, device=rng.device)
        return {"mass": torch.full((n,), self.cfg.mass, device=rng.device), "id": number}
