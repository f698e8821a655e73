"""A double integrator whose gain, sign included, is hidden and may flip mid-episode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from precocial.envs.base import EnvConfig, State, TensorTaskEnv, split_log_uniform, uniform
from precocial.envs.switching import SwitchAt, check_switch_at, draw_switch_steps
from precocial.types import Split


@dataclass(frozen=True)
class HiddenGainConfig(EnvConfig):
    """Options of ``hidden-gain``."""

    horizon: int = 100
    """Time limit of an episode, in steps of 0.1 s (H)."""
    switch_at: SwitchAt = "never"
    """Step of every episode at which the sign of the gain flips to the task's own; random: in the
    middle half of the episode; never: the task's gain from the start."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        check_switch_at(self.switch_at, self.horizon)


class HiddenGain(TensorTaskEnv):
    """Follow a target with a cart whose motor has a hidden strength and direction.

    Observation: position (m), velocity (m/s), then the target (m), a command. Action: u in [-1, 1].
    Dynamics: acceleration 3 g u m/s^2, steps of 0.1 s (semi-implicit Euler); position and velocity
    stay within +-4.
    Reward: minus the distance to the target after the step, in metres.
    Start: position in +-1, at rest. The target jumps every 25 steps, uniform in +-1.
    End: the horizon (100 steps), never earlier.
    Task distribution: gain g, |g| log-uniform in [0.5, 2], either sign; ``shifted`` |g| in [2, 4].
    Train, valid and test gains differ by construction. With ``switch_at`` an episode starts with
    -g and the sign flips to g at that step, position and velocity unchanged.
    """

    name = "hidden-gain"
    obs_dim = 3
    command_dim = 1
    action_dim = 1
    action_low = (-1.0,)
    action_high = (1.0,)
    strength, time_step, bound, hold = 3.0, 0.1, 4.0, 25
    cfg: HiddenGainConfig

    def __init__(self, cfg: HiddenGainConfig | None = None) -> None:
        super().__init__(cfg or HiddenGainConfig(), (cfg or HiddenGainConfig()).horizon)

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Gains (n,)."""
        sign = torch.randint(2, (n,), generator=rng, device=rng.device) * 2 - 1
        return {"gain": sign * split_log_uniform(rng, (n,), 0.5, 2.0, split)}

    def initial(
        self, lanes: tuple[int, int], tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """At rest somewhere near, with a target."""
        return {
            "position": uniform(rng, lanes, -1, 1),
            "velocity": torch.zeros(lanes, device=rng.device),
            "target": uniform(rng, lanes, -1, 1),
            "clock": torch.zeros(lanes, dtype=torch.long, device=rng.device),
            "switch": draw_switch_steps(self.cfg.switch_at, self.cfg.horizon, lanes, rng),
        }

    def transition(
        self, state: State, action: Float[Tensor, "n e 1"], tasks: dict[str, Tensor],
        rng: torch.Generator,
    ) -> State:  # fmt: skip
        """Accelerate for a step; now and then the target jumps, after the step was judged."""
        gain = torch.where(self.switched(state), tasks["gain"], -tasks["gain"])
        velocity = state["velocity"] + self.time_step * self.strength * gain * action.squeeze(-1)
        velocity = velocity.clamp(-self.bound, self.bound)
        position = (state["position"] + self.time_step * velocity).clamp(-self.bound, self.bound)
        clock = state["clock"] + 1
        target = torch.where(
            clock % self.hold == 0, uniform(rng, self.lanes, -1, 1), state["target"]
        )
        return state | {
            "position": position, "velocity": velocity, "clock": clock, "target": target,
        }  # fmt: skip

    def observation(self, state: State, tasks: dict[str, Tensor]) -> Float[Tensor, "n e 3"]:
        """Position, velocity, target."""
        return torch.stack([state["position"], state["velocity"], state["target"]], -1)

    @staticmethod
    def reward_fn(
        obs: Float[Tensor, "*b 3"], action: Float[Tensor, "*b 1"], next_obs: Float[Tensor, "*b 3"]
    ) -> Float[Tensor, "*b"]:
        """Minus the distance to the target that was in sight, metres."""
        return -(next_obs[..., 0] - obs[..., 2]).abs()

    def reward(
        self, state: State, action: Float[Tensor, "n e 1"], next_state: State,
        tasks: dict[str, Tensor], rng: torch.Generator,
    ) -> Float[Tensor, "n e"]:  # fmt: skip
        """See ``reward_fn``."""
        before, after = (self.observation(s, tasks) for s in (state, next_state))
        return self.reward_fn(before, action, after)

    @staticmethod
    def switched(state: State) -> Bool[Tensor, "*b"]:
        """Whether the task's own gain is in force."""
        return state["clock"] >= state["switch"]

    def info(self, state: State) -> dict[str, Tensor]:
        """Whether the sign flipped before this step."""
        if self.cfg.switch_at == "never":
            return {}
        return {"switched": self.switched(state).float()}

    def draw(self, state: State, tasks: dict[str, Tensor], size: int) -> UInt8[np.ndarray, "h w 3"]:
        """The track, the target above it, the cart and its velocity; red once the sign flipped."""
        from precocial.envs.picture import Picture

        position, velocity = float(state["position"]), float(state["velocity"])
        flipped = self.cfg.switch_at != "never" and bool(self.switched(state))
        picture = Picture(size, half_width=2.0)
        picture.line([(-2, -0.2), (2, -0.2)], "grey", 0.02)
        picture.disc((float(state["target"]), 0.35), 0.12, "green")
        picture.line([(float(state["target"]), 0.3), (float(state["target"]), -0.2)], "green", 0.02)
        picture.disc((position, 0.0), 0.2, "orange" if flipped else "blue")
        picture.line([(position, 0), (position + 0.5 * velocity, 0)], "ink", 0.04)
        return picture.pixels
