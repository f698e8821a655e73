"""A grid with coloured tiles, and a sentence that says which one to walk to."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from precocial.envs.base import EnvConfig, State, TensorTaskEnv
from precocial.envs.grid.grid_world import (
    COMPASS,
    board,
    moved,
    one_hot,
    random_walk,
    standing,
    successors,
)
from precocial.seeding import randint
from precocial.types import SPLITS, Split, Tasks

SIZE = 5
TILES = {0: "red", 2: "blue", 4: "green", 20: "yellow", 22: "black", 24: "white"}
"""Colours by cell: the corners, and the middles of the lowest and the highest row."""
NAMES = {
    "red": ("red", "crimson", "scarlet", "ruby", "cherry", "brick"),
    "blue": ("blue", "navy", "azure", "sapphire", "cobalt", "ocean"),
    "green": ("green", "emerald", "lime", "grass", "moss", "olive"),
    "yellow": ("yellow", "golden", "lemon", "banana", "mustard", "sunflower"),
    "black": ("black", "ebony", "coal", "jet", "ink", "charcoal"),
    "white": ("white", "ivory", "snow", "milk", "chalk", "pearl"),
}
NEW_NAMES = {
    "red": ("vermilion", "tomato", "blood"),
    "blue": ("indigo", "sky", "denim"),
    "green": ("jade", "leaf", "forest"),
    "yellow": ("canary", "corn", "honey"),
    "black": ("soot", "raven", "midnight"),
    "white": ("cotton", "swan", "paper"),
}
"""Of ``shifted`` alone."""
WORDINGS: dict[Split, tuple[str, ...]] = {
    "train": (
        "go to the {} tile",
        "walk to the {} square",
        "move onto the {} field",
        "the {} tile is your goal",
        "find the {} tile and stop there",
        "your target is the {} square",
        "step on the tile that is {} in colour",
        "please reach the {} tile",
    ),
    "valid": ("head for the {} square", "stop on the tile coloured {}"),
    "test": (
        "I would like you to end up on the {} tile",
        "make your way over to the {} field",
        "nothing but the {} square will do",
    ),
}
WORDINGS["shifted"] = WORDINGS["test"]

Words = Literal["one-hot", "features"]


class Sentence(NamedTuple):
    """A task: what is said, and the tile that is meant."""

    text: str
    cell: int


@cache
def sentences(split: Split) -> tuple[Sentence, ...]:
    """All of a split."""
    names = NEW_NAMES if split == "shifted" else NAMES
    return tuple(
        Sentence(wording.format(name), cell)
        for (cell, colour), wording in product(TILES.items(), WORDINGS[split])
        for name in names[colour]
    )


FIRST = {
    split: sum(len(sentences(before)) for before in SPLITS[:i]) for i, split in enumerate(SPLITS)
}
"""Number of a split's first sentence."""


def counted(texts: list[str]) -> Float[Tensor, "s w"]:
    """How often each word of the training sentences occurs; last, how many other words."""
    known = sorted({word for s in sentences("train") for word in re.findall(r"\w+", s.text)})
    column = {word: i for i, word in enumerate(known)}
    counts = torch.zeros(len(texts), len(known) + 1)
    for row, text in enumerate(texts):
        for word in re.findall(r"\w+", text):
            counts[row, column.get(word, len(known))] += 1
    return counts


def understood(texts: list[str]) -> Float[Tensor, "s f"]:
    """A frozen language model's features less their mean, of length 1 on average, as the cell is.

    Means are those of training sentences.

    Raises:
        UserError: its package is not installed.
    """
    from precocial.nets.sentences import sentences as reader

    features = reader()(texts)
    features = features - features[: len(sentences("train"))].mean(0)
    return features / features[: len(sentences("train"))].norm(dim=1).mean()


READERS: dict[Words, Callable[[list[str]], Tensor]] = {"one-hot": counted, "features": understood}


@cache
def table(words: Words) -> Float[Tensor, "s f"]:
    """Of all sentences of all splits what is observed."""
    return READERS[words]([s.text for split in SPLITS for s in sentences(split)])


@dataclass(frozen=True)
class InstructionsConfig(EnvConfig):
    """Options of ``instructions``."""

    words: Words = "one-hot"
    """What is observed of the sentence: counts of the training sentences' words, or features of a
    frozen language model (a package of its own)."""
    horizon: int = 20
    """Time limit of an episode, in steps (H)."""


class Instructions(TensorTaskEnv):
    """Walk to the tile that a sentence names.

    Observation: the agent's own cell, one-hot (25), and the sentence, a command: counts of words
    (61, the last for words of no training sentence) or features of a frozen language model (384).
    Action: up, right, down, left; a move into the wall stays. Reward: 1 for reaching the tile that
    is meant, 0 for another one. Start: any of the 19 cells that are no tile. End: on any of the six
    tiles, or the horizon (20 steps).
    Task distribution: a colour, one of its six names, and a wording, uniform: 288 sentences in
    training; valid has 72 and test 108 in wordings of their own, with the same names. ``shifted``:
    54 of the test wordings with names that no training sentence has.
    """

    name = "instructions"
    action_kind = "discrete"
    action_dim = 4
    split_sizes = tuple((split, len(sentences(split))) for split in SPLITS)
    cfg: InstructionsConfig

    def __init__(self, cfg: InstructionsConfig | None = None) -> None:
        cfg = cfg or InstructionsConfig()
        self.table = table(cfg.words)
        self.command_dim = self.table.shape[1]
        self.obs_dim = SIZE**2 + self.command_dim
        cells = torch.arange(SIZE**2)
        self.tile = torch.isin(cells, torch.tensor(list(TILES)))
        self.start = cells[~self.tile]
        super().__init__(cfg, cfg.horizon)

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Numbers of sentences (n,), and the cells that they mean."""
        of_split = sentences(split)
        pick = torch.randint(len(of_split), (n,), generator=rng, device=rng.device)
        goal = torch.tensor([s.cell for s in of_split], device=rng.device)[pick]
        return {"goal": goal, "id": FIRST[split] + pick}

    def initial(
        self, lanes: tuple[int, int], tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """Not on a tile."""
        return standing(self.start.to(rng.device)[randint(0, 19, lanes, rng)], SIZE**2)

    def transition(
        self, state: State, action: Int[Tensor, "n e"], tasks: dict[str, Tensor],
        rng: torch.Generator,
    ) -> State:  # fmt: skip
        """One cell on."""
        return moved(state, successors(SIZE, COMPASS, action.device)[state["cell"], action])

    def observation(self, state: State, tasks: dict[str, Tensor]) -> Float[Tensor, "n e o"]:
        """The cell, one-hot, and the sentence."""
        cell = one_hot(state["cell"], SIZE**2)
        said = self.table.to(cell.device)[tasks["id"]]  # (N, 1, F)
        return torch.cat([cell, said.expand(*cell.shape[:2], -1)], -1)

    def reward(
        self, state: State, action: Int[Tensor, "n e"], next_state: State,
        tasks: dict[str, Tensor], rng: torch.Generator,
    ) -> Float[Tensor, "n e"]:  # fmt: skip
        """1 for the tile that is meant."""
        return self.success(next_state, tasks).float()

    def terminal(self, state: State, tasks: dict[str, Tensor]) -> Bool[Tensor, "n e"]:
        """On a tile."""
        return self.tile.to(state["cell"].device)[state["cell"]]

    def success(self, next_state: State, tasks: dict[str, Tensor]) -> Bool[Tensor, "n e"]:
        """On the tile that is meant."""
        return next_state["cell"] == tasks["goal"]

    def task_features(self, tasks: Tasks) -> Float[Tensor, "n c"]:
        """The tile that is meant, one-hot (6)."""
        cells = torch.tensor(list(TILES), device=tasks.id.device)
        return (tasks.params["goal"].unsqueeze(-1) == cells).float()

    def references(
        self, tasks: Tasks, episodes: int, rng: torch.Generator
    ) -> dict[str, Float[Tensor, "n k"]]:
        """Exact chances to come to the tile that is meant, of uniform actions, and of who knows it.

        ``deaf`` walks to a tile without listening.
        """
        goal = tasks.params["goal"]
        walk = random_walk(successors(SIZE, COMPASS, goal.device))
        here = (~self.tile).float().to(goal.device) / len(self.start)
        arrived = torch.zeros_like(here)
        for _ in range(self.spec.horizon):
            here = here @ walk
            arrived += here * self.tile.to(goal.device)
            here = here * ~self.tile.to(goal.device)
        chances = {
            "random": arrived[goal],
            "deaf": torch.full_like(arrived[goal], 1 / len(TILES)),
            "understanding": torch.ones_like(arrived[goal]),
        }
        return {k: v.unsqueeze(-1).expand(-1, episodes) for k, v in chances.items()}

    def draw(self, state: State, tasks: dict[str, Tensor], size: int) -> UInt8[np.ndarray, "h w 3"]:
        """The tiles, what is meant (G), and the agent."""
        ink = {"black": "ink", "white": "white"}
        colours = {cell: ink.get(colour, colour) for cell, colour in TILES.items()}
        return board(SIZE, size, colours, {int(tasks["goal"]): "G"}, int(state["cell"]))
