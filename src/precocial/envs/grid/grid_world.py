"""A grid with a hidden goal, and what the families on grids share.

Cell ``c`` of a grid lies in column ``c % size`` and row ``c // size``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from precocial.envs.base import EnvConfig, State, TensorTaskEnv
from precocial.types import Belief, Split, Tasks, UserError

Moves = tuple[tuple[int, int], ...]
"""What each action adds to (column, row)."""

COMPASS: Moves = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""Up, right, down, left; rows count upwards."""

# ---- what the families on grids share ------------------------------------------------------


@cache
def successors(size: int, moves: Moves, device: torch.device) -> Int[Tensor, "c a"]:
    """The cell that each action leads to from each cell; a move into the wall stays."""
    cell = torch.arange(size * size, device=device)
    columns = [(cell % size + dx).clamp(0, size - 1) for dx, _ in moves]
    rows = [(cell // size + dy).clamp(0, size - 1) for _, dy in moves]
    return torch.stack([y * size + x for x, y in zip(columns, rows, strict=True)], -1)


@cache
def distances(size: int, device: torch.device) -> Int[Tensor, "c c"]:
    """Steps from cell to cell."""
    cell = torch.arange(size * size, device=device)
    place = torch.stack([cell % size, cell // size], -1)
    return (place[:, None] - place).abs().sum(-1)


def one_hot(cell: Int[Tensor, "*b"], num_cells: int) -> Float[Tensor, "*b c"]:
    """The observation of a cell."""
    return torch.nn.functional.one_hot(cell, num_cells).float()


def standing(cell: Int[Tensor, "n e"], num_cells: int) -> State:
    """State of an agent that has not walked yet; ``visited`` is only for pictures."""
    return {"cell": cell, "visited": one_hot(cell, num_cells)}


def moved(state: State, cell: Int[Tensor, "n e"]) -> State:
    """The state after a step to ``cell``."""
    visited = state["visited"].scatter(-1, cell.unsqueeze(-1), 1.0)
    return state | {"cell": cell, "visited": visited}


def random_walk(table: Int[Tensor, "c a"]) -> Float[Tensor, "c c"]:
    """Transition probabilities from cell to cell under uniform actions."""
    return one_hot(table, table.shape[0]).mean(1)


class GoalBelief:
    """Where the goal may still be, exactly: uniform over the candidates not visited yet.

    All mass is on the goal once a positive reward has given it away.

    Args:
        candidates: The cells that can be the goal.
    """

    def __init__(self, candidates: Bool[Tensor, " c"]) -> None:
        self.candidates = candidates
        self.dim = candidates.numel()

    def prior(self, obs: Float[Tensor, "n e c"]) -> dict[str, Tensor]:
        """All candidates but the cell that the lane starts from."""
        return {"open": self.candidates.to(obs) * (1 - obs)}

    def update(
        self,
        belief: dict[str, Tensor],
        obs: Float[Tensor, "n e c"],
        action: Int[Tensor, "n e"],
        reward: Float[Tensor, "n e"],
        next_obs: Float[Tensor, "n e c"],
    ) -> dict[str, Tensor]:
        """The goal is here or it is not; a cell that an episode starts from is not it either."""
        was_open = belief["open"]
        rest = was_open * (1 - obs) * (1 - next_obs)
        known = was_open.sum(-1, keepdim=True) == 1
        left = torch.where(known, was_open, rest)
        return {"open": torch.where(reward.unsqueeze(-1) > 0, next_obs, left)}

    def features(
        self, belief: dict[str, Tensor], obs: Float[Tensor, "n e o"]
    ) -> Float[Tensor, "n e c"]:
        """Probability of each cell."""
        return belief["open"] / belief["open"].sum(-1, keepdim=True)


BEAM_WIDTH = 4000
"""Partial tours kept; on 5 x 5 cells more find nothing better."""


@cache
def _tour(
    size: int, start: int, candidates: tuple[int, ...], horizon: int
) -> Int[np.ndarray, " c"]:
    """When a search from ``start`` comes to each cell first, in steps of the trial; 0 for never.

    Beam search over walks that go back to the start after every ``horizon`` steps and end when
    every candidate within reach was visited. It minimises the steps, summed over the candidates,
    that each is found later than by who knows it: so many candidates are overdue at every step.
    """
    cpu = torch.device("cpu")
    table = successors(size, COMPASS, cpu).numpy()
    between = distances(size, cpu).numpy()
    wanted = np.zeros(size * size, bool)
    wanted[list(candidates)] = True
    wanted &= between[start] <= horizon
    when = np.zeros((1, size * size), np.int32)  # first visits, by walk and cell
    cell, late = np.array([start]), np.zeros(1, np.int64)
    time = 0
    while (wanted & (when[0] == 0)).any():
        if time % horizon == 0:
            cell = np.full_like(cell, start)
        time += 1
        parent = np.arange(len(cell)).repeat(table.shape[1])
        cell, when, late = table[cell].ravel(), when[parent], late[parent]
        fresh = when[np.arange(len(cell)), cell] == 0
        when[fresh, cell[fresh]] = time
        missing = wanted & (when == 0)
        late += (missing & (between[start] <= (time - 1) % horizon + 1)).sum(-1)
        # Among equals, those that left the missing cells close by.
        order = np.lexsort(((missing * between[cell]).sum(-1), late))
        kept = order[_firsts(missing[order], cell[order])][:BEAM_WIDTH]
        cell, when, late = cell[kept], when[kept], late[kept]
    return when[0]


def _firsts(missing: Bool[np.ndarray, "w c"], cell: Int[np.ndarray, " w"]) -> np.ndarray:
    """Rows whose pair of missing cells and place no earlier row has."""
    packed = np.packbits(
        np.concatenate([missing, np.eye(missing.shape[1], dtype=bool)[cell]], 1), 1
    )
    rows = np.ascontiguousarray(packed).view(f"V{packed.shape[1]}").ravel()
    return np.sort(np.unique(rows, return_index=True)[1])


def search_steps(
    size: int, start: int, candidates: tuple[int, ...], horizon: int, episodes: int
) -> Int[Tensor, "k c"]:
    """Steps to the goal in episodes 1 to k of the best known search, were it in each cell.

    The search goes on where it was left off in later episodes; once found, the goal is walked
    to directly. ``horizon + 1`` stands for an episode that did not come to it.
    """
    when = torch.from_numpy(_tour(size, start, candidates, horizon)).long()
    number = torch.arange(episodes).unsqueeze(-1)
    first = torch.where(when > 0, (when - 1) // horizon, episodes)
    direct = distances(size, torch.device("cpu"))[start]
    found = torch.where(number == first, (when - 1) % horizon + 1, direct)
    return torch.where(number < first, horizon + 1, found).clamp(max=horizon + 1)


def board(
    size: int, pixels: int, colours: dict[int, str], words: dict[int, str], agent: int,
    *, rows_down: bool = False,
) -> UInt8[np.ndarray, "h w 3"]:  # fmt: skip
    """A picture of the grid: tiles with colours and words by cell, the agent as a blue disc."""
    from precocial.envs.picture import Picture

    picture = Picture(pixels, half_width=size / 2 + 0.1)

    def middle(cell: int) -> tuple[float, float]:
        x, y = cell % size - (size - 1) / 2, cell // size - (size - 1) / 2
        return x, -y if rows_down else y

    for cell in range(size * size):
        x, y = middle(cell)
        corners = [(x + dx, y + dy) for dx, dy in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        tile = [(x + 0.47 * (cx - x), y + 0.47 * (cy - y)) for cx, cy in corners]
        picture.polygon(tile, colours.get(cell, "light"))
    picture.disc(middle(agent), 0.28, "blue")
    for cell, word in words.items():
        x, y = middle(cell)
        picture.text((x - 0.33, y + 0.3), word, height=0.28)
    return picture.pixels


# ---- the family ----------------------------------------------------------------------------


@dataclass(frozen=True)
class GridWorldConfig(EnvConfig):
    """Options of ``grid-world``."""

    size: int = 5
    """Cells along a side, 2 to 8."""
    episodes: int = 3
    """Episodes of a trial."""
    horizon: int = 40
    """Time limit of an episode, in steps (H)."""
    step_penalty: float = 0.05
    """Reward lost per step; below 1, so that reaching the goal is worth a step."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        if not 2 <= self.size <= 8:
            raise UserError(f"--env-size is {self.size}; expected 2 to 8 cells, try 5")
        if self.episodes < 1:
            raise UserError(f"--env-episodes is {self.episodes}; expected 1 or more, try 3")
        if not 0 <= self.step_penalty < 1:
            raise UserError(
                f"--env-step-penalty is {self.step_penalty}; expected 0 or more and below 1, "
                "try 0.05"
            )


def balanced(n: int, number: int, rng: torch.Generator) -> Int[Tensor, " n"]:
    """``n`` numbers below ``number``: every so many are all of them in random order."""
    keys = torch.rand((-(-n // number), number), generator=rng, device=rng.device)
    return keys.argsort(-1).flatten()[:n]


class GridWorld(TensorTaskEnv):
    """Find a hidden goal in the first episode of a trial, go straight to it in the others.

    Observation: the agent's own cell, one-hot (25). Action: up, right, down, left; a move into the
    wall stays. Reward: -0.05 per step, and +1 for reaching the goal. Start: the task's start cell
    in every episode of a trial. End: at the goal, or the horizon (40 steps). A trial is 3 episodes.
    Task distribution: the 600 pairs of different cells; of several tasks, every 600 are all of them
    in random order. They are all there is: train, test and ``shifted`` tasks are the same. (With
    pairs held out, whoever learned from the others searches the held-out goals last, and rightly.)

    The start is no secret, but it is part of the task: lane 0 has the task's own. Each further lane
    starts from the next cell that is not the goal, so that over all tasks every lane meets the same
    distribution, and what a lane sees first does not tell the task.
    The belief's prior is that of the family: all cells but the lane's own start are equally likely.
    """

    name = "grid-world"
    action_kind = "discrete"
    action_dim = 4
    cfg: GridWorldConfig

    def __init__(self, cfg: GridWorldConfig | None = None) -> None:
        cfg = cfg or GridWorldConfig()
        self.obs_dim = cfg.size**2
        self.num_tasks = self.obs_dim * (self.obs_dim - 1)
        self.trial_episodes = cfg.episodes
        super().__init__(cfg, cfg.horizon)

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Cells of start and goal (n,)."""
        pair = balanced(n, self.obs_dim * (self.obs_dim - 1), rng)
        start, further = pair // (self.obs_dim - 1), pair % (self.obs_dim - 1) + 1
        return {"start": start, "goal": (start + further) % self.obs_dim, "id": pair}

    def initial(
        self, lanes: tuple[int, int], tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """Each lane's own start, the same in every episode."""
        turn = torch.arange(lanes[1], device=rng.device) % (self.obs_dim - 1)
        further = (tasks["goal"] - tasks["start"]) % self.obs_dim  # where turns meet the goal
        cell = (tasks["start"] + turn + (turn >= further)) % self.obs_dim
        return standing(cell, self.obs_dim) | {"start": cell}

    def transition(
        self, state: State, action: Int[Tensor, "n e"], tasks: dict[str, Tensor],
        rng: torch.Generator,
    ) -> State:  # fmt: skip
        """One cell on."""
        table = successors(self.cfg.size, COMPASS, action.device)
        return moved(state, table[state["cell"], action])

    def observation(self, state: State, tasks: dict[str, Tensor]) -> Float[Tensor, "n e c"]:
        """One-hot."""
        return one_hot(state["cell"], self.obs_dim)

    def reward(
        self, state: State, action: Int[Tensor, "n e"], next_state: State,
        tasks: dict[str, Tensor], rng: torch.Generator,
    ) -> Float[Tensor, "n e"]:  # fmt: skip
        """1 for the goal, less the penalty."""
        return self.terminal(next_state, tasks).float() - self.cfg.step_penalty

    def terminal(self, state: State, tasks: dict[str, Tensor]) -> Bool[Tensor, "n e"]:
        """At the goal."""
        return state["cell"] == tasks["goal"]

    def success(self, next_state: State, tasks: dict[str, Tensor]) -> Bool[Tensor, "n e"]:
        """Reached the goal."""
        return self.terminal(next_state, tasks)

    def task_features(self, tasks: Tasks) -> Float[Tensor, "n c"]:
        """The goal, one-hot; the start shows in the observation."""
        return one_hot(tasks.params["goal"], self.obs_dim)

    def belief(self) -> Belief:
        """Exact posterior over the goal's cell."""
        return GoalBelief(torch.ones(self.obs_dim, dtype=torch.bool))

    def references(
        self, tasks: Tasks, episodes: int, rng: torch.Generator
    ) -> dict[str, Float[Tensor, "n k"]]:
        """Expected returns, from the task's own start, of uniform actions and two walkers.

        ``best known search`` takes the tour of fewest mean steps to the goal that beam search
        finds, then the shortest path; ``shortest path`` is told the goal.
        """
        size, horizon = self.cfg.size, self.spec.horizon
        start, goal = (tasks.params[k].cpu() for k in ("start", "goal"))
        starts, row = start.unique(return_inverse=True)
        cells = range(self.obs_dim)
        steps = torch.stack([  # (start, episode, goal)
            search_steps(size, s, tuple(c for c in cells if c != s), horizon, episodes)
            for s in starts.tolist()
        ])  # fmt: skip
        direct = distances(size, torch.device("cpu"))[start, goal].unsqueeze(-1)
        returns = {
            "random": self._random(start, goal).unsqueeze(-1).expand(-1, episodes),
            "best known search": self._return(steps[row, :, goal]),
            "shortest path": self._return(direct).expand(-1, episodes),
        }
        return {k: v.to(tasks.id.device) for k, v in returns.items()}

    def _return(self, steps: Int[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Of an episode that comes to the goal at this step, beyond the horizon for never."""
        walked = steps.clamp(max=self.spec.horizon)
        return (walked == steps).float() - self.cfg.step_penalty * walked

    def _random(self, start: Int[Tensor, " n"], goal: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Expected return of uniform actions."""
        walk = random_walk(successors(self.cfg.size, COMPASS, start.device))
        here, total = one_hot(start, self.obs_dim), torch.zeros(len(start))
        away = 1 - one_hot(goal, self.obs_dim)
        for _ in range(self.spec.horizon):
            before = here.sum(-1)
            here = here @ walk * away  # who reached the goal has left
            total += before - here.sum(-1) - self.cfg.step_penalty * before
        return total

    def draw(self, state: State, tasks: dict[str, Tensor], size: int) -> UInt8[np.ndarray, "h w 3"]:
        """Start, goal, the agent and where it has been in this episode."""
        colours = dict.fromkeys(state["visited"].nonzero().flatten().tolist(), "sky")
        start, goal = int(state["start"]), int(tasks["goal"])
        words = {start: "S", goal: "G"}
        agent = int(state["cell"])
        return board(self.cfg.size, size, colours | {goal: "green"}, words, agent)
