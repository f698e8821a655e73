"""The last transitions of every task, in lanes that go on: single ones and n-step ones.

A picture is kept once: where a step led to is read from the step that followed it, and kept beside
that only where another picture came next, which is where an episode ended.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from precocial.types import Rollout


class Sample(NamedTuple):
    """B transitions of each of N tasks, of n steps or of as many as their episode has."""

    obs: Shaped[Tensor, "n b o"]
    action: Tensor
    """``(N, B, A)`` or ``(N, B)``."""
    reward: Float[Tensor, "n b"]
    """Discounted sum over the steps."""
    next_obs: Shaped[Tensor, "n b o"]
    """Where the last of the steps led."""
    discount: Float[Tensor, "n b"]
    """Of the value there: gamma to the number of steps, 0 where the MDP ended."""
    weight: Float[Tensor, "n b"]
    """1; 0 for a step on which a simulation diverged, which led nowhere."""


class TaskReplay:
    """One tensor per field, ``(capacity, N, E, ...)``: of N tasks the last steps of E lanes.

    A ring on the time axis. Steps of a lane follow each other in it, however they were added. It
    holds ``spare`` more steps than are sampled from, so that the last ones added can be taken back
    (``shrink``) after they took the place of others.

    Args:
        capacity: Steps of every lane that are sampled from.
        spare: The most steps that are added before they are kept for good.
    """

    def __init__(self, capacity: int, spare: int) -> None:
        self.capacity, self.room = capacity, capacity + spare
        self.fields: dict[str, Tensor] = {}
        self.apart: dict[int, Tensor] = {}
        """By place, the pictures to which a step led that the next one did not begin with."""
        self.total = 0
        """Steps of every lane that were ever added."""

    def __len__(self) -> int:
        """Steps of every lane that were ever added."""
        return self.total

    @property
    def oldest(self) -> int:
        """Number of the first step that is sampled from, also after the last ones are taken back.

        So a folder keeps what an iteration stood on that is undone after it was saved.
        """
        return max(0, self.total - self.room)

    @property
    def start(self) -> int:
        """Number of the first step that is sampled from."""
        return max(0, self.total - self.capacity)

    @property
    def num_transitions(self) -> int:
        """Of each task, to be sampled from."""
        lanes = self.fields["reward"].shape[2] if self.fields else 0
        return lanes * (self.total - self.start)

    def add(self, rollout: Rollout) -> None:
        """The next steps of every lane."""
        columns = {
            "obs": rollout.obs, "action": rollout.action, "reward": rollout.reward,
            "next_obs": rollout.next_obs, "terminated": rollout.terminated,
            "truncated": rollout.truncated, "lost": rollout.diverged,
        }  # fmt: skip
        # (N, E, T, ...) -> (T, N, E, ...)
        self.extend({k: v.movedim(2, 0) for k, v in columns.items()})

    def cut(self) -> None:
        """The lanes begin anew: what is added next does not follow what was added last."""
        if self.total:
            at = (self.total - 1) % self.room
            ended = self.fields["terminated"][at] | self.fields["truncated"][at]
            self.fields["truncated"][at] |= ~ended

    def extend(self, rows: dict[str, Tensor]) -> None:
        """Append steps, each field ``(T, N, E, ...)``."""
        dropped = len(rows["reward"]) - self.room
        if dropped > 0:
            self.total += dropped
            rows = {k: x[dropped:] for k, x in rows.items()}
        num, once = len(rows["reward"]), rows["obs"].dtype == torch.uint8
        for k, x in rows.items():
            if k not in self.fields and not (once and k == "next_obs"):
                self.fields[k] = x.new_zeros(self.room, *x.shape[1:])
        led = rows["next_obs"]
        if once and self.total and num < self.room:  # what follows the last step is known now
            led = torch.cat([self.at("next_obs", self.steps(self.total - 1, self.total)), led])
        at = torch.arange(self.total, self.total + num, device=led.device) % self.room
        for k, kept in self.fields.items():
            kept[at] = rows[k]
        self.total += num
        if once:
            self._keep_apart(led)

    def _keep_apart(self, led: Shaped[Tensor, "t n e o"]) -> None:
        """What the last T steps led to, where no step of theirs began with it."""
        places = self.steps(self.total - len(led), self.total)
        for place in places.flatten().tolist():
            self.apart.pop(place, None)
        for k, here in enumerate(places):  # one step at a time: copies are large
            other = torch.ones_like(here, dtype=torch.bool)
            if k + 1 < len(led):
                other = (led[k] != self.at("obs", places[k + 1])).any(-1)
            for place, picture in zip(here[other].tolist(), led[k][other], strict=True):
                self.apart[place] = picture.clone()

    def steps(self, first: int, end: int) -> Int[Tensor, "t n e"]:
        """The places of these steps."""
        reward = self.fields["reward"]
        cells = torch.arange(reward[0].numel(), device=reward.device).view(reward.shape[1:])
        return self.places(torch.arange(first, end, device=reward.device).view(-1, 1, 1), cells)

    def places(self, step: Tensor, cell: Tensor) -> Tensor:
        """Time in the ring, task and lane as one number; ``cell`` counts the lanes of all tasks."""
        return step % self.room * self.fields["reward"][0].numel() + cell

    def at(self, name: str, places: Int[Tensor, "*b"]) -> Tensor:
        """A field of the steps at these places."""
        flat = places.flatten()
        if name in self.fields:
            return self.fields[name].flatten(0, 2).index_select(0, flat).unflatten(0, places.shape)
        obs = self.fields["obs"].flatten(0, 2)
        found = obs.index_select(0, (flat + self.fields["reward"][0].numel()) % len(obs))
        for i, place in enumerate(flat.tolist()):
            if place in self.apart:
                found[i] = self.apart[place]
        return found.unflatten(0, places.shape)

    def rows(self, start: int) -> dict[str, Tensor]:
        """Steps from number ``start`` on that are still here, fields by name."""
        if not self.fields:
            return {}
        places = self.steps(max(start, self.total - self.room), self.total)
        return {k: self.at(k, places) for k in dict.fromkeys([*self.fields, "next_obs"])}

    def shrink(self, length: int) -> None:
        """Forget the last steps but for the first ``length``."""
        self.total = min(length, self.total)

    def skip(self, length: int) -> None:
        """Take ``length`` steps as added that are not here any more; before anything is added."""
        self.total = length

    def sample(self, num: int, gamma: float, rng: torch.Generator, steps: int = 1) -> Sample:
        """``num`` transitions of each task, drawn uniformly with replacement.

        Rewards of up to ``steps`` steps are summed, fewer where the episode or what is known of it
        ends sooner; then the value is bootstrapped from there.
        """
        reward = self.fields["reward"]
        tasks, lanes = reward.shape[1:3]
        draw = torch.randint(
            self.num_transitions, (tasks, num), generator=rng, device=reward.device
        )
        time = self.start + draw // lanes
        cell = torch.arange(tasks, device=reward.device).unsqueeze(1) * lanes + draw % lanes

        def at(name: str, when: Tensor) -> Tensor:
            return self.at(name, self.places(when, cell))

        total, factor = torch.zeros_like(draw, dtype=reward.dtype), 1.0
        alive = torch.ones_like(draw, dtype=torch.bool)
        last, weight = time, ~at("lost", time)
        for k in range(steps):
            when = time + k
            alive = alive & (when < self.total)
            if k:
                alive = alive & ~at("lost", when)
            now = torch.where(alive, when, last)
            total = total + factor * at("reward", now) * alive
            last, factor = now, factor * gamma
            alive = alive & ~(at("terminated", now) | at("truncated", now))
        discount = gamma ** (last - time + 1) * (~at("terminated", last))
        return Sample(
            at("obs", time), at("action", time), total, at("next_obs", last), discount.to(total),
            weight.to(total),
        )  # fmt: skip
