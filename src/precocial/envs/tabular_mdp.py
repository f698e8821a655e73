"""Random tabular MDPs (Duan et al. 2016, Sec. 3.2; Osband et al. 2013)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from precocial.envs.base import EnvConfig, State, TensorTaskEnv, split_uniform
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
        if self.states < 1 or self.actions < 2:
            raise UserError(
                f"--env-states {self.states} and --env-actions {self.actions}; expected at least "
                "1 and 2"
            )


class TabularMDP(TensorTaskEnv):
    """Learn a random MDP.

    Observation: the state, one-hot. Action: one of 5. Reward: N(mean of (s, a), 1). Start: state 0.
    End: the horizon (10 steps). Task distribution: transitions Dirichlet(1) per (s, a), mean
    rewards N(1, 1); ``shifted`` means N(0, 1). No task is in two splits.
    """

    name = "tabular-mdp"
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
        draw = torch.rand((*action.shape, 1), generator=rng, device=action.device)
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
        return mean + torch.randn(mean.shape, generator=rng, device=mean.device)

    def optimum(self, tasks: Tasks) -> Float[Tensor, " n"]:
        """Undiscounted total over the trial's episodes for whom the MDP is known."""
        cumulated = tasks.params["cumulated"]
        chance = torch.diff(cumulated, dim=-1, prepend=torch.zeros_like(cumulated[..., :1]))
        value = torch.zeros(tasks.num, self.obs_dim)
        for _ in range(self.spec.horizon):  # (N, S, A, S) x (N, S) -> (N, S, A)
            ahead = torch.einsum("nsaz,nz->nsa", chance, value)
            value = (tasks.params["mean_reward"] + ahead).amax(-1)
        return value[:, 0] * self.trial_episodes


def _pick(table: Tensor, state: Tensor, action: Tensor) -> Tensor:
    """Rows of a table (N, 1, S, A, ...) at states and actions (N, E)."""
    tasks = torch.arange(state.shape[0], device=state.device).unsqueeze(-1)
    return table[tasks, 0, state, action]
