"""Frozen lakes whose holes must be found out (Grigsby et al. 2024's Meta-FrozenLake)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from precocial.envs.base import (
    RESIDUES,
    EnvConfig,
    StandardConfig,
    State,
    TensorTaskEnv,
)
from precocial.envs.grid.grid_world import Moves, board, moved, one_hot, standing, successors
from precocial.envs.views import PICTURE, check_view, on_board
from precocial.seeding import randint
from precocial.types import Split, Tasks, UserError

MOVES: Moves = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Left, down, right, up; rows count from the top."""

View = Literal["one-hot", "local", "picture"]
CANDIDATES = 2000
"""Maps drawn at a time, to be kept or thrown away."""


@dataclass(frozen=True)
class FrozenLakeConfig(EnvConfig):
    """Options of ``frozen-lake``."""

    map: Literal["random", "4x4", "8x8"] = "random"
    """A new map for every task, or one of Gymnasium's own two: a single task."""
    size: int = 5
    """Cells along a side of random maps, 4 to 8."""
    hole_chance: float = 0.2
    """Chance of a cell of a random map to be a hole, 0.05 to 0.4; 0.1 more when shifted."""
    slippery: bool = False
    """Slide to either side of the direction taken with probability 1/3 each."""
    view: View = "one-hot"
    """What is seen: the agent's cell, one-hot; or local, the 3 x 3 cells around it and where the
    goal is, which has the same size on every lake; or a picture, 64 x 64 in colour, of the lake
    without its holes."""
    attempts: int = 15
    """Episodes of a trial."""
    horizon: int = 25
    """Time limit of an episode, in steps (H)."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        if self.map not in ("random", "4x4", "8x8"):
            raise UserError(f"--env-map is {self.map!r}; expected random, 4x4 or 8x8")
        if not 4 <= self.size <= 8:
            raise UserError(f"--env-size is {self.size}; expected 4 to 8 cells, try 5")
        if not 0.05 <= self.hole_chance <= 0.4:
            raise UserError(
                f"--env-hole-chance is {self.hole_chance}; expected 0.05 to 0.4, try 0.2"
            )
        check_view(self.view, get_args(View))
        if self.attempts < 1:
            raise UserError(f"--env-attempts is {self.attempts}; expected 1 or more, try 15")


@dataclass(frozen=True)
class FrozenLakeV1Config(StandardConfig):
    """Options of ``FrozenLake-v1``."""

    slippery: bool = True
    """Slide to either side of the direction taken with probability 1/3 each."""
    view: View = "one-hot"
    """What is seen: the agent's cell, one-hot; or local, the 3 x 3 cells around it and where the
    goal is; or a picture of the lake without its holes."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        check_view(self.view, get_args(View))


@dataclass(frozen=True)
class FrozenLake8x8V1Config(FrozenLakeV1Config):
    """Options of ``FrozenLake8x8-v1``."""


@cache
def outcomes(size: int, slippery: bool, device: torch.device) -> Int[Tensor, "c a k"]:
    """The equally likely cells that each action leads to from each cell."""
    straight = successors(size, MOVES, device)
    if not slippery:
        return straight.unsqueeze(-1)
    return torch.stack([straight.roll(turn, -1) for turn in (1, 0, -1)], -1)


LOCAL = 9 + 9 + 2
"""Of the 3 x 3 cells around: holes, what is off the lake; and the signs of the way to the goal."""


@cache
def surroundings(
    size: int, device: torch.device
) -> tuple[Int[Tensor, "c 9"], Float[Tensor, "c 9"], Float[Tensor, "c 2"]]:
    """Of each cell: the 3 x 3 around it (the number of cells for none), off the lake, the goal."""
    cell = torch.arange(size**2, device=device)
    row, column = cell // size, cell % size
    step = torch.arange(9, device=device)
    rows, columns = row[:, None] + step // 3 - 1, column[:, None] + step % 3 - 1
    outside = (rows < 0) | (rows >= size) | (columns < 0) | (columns >= size)
    around = (rows * size + columns).masked_fill(outside, size**2)
    direction = torch.stack([size - 1 - row, size - 1 - column], -1).sign()
    return around, outside.float(), direction.float()


def gymnasium_map(name: str) -> Bool[Tensor, " c"]:
    """Where one of Gymnasium's own maps has holes."""
    from gymnasium.envs.toy_text.frozen_lake import MAPS

    return torch.tensor([letter == "H" for letter in "".join(MAPS[name])])


def solvable(hole: Bool[Tensor, "n c"]) -> Bool[Tensor, " n"]:
    """Whether a way leads from the first cell to the last."""
    neighbours = successors(round(hole.shape[-1] ** 0.5), MOVES, hole.device)
    reached = torch.zeros_like(hole)
    reached[:, 0] = True
    while True:
        further = (reached | reached[:, neighbours].any(-1)) & ~hole
        if torch.equal(further, reached):
            return reached[:, -1]
        reached = further


def residue(hole: Bool[Tensor, "n c"]) -> Int[Tensor, " n"]:
    """Digit of a map (0-9), which decides its split; the same on every machine."""
    keys = [zlib.crc32(bytes([cell])) for cell in range(hole.shape[-1])]
    return (hole * torch.tensor(keys, device=hole.device)).sum(-1) % 10


class FrozenLake(TensorTaskEnv):
    """Cross a frozen lake without knowing where the holes are; 15 attempts.

    Observation: the agent's cell, one-hot (25), or with ``view`` local what lies around it (20): 9
    cells that are holes, 9 that are off the lake, signs of the way down and right to the goal; or a
    picture, on which holes cannot be told from ice.
    Action: left, down, right, up, as in Gymnasium; a move into the wall stays. On slippery ice each
    of the direction taken and the two beside it comes with probability 1/3. Reward: 1 for reaching
    the goal, else 0. Start: the top left cell; the goal is at the bottom right. End: in a hole, at
    the goal, or the horizon (25 steps). A trial is 15 episodes on the same map.
    Task distribution: each cell is a hole with probability 0.2, start and goal are not, maps
    without a way are drawn again. A hash of the map modulo 10 decides its split (0-7 train,
    8 valid, 9 test), so that no map is in two. ``shifted``: test maps drawn with probability 0.3.
    With one of Gymnasium's two maps there is a single task, the same in every split.

    Deviations from AMAGO's example: Gymnasium's distribution of maps, and no flag for the first
    step of an attempt in the observation (methods with a memory are told when an episode ends).
    """

    name = "frozen-lake"
    action_kind = "discrete"
    action_dim = 4
    cfg: FrozenLakeConfig | FrozenLakeV1Config

    def __init__(self, cfg: FrozenLakeConfig | None = None) -> None:
        cfg = cfg or FrozenLakeConfig()
        self.fixed = None if cfg.map == "random" else gymnasium_map(cfg.map)
        self.num_cells = cfg.size**2 if self.fixed is None else len(self.fixed)
        self.size = round(self.num_cells**0.5)
        self.look(cfg.view)
        self.num_tasks = None if self.fixed is None else 1
        self.trial_episodes = cfg.attempts
        super().__init__(cfg, cfg.horizon)

    def look(self, view: View) -> None:
        """Decide what is seen."""
        self.picture = PICTURE if view == "picture" else None
        sizes = {"one-hot": self.num_cells, "local": LOCAL, "picture": PICTURE.size}
        self.obs_dim = sizes[view]

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Where the holes are (n, C)."""
        if self.fixed is not None:
            hole = self.fixed.to(rng.device).expand(n, -1)
            return {"hole": hole, "id": torch.zeros(n, dtype=torch.long, device=rng.device)}
        assert isinstance(self.cfg, FrozenLakeConfig)
        chance = self.cfg.hole_chance + 0.1 * (split == "shifted")
        wanted = torch.tensor(RESIDUES[split], device=rng.device)
        found = torch.zeros(0, self.num_cells, dtype=torch.bool, device=rng.device)
        while len(found) < n:
            shape = (CANDIDATES, self.num_cells)
            hole = torch.rand(shape, generator=rng, device=rng.device) < chance
            hole[:, [0, -1]] = False
            found = torch.cat([found, hole[torch.isin(residue(hole), wanted) & solvable(hole)]])
        return {"hole": found[:n]}

    def initial(
        self, lanes: tuple[int, int], tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """Top left."""
        return standing(torch.zeros(lanes, dtype=torch.long, device=rng.device), self.num_cells)

    def transition(
        self, state: State, action: Int[Tensor, "n e"], tasks: dict[str, Tensor],
        rng: torch.Generator,
    ) -> State:  # fmt: skip
        """One cell on, perhaps aside."""
        table = outcomes(self.size, self.cfg.slippery, action.device)
        way = torch.zeros_like(action)
        if self.cfg.slippery:
            way = randint(0, 3, action.shape, rng)
        return moved(state, table[state["cell"], action, way])

    def observation(self, state: State, tasks: dict[str, Tensor]) -> Shaped[Tensor, "n e o"]:
        """The cell, one-hot; or what lies around it, and where the goal is; or a picture."""
        if self.picture:
            return on_board(state["cell"], self.size)
        if self.cfg.view == "one-hot":
            return one_hot(state["cell"], self.num_cells)
        around, outside, direction = surroundings(self.size, state["cell"].device)
        padded = torch.nn.functional.pad(tasks["hole"].squeeze(1).float(), (0, 1))
        near = around[state["cell"]]  # (N, E, 9)
        holes = padded.gather(1, near.flatten(1)).view(near.shape)
        return torch.cat([holes, outside[state["cell"]], direction[state["cell"]]], -1)

    def reward(
        self, state: State, action: Int[Tensor, "n e"], next_state: State,
        tasks: dict[str, Tensor], rng: torch.Generator,
    ) -> Float[Tensor, "n e"]:  # fmt: skip
        """1 at the goal."""
        return self.success(next_state, tasks).float()

    def terminal(self, state: State, tasks: dict[str, Tensor]) -> Bool[Tensor, "n e"]:
        """In a hole or at the goal."""
        return tasks["hole"].squeeze(1).gather(1, state["cell"]) | self.success(state, tasks)

    def success(self, next_state: State, tasks: dict[str, Tensor]) -> Bool[Tensor, "n e"]:
        """At the goal."""
        return next_state["cell"] == self.num_cells - 1

    def task_features(self, tasks: Tasks) -> Float[Tensor, "n c"]:
        """1 for each hole."""
        return tasks.params["hole"].float()

    def references(
        self, tasks: Tasks, episodes: int, rng: torch.Generator
    ) -> dict[str, Float[Tensor, "n k"]]:
        """Chances of success of uniform actions, and of whoever knows the map; a planner's luck.

        ``planner`` (simulated) knows all but the holes: it takes every cell for ice until it falls
        through, and the best actions on what it believes.
        """
        hole = tasks.params["hole"]
        chances = {
            "random": self.success_chance(hole, known=False),
            "known map": self.success_chance(hole, known=True),
        }
        constant = {k: v.unsqueeze(-1).expand(-1, episodes) for k, v in chances.items()}
        return constant | {"planner": self.plan(hole, episodes, rng)}

    def plan(
        self, hole: Bool[Tensor, "n c"], episodes: int, rng: torch.Generator
    ) -> Float[Tensor, "n k"]:
        """Which episodes reach the goal if a hole is avoided from the first fall on."""
        table = outcomes(self.size, self.cfg.slippery, hole.device)
        row = torch.arange(len(hole), device=hole.device)
        believed, successes = torch.zeros_like(hole), []
        for _ in range(episodes):
            value = torch.zeros(hole.shape, device=hole.device)
            best = []  # with 1, 2, ... steps left
            for _ in range(self.spec.horizon):
                value[:, -1] = 1.0
                # Sooner is a little better, or it would tarry where there is time.
                by_action = 0.999 * value.masked_fill(believed, 0.0)[:, table].mean(-1)
                value = by_action.amax(-1)
                best.append(by_action.argmax(-1))
            cell = torch.zeros_like(row)
            for action in reversed(best):
                way = randint(0, table.shape[-1], row.shape, rng)
                there = hole[row, cell] | (cell == self.num_cells - 1)
                cell = torch.where(there, cell, table[cell, action[row, cell], way])
            believed = believed | (one_hot(cell, self.num_cells).bool() & hole)
            successes.append(cell == self.num_cells - 1)
        return torch.stack(successes, -1).float()

    def success_chance(self, hole: Bool[Tensor, "n c"], *, known: bool) -> Float[Tensor, " n"]:
        """Exact chance to reach the goal in time: with the best actions, or with uniform ones."""
        table = outcomes(self.size, self.cfg.slippery, hole.device)
        value = torch.zeros(hole.shape, device=hole.device)
        for _ in range(self.spec.horizon):
            value[:, -1] = 1.0
            by_action = value.masked_fill(hole, 0.0)[:, table].mean(-1)  # (N, C, A)
            value = by_action.amax(-1) if known else by_action.mean(-1)
        return value[:, 0]

    def draw(self, state: State, tasks: dict[str, Tensor], size: int) -> UInt8[np.ndarray, "h w 3"]:
        """Holes, goal, the agent and where it has been in this attempt."""
        colours = dict.fromkeys(state["visited"].nonzero().flatten().tolist(), "sky")
        colours |= dict.fromkeys(tasks["hole"].nonzero().flatten().tolist(), "ink")
        goal = self.num_cells - 1
        words = {0: "S", goal: "G"}
        agent = int(state["cell"])
        return board(self.size, size, colours | {goal: "green"}, words, agent, rows_down=True)


class FrozenLakeV1(FrozenLake):
    """Gymnasium's 4x4 lake: a single task, an episode of 100 steps; else as ``frozen-lake``."""

    name = "FrozenLake-v1"
    map, time_limit = "4x4", 100
    num_tasks = 1

    def __init__(self, cfg: FrozenLakeV1Config | None = None) -> None:
        cfg = cfg or FrozenLakeV1Config()
        self.fixed = gymnasium_map(self.map)
        self.num_cells = len(self.fixed)
        self.size = round(self.num_cells**0.5)
        self.look(cfg.view)
        super(FrozenLake, self).__init__(cfg, cfg.horizon or self.time_limit)


class FrozenLake8x8V1(FrozenLakeV1):
    """Gymnasium's 8x8 lake, an episode of 200 steps."""

    name = "FrozenLake8x8-v1"
    map, time_limit = "8x8", 200
