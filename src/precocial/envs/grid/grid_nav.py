"""GridNavi: a goal on a small grid, worth staying at (Zintgraf et al. 2020, Sec. 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from precocial.envs.base import EnvConfig, State, TensorTaskEnv
from precocial.envs.grid.grid_world import (
    COMPASS,
    GoalBelief,
    Moves,
    balanced,
    board,
    distances,
    moved,
    one_hot,
    random_walk,
    search_steps,
    standing,
    successors,
)
from precocial.types import Belief, Split, Tasks, UserError

SIZE = 5
START = 0
GOALS = tuple(c for c in range(SIZE**2) if c % SIZE > 1 or c // SIZE > 1)
"""All cells but the start and its three neighbours."""
MOVES: Moves = ((0, 0), *COMPASS)
"""Stay, up, right, down, left."""

SIMULATED_TRIALS = 2000
"""Trials that a simulated reference is averaged over, all tasks together."""


@dataclass(frozen=True)
class GridNavConfig(EnvConfig):
    """Options of ``grid-nav``."""

    episodes: int = 4
    """Episodes of a trial."""
    horizon: int = 15
    """Length of an episode, in steps (H)."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        if self.episodes < 1:
            raise UserError(f"--env-episodes is {self.episodes}; expected 1 or more, try 4")


class GridNav(TensorTaskEnv):
    """Find a hidden goal on a 5 x 5 grid, stay there, and go straight to it from then on.

    Observation: the agent's cell, one-hot (25). Action: stay, up, right, down, left; up raises y,
    a move into the wall stays. Reward: 1 for a step that ends on the goal, else -0.1. Start: (0, 0)
    in every episode. End: the horizon (15 steps), never early. A trial is 4 episodes.
    Task distribution: the goal is one of the 21 cells other than (0, 0), (0, 1), (1, 0), (1, 1);
    of several tasks, every 21 are all of them in random order. 21 tasks are all there is: train,
    test and ``shifted`` tasks are the same.

    Deviation: the paper's observation is the two coordinates (x, y).
    """

    name = "grid-nav"
    obs_dim = SIZE**2
    action_kind = "discrete"
    action_dim = 5
    num_tasks = len(GOALS)
    cfg: GridNavConfig

    def __init__(self, cfg: GridNavConfig | None = None) -> None:
        self.trial_episodes = (cfg or GridNavConfig()).episodes
        super().__init__(cfg or GridNavConfig(), (cfg or GridNavConfig()).horizon)

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Cells of the goals (n,), as balanced as n allows."""
        number = balanced(n, len(GOALS), rng)
        return {"goal": torch.tensor(GOALS, device=rng.device)[number], "id": number}

    def initial(
        self, lanes: tuple[int, int], tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """The corner (0, 0)."""
        return standing(torch.full(lanes, START, device=rng.device), self.obs_dim)

    def transition(
        self, state: State, action: Int[Tensor, "n e"], tasks: dict[str, Tensor],
        rng: torch.Generator,
    ) -> State:  # fmt: skip
        """One cell on, or none."""
        return moved(state, successors(SIZE, MOVES, action.device)[state["cell"], action])

    def observation(self, state: State, tasks: dict[str, Tensor]) -> Float[Tensor, "n e c"]:
        """One-hot."""
        return one_hot(state["cell"], self.obs_dim)

    def reward(
        self, state: State, action: Int[Tensor, "n e"], next_state: State,
        tasks: dict[str, Tensor], rng: torch.Generator,
    ) -> Float[Tensor, "n e"]:  # fmt: skip
        """1 on the goal, else -0.1."""
        return 1.1 * self.success(next_state, tasks).float() - 0.1

    def success(self, next_state: State, tasks: dict[str, Tensor]) -> Bool[Tensor, "n e"]:
        """On the goal."""
        return next_state["cell"] == tasks["goal"]

    def task_features(self, tasks: Tasks) -> Float[Tensor, "n c"]:
        """The goal, one-hot."""
        return one_hot(tasks.params["goal"], self.obs_dim)

    def belief(self) -> Belief:
        """Exact posterior over the goal's cell."""
        return GoalBelief(one_hot(torch.tensor(GOALS), self.obs_dim).sum(0) > 0)

    def references(
        self, tasks: Tasks, episodes: int, rng: torch.Generator
    ) -> dict[str, Float[Tensor, "n k"]]:
        """Expected returns of uniform actions and of three who walk to goals.

        ``posterior sampling`` (simulated) believes for an episode in a goal drawn from the exact
        posterior; ``best known search`` takes the best tour that beam search finds until it meets
        the goal; ``known goal`` is told it.
        """
        goal = tasks.params["goal"]
        direct = distances(SIZE, goal.device)[START, goal].unsqueeze(-1)
        tour = search_steps(SIZE, START, GOALS, self.spec.horizon, episodes).to(goal.device)
        return {
            "random": self._random(goal).unsqueeze(-1).expand(-1, episodes),
            "posterior sampling": self._posterior_sampling(tasks, episodes, rng),
            "best known search": self._return(tour[:, goal].T),
            "known goal": self._return(direct).expand(-1, episodes),
        }

    def _return(self, steps: Int[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Of an episode that comes to the goal at this step and stays, the last one included."""
        there = (self.spec.horizon + 1 - steps).clamp(min=0)
        return 1.1 * there - 0.1 * self.spec.horizon

    def _random(self, goal: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Expected return of uniform actions."""
        walk = random_walk(successors(SIZE, MOVES, goal.device))
        here = one_hot(torch.tensor(START, device=goal.device), self.obs_dim)
        there = torch.zeros_like(here)
        for _ in range(self.spec.horizon):
            here = here @ walk
            there += here
        return 1.1 * there[goal] - 0.1 * self.spec.horizon

    def _posterior_sampling(
        self, tasks: Tasks, episodes: int, rng: torch.Generator
    ) -> Float[Tensor, "n k"]:
        """Walk a random shortest path to a goal drawn for the episode, and stay there."""
        env, rule = GridNav(self.cfg), self.belief()
        lanes = (tasks.num, -(-SIMULATED_TRIALS // tasks.num))
        table, between = successors(SIZE, MOVES, rng.device), distances(SIZE, rng.device)
        obs = env.reset(tasks, lanes[1], rng)
        belief = rule.prior(obs)
        returns = torch.zeros(*lanes, episodes, device=rng.device)
        for k in range(episodes):
            chance = rule.features(belief, obs).flatten(0, 1)
            target = torch.multinomial(chance, 1, generator=rng).view(*lanes, 1)
            for _ in range(self.spec.horizon):
                left = between[table[env.state["cell"]], target]  # (N, E, A)
                tie = 0.5 * torch.rand(left.shape, generator=rng, device=rng.device)
                action = (left + tie).argmin(-1)
                step = env.step(action)
                belief = rule.update(belief, obs, action, step.reward, step.next_obs)
                returns[..., k] += step.reward
                obs = step.obs
        return returns.mean(1).to(tasks.id.device)

    def draw(self, state: State, tasks: dict[str, Tensor], size: int) -> UInt8[np.ndarray, "h w 3"]:
        """The goal, the agent and where it has been in this episode."""
        colours = dict.fromkeys(state["visited"].nonzero().flatten().tolist(), "sky")
        goal = int(tasks["goal"])
        words = {START: "S", goal: "G"}
        return board(SIZE, size, colours | {goal: "green"}, words, int(state["cell"]))
