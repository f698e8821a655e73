"""Bernoulli bandits (Duan et al. 2016, Sec. 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from precocial.envs.base import EnvConfig, State, TensorTaskEnv, split_uniform, uniform
from precocial.ops.bandits import bayes_optimum
from precocial.types import Split, Tasks, UserError


@dataclass(frozen=True)
class BanditConfig(EnvConfig):
    """Options of ``bandit``."""

    arms: int = 5
    """Number of arms (k)."""
    pulls: int = 10
    """Pulls per trial (n); each pull is an episode of one step."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        if self.arms < 2:
            raise UserError(f"--env-arms is {self.arms}; expected 2 or more")
        if self.pulls < 1:
            raise UserError(f"--env-pulls is {self.pulls}; expected 1 or more")


class Bandit(TensorTaskEnv):
    """Pull arms whose success rates are hidden.

    Observation: a constant 0. Action: an arm. Reward: 1 with the arm's probability, else 0.
    End: each pull ends the episode; a trial is ``pulls`` episodes. Task distribution: rates
    ~ U[0, 1] each; ``shifted`` rates U[0, 0.5].
    """

    name = "bandit"
    obs_dim = 1
    action_kind = "discrete"

    def __init__(self, cfg: BanditConfig | None = None) -> None:
        self.action_dim = (cfg or BanditConfig()).arms
        self.trial_episodes = (cfg or BanditConfig()).pulls
        super().__init__(cfg or BanditConfig(), horizon=1)

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Success rates (n, k)."""
        rate = split_uniform(rng, (n, self.action_dim), 0.0, 1.0, split)
        return {"rate": uniform(rng, rate.shape, 0.0, 0.5) if split == "shifted" else rate}

    def initial(
        self, lanes: tuple[int, int], tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """Nothing to know."""
        return {"nothing": torch.zeros(*lanes, 1, device=rng.device)}

    def transition(
        self, state: State, action: Tensor, tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """Nothing changes."""
        return state

    def observation(self, state: State, tasks: dict[str, Tensor]) -> Float[Tensor, "n e 1"]:
        """A constant."""
        return state["nothing"]

    def reward(
        self, state: State, action: Int[Tensor, "n e"], next_state: State,
        tasks: dict[str, Tensor], rng: torch.Generator,
    ) -> Float[Tensor, "n e"]:  # fmt: skip
        """A coin of the arm's rate."""
        rate = tasks["rate"].squeeze(1).gather(1, action)
        draw = torch.rand(action.shape, generator=rng, device=action.device)
        return (draw < rate).float()

    def optimum(self, tasks: Tasks) -> Float[Tensor, " n"] | None:
        """Expected total over the trial of the Bayes-optimal learner, where computable.

        The same number for every task: it averages over the prior.
        """
        value = bayes_optimum(self.trial_episodes, self.action_dim)
        return None if value is None else torch.full((tasks.num,), value)

    def draw(self, state: State, tasks: dict[str, Tensor], size: int) -> UInt8[np.ndarray, "h w 3"]:
        """One bar per arm, as high as its rate."""
        from precocial.envs.picture import Picture

        picture = Picture(size, half_width=1.1)
        rates = tasks["rate"].tolist()
        width = 2 / len(rates)
        for i, rate in enumerate(rates):
            left, top = -1 + i * width, -1 + 2 * rate
            bar = [(left + 0.1 * width, -1), (left + 0.9 * width, -1),
                   (left + 0.9 * width, top), (left + 0.1 * width, top)]  # fmt: skip
            picture.polygon(bar, "blue")
        return picture.pixels
