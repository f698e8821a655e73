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


class Replay:
    """Lanes of T steps, as they were collected; states and actions are kept as they came."""

    def __init__(self) -> None:
        self.data: Transitions | None = None

    def __len__(self) -> int:
        """Number of transitions."""
        return 0 if self.data is None else self.data.episode.numel()

    def add(self, rollout: Rollout, action: Float[Tensor, "n e t a"]) -> None:
        """Keep a rollout; ``action`` is what the environment made of the policy's samples.

        Steps on which a simulation diverged led nowhere, and belong to no episode.
        """
        episode = episode_index(rollout.terminated | rollout.truncated)
        if "info/diverged" in rollout.extra:
            episode = episode.masked_fill(rollout.extra["info/diverged"].bool(), -1)
        lanes = (rollout.obs, action, rollout.next_obs, episode)
        new = Transitions(*(x.flatten(0, 1) for x in lanes))
        if self.data is not None:
            new = Transitions(*map(torch.cat, zip(self.data, new, strict=True)))
        self.data = new

    def sample(self, num: int, before: int, after: int, rng: torch.Generator) -> Transitions:
        """``num`` windows of ``before + after`` transitions around moments drawn uniformly.

        Windows reach beyond the first and the last step of the data; there ``episode`` is -1.
        """
        assert self.data is not None, "add comes before sample"
        lanes, steps = self.data.episode.shape
        device = self.data.obs.device
        lane = torch.randint(lanes, (num, 1), generator=rng, device=device)
        start = torch.randint(steps, (num, 1), generator=rng, device=device) - before
        time = start + torch.arange(before + after, device=device)
        inside = (time >= 0) & (time < steps)
        window = Transitions(*(x[lane, time.clamp(0, steps - 1)] for x in self.data))
        return window._replace(episode=window.episode.masked_fill(~inside, -1))

    def state_dict(self) -> dict[str, Tensor]:
        """All of it."""
        return {} if self.data is None else self.data._asdict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse."""
        self.data = Transitions(**state) if state else None
