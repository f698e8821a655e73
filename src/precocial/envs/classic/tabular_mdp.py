"""Random tabular MDPs (Duan et al. 2016, Sec. 3.2; Osband et al. 2013)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from precocial.envs.base import EnvConfig, State, TensorTaskEnv, split_uniform
from precocial.ops.tabular import psrl, value_iteration
from precocial.seeding import rand, randn
from precocial.types import Split, Tasks, UserError


@dataclass(frozen=True)
class TabularMDPConfig(EnvConfig):
    """Options of ``tabular-mdp``."""

    states: int = 10
    """Number of states."""
    actions: int = 5
    """Number of actions."""
    horizon: int = 10
    """Time limit of an episode, in steps (H)."""
    episodes: int = 10
    """Episodes of a trial (n)."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        if self.episodes < 1:
            raise UserError(f"--env-episodes is {self.episodes}; expected 1 or more, try 10")
        if self.states < 1 or self.actions < 2:
            raise UserError(
                f"--env-states {self.states} and --env-actions {self.actions}; expected at least "
                "1 and 2"
            )


class TabularBelief:
    """Exact posterior of a random MDP: Dirichlet transitions, normal mean rewards.

    Its leaves are ``transitions`` (N, E, S, A, S), how often each was seen, and ``reward``
    (N, E, S, A), sums.

    Args:
        states: Number of states (S).
        actions: Number of actions (A).
    """

    def __init__(self, states: int, actions: int) -> None:
        self.states, self.actions = states, actions
        self.dim = 3 * actions + 3

    def prior(self, obs: Float[Tensor, "n e s"]) -> dict[str, Tensor]:
        """Nothing seen."""
        shape = (*obs.shape[:2], self.states, self.actions)
        return {
            "transitions": torch.zeros(*shape, self.states, device=obs.device),
            "reward": torch.zeros(shape, device=obs.device),
        }

    def update(
        self, belief: dict[str, Tensor], obs: Float[Tensor, "n e s"], action: Int[Tensor, "n e"],
        reward: Float[Tensor, "n e"], next_obs: Float[Tensor, "n e s"],
    ) -> dict[str, Tensor]:  # fmt: skip
        """One more transition and reward of (s, a)."""
        chosen = torch.nn.functional.one_hot(action, self.actions)
        here = obs.unsqueeze(-1) * chosen.unsqueeze(-2)  # (N, E, S, A)
        return {
            "transitions": belief["transitions"] + here.unsqueeze(-1) * next_obs[:, :, None, None],
            "reward": belief["reward"] + here * reward[:, :, None, None],
        }

    def features(
        self, belief: dict[str, Tensor], obs: Float[Tensor, "n e s"]
    ) -> Float[Tensor, "n e d"]:
        """What is believed of the actions in this state, and three averages over all states.

        Of each action the mean reward, its variance, and the best mean reward to be expected of the
        state after; averaged are mean, variance and the best mean of a state. All S A (S + 2)
        numbers at once are too many for a small network to find those of this state among.
        """
        seen = belief["transitions"].sum(-1)
        variance = 1 / (1 + seen)
        mean = (1 + belief["reward"]) * variance
        best = mean.amax(-1)  # (N, E, S)
        chance = (1 + belief["transitions"]) / (self.states + seen).unsqueeze(-1)
        after = (chance * best[..., None, None, :]).sum(-1)
        here = [(table * obs.unsqueeze(-1)).sum(2) for table in (mean, variance, after)]
        everywhere = [mean.mean((2, 3)), variance.mean((2, 3)), best.mean(2)]
        return torch.cat([*here, torch.stack(everywhere, -1)], -1)


class TabularMDP(TensorTaskEnv):
    """Learn a random MDP.

    Observation: the state, one-hot. Action: one of 5. Reward: N(mean of (s, a), 1). Start: state 0.
    End: the horizon (10 steps). Task distribution: transitions Dirichlet(1) per (s, a), mean
    rewards N(1, 1); ``shifted`` means N(0, 1). No task is in two splits.
    """

    name = "tabular-mdp"
    trial_episodes: int
    action_kind = "discrete"

    def __init__(self, cfg: TabularMDPConfig | None = None) -> None:
        cfg = cfg or TabularMDPConfig()
        self.obs_dim, self.action_dim = cfg.states, cfg.actions
        self.trial_episodes = cfg.episodes
        super().__init__(cfg, cfg.horizon)

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Mean rewards (n, S, A) and cumulated transition probabilities (n, S, A, S)."""
        shape = (n, self.obs_dim, self.action_dim)
        mean = torch.randn(shape, generator=rng, device=rng.device)
        # One of the means is drawn through its quantile, which keeps the splits apart.
        mean[:, 0, 0] = torch.special.ndtri(split_uniform(rng, (n,), 0.0, 1.0, split))
        # Dirichlet(1, ..., 1) is normalised exponentials.
        weight = torch.empty((*shape, self.obs_dim), device=rng.device).exponential_(generator=rng)
        cumulated = (weight / weight.sum(-1, keepdim=True)).cumsum(-1)
        return {"mean_reward": mean + (split != "shifted"), "cumulated": cumulated}

    def initial(
        self, lanes: tuple[int, int], tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """State 0."""
        return {"s": torch.zeros(lanes, dtype=torch.long, device=rng.device)}

    def transition(
        self, state: State, action: Int[Tensor, "n e"], tasks: dict[str, Tensor],
        rng: torch.Generator,
    ) -> State:  # fmt: skip
        """A draw from the row of (s, a)."""
        row = _pick(tasks["cumulated"], state["s"], action)  # (N, E, S)
        draw = rand((*action.shape, 1), rng)
        return {"s": (draw > row[..., :-1]).sum(-1)}

    def observation(self, state: State, tasks: dict[str, Tensor]) -> Float[Tensor, "n e s"]:
        """One-hot."""
        return torch.nn.functional.one_hot(state["s"], self.obs_dim).float()

    def reward(
        self, state: State, action: Int[Tensor, "n e"], next_state: State,
        tasks: dict[str, Tensor], rng: torch.Generator,
    ) -> Float[Tensor, "n e"]:  # fmt: skip
        """The mean of (s, a) plus unit noise."""
        mean = _pick(tasks["mean_reward"], state["s"], action)
        return mean + randn(mean.shape, rng)

    def optimum(self, tasks: Tasks) -> Float[Tensor, " n"]:
        """Undiscounted total over the trial's episodes for whom the MDP is known."""
        chance, reward = _tables(tasks)
        return value_iteration(chance, reward, self.spec.horizon)[0][:, 0] * self.trial_episodes

    def references(
        self, tasks: Tasks, episodes: int, rng: torch.Generator
    ) -> dict[str, Float[Tensor, "n k"]]:
        """Random and value iteration (undiscounted) in expectation, PSRL simulated.

        Posterior sampling comes twice: from the true prior, and from that of the published results.
        """
        chance, reward = (table.to(rng.device) for table in _tables(tasks))
        horizon = self.spec.horizon
        blind = chance.mean(2, keepdim=True), reward.mean(2, keepdim=True)  # one average action
        random = value_iteration(*blind, horizon)[0][:, :1]
        best = value_iteration(chance, reward, horizon)[0][:, :1]
        return {
            "random": random.expand(-1, episodes),
            "PSRL": psrl(chance, reward, horizon, episodes, rng),
            "PSRL, prior N(0, 1)": psrl(chance, reward, horizon, episodes, rng, prior_mean=0.0),
            "value iteration": best.expand(-1, episodes),
        }

    def belief(self) -> TabularBelief:
        """Dirichlet and normal posteriors, of the prior that training tasks come from."""
        return TabularBelief(self.obs_dim, self.action_dim)


def _tables(tasks: Tasks) -> tuple[Tensor, Tensor]:
    """Transition probabilities (N, S, A, S) and mean rewards (N, S, A)."""
    cumulated = tasks.params["cumulated"]
    chance = torch.diff(cumulated, dim=-1, prepend=torch.zeros_like(cumulated[..., :1]))
    return chance, tasks.params["mean_reward"]


def _pick(table: Tensor, state: Tensor, action: Tensor) -> Tensor:
    """Rows of a table (N, 1, S, A, ...) at states and actions (N, E)."""
    tasks = torch.arange(state.shape[0], device=state.device).unsqueeze(-1)
    return table[tasks, 0, state, action]
