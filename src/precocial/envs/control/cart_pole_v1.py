"""Gymnasium's CartPole-v1, and the same with another pole, force, sensors or actions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from precocial.checks import at_least, positive
from precocial.envs.base import StandardConfig, State, uniform
from precocial.envs.control.cart_pole import CartPole
from precocial.seeding import randn
from precocial.types import Split, UserError


@dataclass(frozen=True)
class CartPoleV1Config(StandardConfig):
    """Options of ``CartPole-v1``."""

    gravity: float = 9.8
    """m/s^2."""
    cart_mass: float = 1.0
    """kg."""
    pole_mass: float = 0.1
    """kg."""
    half_length: float = 0.5
    """Half the pole's length, m."""
    force: float = 10.0
    """Of a push to the right, N; below 0 the two actions are swapped."""
    extra_inputs: int = 0
    """Numbers of standard normal noise after the four of the observation."""
    extra_actions: int = 0
    """Actions after the two that do nothing."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        positive(self, "gravity", "cart_mass", "pole_mass", "half_length")
        at_least(self, 0, "extra_inputs", "extra_actions")
        if not 0 < abs(self.force) < float("inf"):
            raise UserError(f"--env-force is {self.force}; expected newtons other than 0, e.g. 10")


class CartPoleV1(CartPole):
    """Balance a pole on a cart: Gymnasium's task, and transfer's standard one.

    Observation: x (m), velocity (m/s), angle (rad), angular velocity (rad/s), and perhaps noise.
    Action: push left or right, and perhaps nothing. Reward: 1 per step. Start: all four in +-0.05.
    End: |x| > 2.4 m, |angle| > 12 degrees, or the horizon (500 steps). A single task. Dynamics:
    those of ``cart-pole``; one step is Gymnasium's to 1e-6.
    """

    name = "CartPole-v1"
    num_tasks = 1
    max_x = 2.4
    cfg: CartPoleV1Config

    def __init__(self, cfg: CartPoleV1Config | None = None) -> None:
        cfg = cfg or CartPoleV1Config()
        self.obs_dim, self.action_dim = 4 + cfg.extra_inputs, 2 + cfg.extra_actions
        super(CartPole, self).__init__(cfg, cfg.horizon or 500)

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """The physical constants, ``n`` times the same."""
        names = ("gravity", "cart_mass", "pole_mass", "half_length", "force")
        tasks = {k: torch.full((n,), getattr(self.cfg, k), device=rng.device) for k in names}
        number = torch.zeros(n, dtype=torch.long, device=rng.device)
        return tasks | {"sign": torch.ones(n, device=rng.device), "id": number}

    def initial(
        self, lanes: tuple[int, int], tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """Upright and all but still."""
        return {"s": uniform(rng, (*lanes, 4), -0.05, 0.05)} | self._noise(rng)

    def transition(
        self, state: State, action: Int[Tensor, "n e"], tasks: dict[str, Tensor],
        rng: torch.Generator,
    ) -> State:  # fmt: skip
        """One Euler step."""
        if self.cfg.extra_actions:
            tasks = tasks | {"force": torch.where(action < 2, tasks["force"], 0.0)}
        return super().transition(state, action, tasks, rng) | self._noise(rng)

    def _noise(self, rng: torch.Generator) -> State:
        num = self.cfg.extra_inputs
        return {"noise": randn((*self.lanes, num), rng)} if num else {}

    def observation(self, state: State, tasks: dict[str, Tensor]) -> Float[Tensor, "n e o"]:
        """The state, and noise."""
        return torch.cat([state["s"], state["noise"]], -1) if "noise" in state else state["s"]
