"""Cart-pole whose gravity, masses, length, force and its sign are hidden."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from precocial.envs.base import (
    EnvConfig,
    State,
    TensorTaskEnv,
    log_uniform,
    split_log_uniform,
    uniform,
)
from precocial.types import Split, Tasks

RANGES = {
    "gravity": (9.8 * 0.8, 9.8 * 1.25),
    "cart_mass": (0.5, 2.0),
    "pole_mass": (0.1 * 0.5, 0.1 * 2.0),
    "half_length": (0.5 * 0.6, 0.5 * 1.6),
    "force": (10.0 * 0.7, 10.0 * 1.4),
}
"""m/s^2, kg, kg, m, N: what each task draws log-uniformly."""


@dataclass(frozen=True)
class CartPoleConfig(EnvConfig):
    """Options of ``cart-pole``."""

    horizon: int = 200
    """Time limit of an episode, in steps of 0.02 s (H)."""


class CartPole(TensorTaskEnv):
    """Balance a pole whose physics, the direction of the push included, must be discovered.

    Observation: x (m), velocity (m/s), angle (rad), angular velocity (rad/s). Action: push left or
    right; a hidden sign may swap the two. Reward: 1 per step. Start: x in +-0.25, angle in +-0.05,
    velocities in +-0.4. End: |x| > 0.5 m, |angle| > 12 degrees, or the horizon (200 steps).
    Task distribution, log-uniform: gravity 9.8 m/s^2 x [0.8, 1.25], cart [0.5, 2] kg, pole mass
    0.1 kg x [0.5, 2], half length 0.5 m x [0.6, 1.6], force 10 N x [0.7, 1.4], sign +-1.
    ``shifted`` pole lengths lie beyond the range by up to half of it.

    The short track and the lively start keep a policy that cannot tell the sign from balancing.
    Dynamics: Barto, Sutton, Anderson 1983 as in Gymnasium's CartPole (Euler); total mass and pole
    moment are computed from the task's masses at every step, nothing is cached.
    """

    name = "cart-pole"
    obs_dim = 4
    action_kind = "discrete"
    action_dim = 2
    time_step = 0.02
    max_x = 0.5
    max_angle = 12 * np.pi / 180

    def __init__(self, cfg: CartPoleConfig | None = None) -> None:
        super().__init__(cfg or CartPoleConfig(), (cfg or CartPoleConfig()).horizon)

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Physical constants (n,) each, and sign (n,) +-1."""
        tasks = {k: log_uniform(rng, (n,), *r) for k, r in RANGES.items() if k != "half_length"}
        tasks["half_length"] = split_log_uniform(rng, (n,), *RANGES["half_length"], split)
        sign = torch.randint(2, (n,), generator=rng, device=rng.device) * 2 - 1
        return tasks | {"sign": sign.float()}

    def task_features(self, tasks: Tasks) -> Float[Tensor, "n 6"]:
        """Logarithms relative to the middle of each range, and the sign."""
        logs = [(tasks.params[k] / (lo * hi) ** 0.5).log() for k, (lo, hi) in RANGES.items()]
        return torch.stack([*logs, tasks.params["sign"]], -1)

    def initial(
        self, lanes: tuple[int, int], tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """Near upright, moving."""
        place = uniform(rng, (*lanes, 4), -1, 1)
        return {"s": place * torch.tensor([0.25, 0.4, 0.05, 0.4], device=rng.device)}

    def transition(
        self, state: State, action: Int[Tensor, "n e"], tasks: dict[str, Tensor],
        rng: torch.Generator,
    ) -> State:  # fmt: skip
        """One Euler step."""
        _, v, angle, spin = state["s"].unbind(-1)
        sin, cos = torch.sin(angle), torch.cos(angle)
        push = (2 * action - 1) * (tasks["force"] * tasks["sign"])
        total = tasks["cart_mass"] + tasks["pole_mass"]
        moment = tasks["pole_mass"] * tasks["half_length"]
        thrust = (push + moment * spin.square() * sin) / total
        drag = tasks["half_length"] * (4 / 3 - tasks["pole_mass"] / total * cos.square())
        spin_rate = (tasks["gravity"] * sin - cos * thrust) / drag
        rate = thrust - moment / total * spin_rate * cos
        change = torch.stack([v, rate, spin, spin_rate], -1)
        return {"s": torch.add(state["s"], change, alpha=self.time_step)}

    def observation(self, state: State, tasks: dict[str, Tensor]) -> Float[Tensor, "n e 4"]:
        """The state."""
        return state["s"]

    def reward(
        self, state: State, action: Tensor, next_state: State, tasks: dict[str, Tensor],
        rng: torch.Generator,
    ) -> Float[Tensor, "n e"]:  # fmt: skip
        """1."""
        return torch.ones(self.lanes, device=action.device)

    def terminal(self, state: State, tasks: dict[str, Tensor]) -> Bool[Tensor, "n e"]:
        """Off the track or fallen."""
        s = state["s"]
        return (s[..., 0].abs() > self.max_x) | (s[..., 2].abs() > self.max_angle)

    def draw(self, state: State, tasks: dict[str, Tensor], size: int) -> UInt8[np.ndarray, "h w 3"]:
        """Cart, pole and the ends of the track."""
        from precocial.envs.picture import Picture

        x, _, angle, _ = state["s"].tolist()
        length = 2 * float(tasks["half_length"])
        picture = Picture(size, half_width=max(1.2, 1.1 * self.max_x))
        picture.line([(-self.max_x, -0.5), (self.max_x, -0.5)], "grey", 0.01)
        for end in (-self.max_x, self.max_x):
            picture.line([(end, -0.55), (end, -0.4)], "red", 0.015)
        corners = ((-0.12, -0.06), (0.12, -0.06), (0.12, 0.06), (-0.12, 0.06))
        cart = [(x + dx, -0.4 + dy) for dx, dy in corners]
        picture.polygon(cart, "blue")
        tip = (x + length * np.sin(angle), -0.4 + length * np.cos(angle))
        picture.line([(x, -0.4), tip], "orange", 0.04)
        return picture.pixels
