"""Everything that was ever experienced, raw, and windows of it that say where episodes end."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from precocial.ops.returns import episode_index
from precocial.types import Rollout


class Transitions(NamedTuple):
    """Consecutive transitions of W windows."""

    obs: Float[Tensor, "w t o"]
    action: Float[Tensor, "w t a"]
    next_obs: Float[Tensor, "w t o"]
    episode: Int[Tensor, "w t"]
    """Which episode of its lane each belongs to; -1 for what counts for none."""


class Block(NamedTuple):
    """Room for lanes, filled from the front."""

    first: int
    """Number of its first lane."""
    lanes: Transitions


class Replay:
    """Lanes of T steps, as they were collected; states and actions are kept as they came.

    They lie in blocks, each with room for as many lanes as all before it, so that nothing that is
    stored is ever copied or joined.
    """

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.length = 0

    oldest = 0
    """Nothing is ever dropped."""

    def __len__(self) -> int:
        """Number of lanes."""
        return self.length

    def skip(self, length: int) -> None:
        """Nothing is ever dropped."""
        assert length == 0

    def add(self, rollout: Rollout, action: Float[Tensor, "n e t a"]) -> Transitions:
        """Keep a rollout; ``action`` is what the environment made of the policy's samples.

        Steps on which a simulation diverged led nowhere, and belong to no episode.

        Returns:
            What was kept, a window for each lane.
        """
        episode = episode_index(rollout.terminated | rollout.truncated)
        episode = episode.masked_fill(rollout.diverged, -1)
        lanes = (rollout.obs, action, rollout.next_obs, episode)
        new = Transitions(*(x.flatten(0, 1) for x in lanes))
        self.extend(new._asdict())
        return new

    def extend(self, rows: dict[str, Tensor]) -> None:
        """Append lanes, fields by name as in ``Transitions``."""
        new, done = Transitions(**rows), 0
        while done < len(new.episode):
            if not self.blocks or self.length == self.room():
                size = max(len(new.episode) - done, self.length)
                lanes = Transitions(*(x.new_empty(size, *x.shape[1:]) for x in new))
                self.blocks.append(Block(self.length, lanes))
            at = self.length - self.blocks[-1].first
            num = min(self.room() - self.length, len(new.episode) - done)
            for kept, x in zip(self.blocks[-1].lanes, new, strict=True):
                kept[at : at + num] = x[done : done + num]
            done, self.length = done + num, self.length + num

    def room(self) -> int:
        """Number of lanes that the blocks could hold."""
        return self.blocks[-1].first + len(self.blocks[-1].lanes.episode)

    def shrink(self, length: int) -> None:
        """Forget all but the first ``length`` lanes."""
        self.length = min(length, self.length)
        while self.blocks and self.blocks[-1].first >= self.length:
            self.blocks.pop()

    def rows(self, start: int) -> dict[str, Tensor]:
        """The lanes from ``start`` on, fields by name."""
        parts = [
            [x[max(start - first, 0) : end - first] for x in lanes]
            for (first, lanes), end in zip(self.blocks, self._ends(), strict=True)
            if end > start
        ]
        columns = zip(Transitions._fields, zip(*parts, strict=True), strict=False)
        return {name: torch.cat(column) for name, column in columns}

    def sample(self, num: int, before: int, after: int, rng: torch.Generator) -> Transitions:
        """``num`` windows of ``before + after`` transitions around moments drawn uniformly.

        Windows reach beyond the first and the last step of the data; there ``episode`` is -1.
        """
        assert self.blocks, "add comes before sample"
        steps, device = self.blocks[0].lanes.episode.shape[1], self.blocks[0].lanes.obs.device
        lane = torch.randint(self.length, (num, 1), generator=rng, device=device)
        start = torch.randint(steps, (num, 1), generator=rng, device=device) - before
        time = start + torch.arange(before + after, device=device)
        inside = (time >= 0) & (time < steps)
        window = self._windows(lane, time.clamp(0, steps - 1))
        return window._replace(episode=window.episode.masked_fill(~inside, -1))

    def _windows(self, lane: Int[Tensor, "w 1"], time: Int[Tensor, "w t"]) -> Transitions:
        """The transitions at these places."""
        places, parts = [], []
        for (first, lanes), end in zip(self.blocks, self._ends(), strict=True):
            here = ((lane >= first) & (lane < end)).squeeze(1).nonzero().squeeze(1)
            places.append(here)
            parts.append([x[lane[here] - first, time[here]] for x in lanes])
        order = torch.cat(places).argsort()
        return Transitions(*(torch.cat(column)[order] for column in zip(*parts, strict=True)))

    def _ends(self) -> list[int]:
        """Number of the first lane after each block's own."""
        return [*(block.first for block in self.blocks[1:]), self.length]
