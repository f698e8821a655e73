"""Bernoulli bandits (Duan et al. 2016, Sec. 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from precocial.envs.base import EnvConfig, State, TensorTaskEnv, split_uniform, uniform
from precocial.ops.bandit_policies import classical, play
from precocial.ops.bandits import bayes_optimum
from precocial.seeding import rand
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


class BanditBelief:
    """Independent Beta posteriors of the arms' rates, from uniform priors.

    Its leaves ``won`` and ``lost`` (N, E, k) count successes and failures.

    Args:
        arms: Number of arms (k).
        pulls: Pulls of a trial (n).
    """

    def __init__(self, arms: int, pulls: int) -> None:
        self.arms, self.pulls = arms, pulls
        self.dim = 2 * arms + 1

    def prior(self, obs: Float[Tensor, "n e 1"]) -> dict[str, Tensor]:
        """Nothing seen."""
        nothing = torch.zeros(*obs.shape[:2], self.arms, device=obs.device)
        return {"won": nothing, "lost": nothing}

    def update(
        self, belief: dict[str, Tensor], obs: Float[Tensor, "n e 1"], action: Int[Tensor, "n e"],
        reward: Float[Tensor, "n e"], next_obs: Float[Tensor, "n e 1"],
    ) -> dict[str, Tensor]:  # fmt: skip
        """One more success or failure of the arm pulled."""
        pulled = torch.nn.functional.one_hot(action, self.arms)
        reward = reward.unsqueeze(-1)
        return {
            "won": belief["won"] + pulled * reward,
            "lost": belief["lost"] + pulled * (1 - reward),
        }

    def features(
        self, belief: dict[str, Tensor], obs: Float[Tensor, "n e o"]
    ) -> Float[Tensor, "n e d"]:
        """Means, 1 / (pulls + 2), and the share of the trial's pulls that is left."""
        seen = belief["won"] + belief["lost"]
        left = (1 - seen.sum(-1, keepdim=True) / self.pulls).clamp(min=0)
        return torch.cat([(belief["won"] + 1) / (seen + 2), 1 / (seen + 2), left], -1)


class Bandit(TensorTaskEnv):
    """Pull arms whose success rates are hidden.

    Observation: a constant 0. Action: an arm. Reward: 1 with the arm's probability, else 0.
    End: each pull ends the episode; a trial is ``pulls`` episodes. Task distribution: rates
    ~ U[0, 1] each; ``shifted`` rates U[0, 0.5].
    """

    name = "bandit"
    trial_episodes: int
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
        draw = rand(action.shape, rng)
        return (draw < rate).float()

    def optimum(self, tasks: Tasks) -> Float[Tensor, " n"] | None:
        """Expected total over the trial of the Bayes-optimal learner, where computable.

        The same number for every task: it averages over the prior.
        """
        value = bayes_optimum(self.trial_episodes, self.action_dim)
        return None if value is None else torch.full((tasks.num,), value)

    def references(
        self, tasks: Tasks, episodes: int, rng: torch.Generator
    ) -> dict[str, Float[Tensor, "n k"]]:
        """Rewards of pulls 1 to k of a trial of k pulls.

        Greedy, UCB1 (c = 0.2, not tuned to the cell), Thompson sampling and, up to 200 pulls, the
        finite-horizon Gittins index are simulated; random and best arm are expectations.
        """
        rate = tasks.params["rate"].to(rng.device)
        policies = classical(episodes, rng)
        return {
            "random": rate.mean(-1, keepdim=True).expand(-1, episodes),
            **{name: play(rate, episodes, score, rng) for name, score in policies.items()},
            "best arm": rate.amax(-1, keepdim=True).expand(-1, episodes),
        }

    def belief(self) -> BanditBelief:
        """Beta posteriors, of the uniform prior."""
        return BanditBelief(self.action_dim, self.trial_episodes)

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
