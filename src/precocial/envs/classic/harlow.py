"""Harlow's learning-to-learn task on a ring (Harlow 1949; Wang et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from precocial.envs.base import EnvConfig, State, TensorTaskEnv, split_uniform, uniform
from precocial.seeding import randint
from precocial.types import Split, Tasks, UserError

CELLS = 17
"""Cells of the ring."""
SIGHT = 4
"""Cells seen on either side of the gaze."""
ASIDE = 3
"""Cells from the middle to either object."""
FIXATION_REWARD = 0.2
CONTRAST = 0.3
"""Least difference between the two objects in some colour channel."""


@dataclass(frozen=True)
class HarlowConfig(EnvConfig):
    """Options of ``harlow``."""

    choices: int = 6
    """Choices between the same two objects (k); each is an episode of the trial."""
    horizon: int = 20
    """Time limit of a choice, in turns of the gaze (H)."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        if self.choices < 1:
            raise UserError(f"--env-choices is {self.choices}; expected 1 or more")
        if self.horizon < SIGHT + ASIDE:
            raise UserError(
                f"--env-horizon is {self.horizon}; expected {SIGHT + ASIDE} or more, which is what "
                "fixating and choosing can take; the default is 20"
            )


class Harlow(TensorTaskEnv):
    """Find out which of two unfamiliar objects is rewarded, and remember it.

    The world is a ring of 17 cells; the agent turns its gaze and sees 4 cells on either side. An
    episode starts with a fixation mark in sight, 1 to 4 cells from the gaze. Looking at it makes
    two objects appear in its place, 3 cells left and right of the gaze, on sides drawn afresh for
    every choice. Looking at an object chooses it.

    Observation: 5 numbers per visible cell, left to right: whether it has the mark, whether it has
    an object, and the object's three colour channels, [0, 1] scaled to [-1, 1] (0 where there is
    none). Action: turn left (0) or right (1) by one cell. Reward: 0.2 for fixating, then +1 for the
    rewarded object, -1 for the other. End: a choice, or the horizon (20 steps). A trial is 6
    choices. Success: the rewarded object was chosen.
    Task distribution: colours ~ U[0, 1]^3 that differ by 0.3 or more in some channel, either object
    the rewarded one; ``shifted`` channels lie in [1, 2]. No object is in two splits.
    Deviation: Wang et al. (and BKHMSI/Meta-RL-Harlow) run the six choices without a break and let
    the mark reappear 3 cells from the gaze; an object's look is one number there.
    """

    name = "harlow"
    trial_episodes: int
    action_kind = "discrete"
    action_dim = 2
    obs_dim = 5 * (2 * SIGHT + 1)

    def __init__(self, cfg: HarlowConfig | None = None) -> None:
        cfg = cfg or HarlowConfig()
        self.trial_episodes = cfg.choices
        super().__init__(cfg, cfg.horizon)

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """Colours of the rewarded and the other object, each (n, 3)."""
        task = torch.arange(n, device=rng.device)
        colour = uniform(rng, (n, 2, 3), 0.0, 1.0)
        colour[..., 0] = split_uniform(rng, (n, 2), 0.0, 1.0, split)
        # The second object avoids the first in channel 1 or 2: the places left, laid end to end.
        channel = torch.randint(1, 3, (n,), generator=rng, device=rng.device)
        first = colour[task, 0, channel]
        below, above = (first - CONTRAST).clamp(min=0), (1 - CONTRAST - first).clamp(min=0)
        place = uniform(rng, (n,), 0.0, 1.0) * (below + above)
        beyond = first + CONTRAST + (place - below)
        colour[task, 1, channel] = torch.where(place < below, place, beyond)
        # Which of the two is rewarded must not show in how they were drawn.
        rewarded = torch.randint(2, (n,), generator=rng, device=rng.device)
        colour = colour + (split == "shifted")
        return {"rewarded": colour[task, rewarded], "other": colour[task, 1 - rewarded]}

    def initial(
        self, lanes: tuple[int, int], tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """A mark in sight.

        ``offset`` is where the mark is, or the middle between the objects, in cells right of the
        gaze; ``side`` where the rewarded object is or will be, -1 left and +1 right; ``chosen`` +1
        for the rewarded object, -1 for the other, 0 for none yet.
        """
        away = randint(1, SIGHT + 1, lanes, rng)
        return {
            "offset": away * _sign(lanes, rng),
            "side": _sign(lanes, rng),
            "objects": torch.zeros(lanes, dtype=torch.bool, device=rng.device),
            "chosen": torch.zeros(lanes, dtype=torch.long, device=rng.device),
        }

    def transition(
        self, state: State, action: Int[Tensor, "n e"], tasks: dict[str, Tensor],
        rng: torch.Generator,
    ) -> State:  # fmt: skip
        """Everything moves against the turn; looking at the mark or at an object is noticed."""
        offset = _around(state["offset"] - (2 * action - 1))
        at_object = state["objects"] & (offset.abs() == ASIDE)
        return {
            "offset": offset,
            "side": state["side"],
            "objects": state["objects"] | (offset == 0),
            "chosen": torch.where(at_object, -offset.sign() * state["side"], 0),
        }

    def observation(self, state: State, tasks: dict[str, Tensor]) -> Float[Tensor, "n e o"]:
        """What is in each visible cell."""
        cells = torch.arange(-SIGHT, SIGHT + 1, device=state["offset"].device)
        offset, objects = state["offset"].unsqueeze(-1), state["objects"].unsqueeze(-1)
        side = ASIDE * state["side"].unsqueeze(-1)
        mark = ~objects & (offset == cells)
        rewarded = (objects & (_around(offset + side) == cells)).float()  # (N, E, cells)
        other = (objects & (_around(offset - side) == cells)).float()
        colours = [2 * tasks[k].unsqueeze(-2) - 1 for k in ("rewarded", "other")]  # (N, 1, 1, 3)
        look = rewarded.unsqueeze(-1) * colours[0] + other.unsqueeze(-1) * colours[1]
        flags = torch.stack([mark.float(), rewarded + other], -1)
        return torch.cat([flags, look], -1).flatten(2)

    def reward(
        self, state: State, action: Int[Tensor, "n e"], next_state: State,
        tasks: dict[str, Tensor], rng: torch.Generator,
    ) -> Float[Tensor, "n e"]:  # fmt: skip
        """0.2 for fixating, +-1 for a choice."""
        fixated = next_state["objects"] & ~state["objects"]
        return FIXATION_REWARD * fixated + next_state["chosen"]

    def terminal(self, state: State, tasks: dict[str, Tensor]) -> Bool[Tensor, "n e"]:
        """Once something was chosen."""
        return state["chosen"] != 0

    def success(self, next_state: State, tasks: dict[str, Tensor]) -> Bool[Tensor, "n e"]:
        """Chose the rewarded object."""
        return next_state["chosen"] == 1

    def optimum(self, tasks: Tasks) -> Float[Tensor, " n"]:
        """Expected total over the trial of ``one-shot``."""
        return self._one_shot(tasks, self.trial_episodes).sum(-1)

    def references(
        self, tasks: Tasks, episodes: int, rng: torch.Generator
    ) -> dict[str, Float[Tensor, "n k"]]:
        """Expected returns: turning at random, and learning all there is from the first choice."""
        shape = (tasks.num, episodes)
        random = FIXATION_REWARD * _chance_to_fixate(self.spec.horizon)  # choices average 0
        return {
            "random": torch.full(shape, random, device=rng.device),
            "one-shot": self._one_shot(tasks, episodes).to(rng.device),
        }

    def _one_shot(self, tasks: Tasks, episodes: int) -> Float[Tensor, "n k"]:
        returns = torch.full((tasks.num, episodes), FIXATION_REWARD + 1)
        returns[:, 0] = FIXATION_REWARD  # +1 or -1, as it happens
        return returns

    def draw(self, state: State, tasks: dict[str, Tensor], size: int) -> UInt8[np.ndarray, "h w 3"]:
        """The visible cells, the gaze's framed; a green dot marks the rewarded object."""
        from precocial.envs.picture import Picture

        picture = Picture(size, half_width=SIGHT + 1)
        offset, aside = int(state["offset"]), ASIDE * int(state["side"])
        brightest = max(1.0, *(float(tasks[k].max()) for k in ("rewarded", "other")))
        for cell in range(-SIGHT, SIGHT + 1):
            picture.polygon(_box(cell, 0.46), "light")
        if not state["objects"]:
            if abs(offset) <= SIGHT:
                picture.line([(offset - 0.3, 0), (offset + 0.3, 0)], "ink", width=0.1)
                picture.line([(offset, -0.3), (offset, 0.3)], "ink", width=0.1)
        else:
            for name, shift in (("rewarded", aside), ("other", -aside)):
                place = int(_around(state["offset"] + shift))
                if abs(place) <= SIGHT:
                    channels = (255 * tasks[name] / brightest).long().tolist()
                    picture.polygon(_box(place, 0.46), "#{:02x}{:02x}{:02x}".format(*channels))
                    if name == "rewarded":
                        picture.disc((place, 0.8), radius=0.12, colour="green")
        frame = _box(0, 0.5)
        picture.line([*frame, frame[0]], "ink", width=0.06)
        return picture.pixels


def _around(offset: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Offsets on the ring, -8 to 8."""
    return (offset + CELLS // 2) % CELLS - CELLS // 2


def _sign(shape: tuple[int, int], rng: torch.Generator) -> Int[Tensor, "n e"]:
    """-1 or +1."""
    return 2 * randint(0, 2, shape, rng) - 1


def _box(cell: int, half: float) -> list[tuple[float, float]]:
    """Corners of a square around a cell."""
    return [(cell + x * half, y * half) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]


def _chance_to_fixate(horizon: int) -> float:
    """Probability that random turns reach the mark within the horizon."""
    cells = np.zeros(CELLS)  # how likely the mark is to be so many cells from the gaze, not yet met
    cells[[*range(1, SIGHT + 1), *range(-SIGHT, 0)]] = 1 / (2 * SIGHT)
    for _ in range(horizon):
        cells = (np.roll(cells, 1) + np.roll(cells, -1)) / 2
        cells[0] = 0
    return 1 - float(cells.sum())
