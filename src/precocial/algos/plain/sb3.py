"""A policy of Stable-Baselines3, to be evaluated, watched, and begun from.

Raffin et al. 2021, https://jmlr.org/papers/v22/20-1364.html. ``precocial import`` makes its run
folder; it is not trained here, another run begins from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Shaped
from torch import Tensor

from precocial.bridges.networks import networks_of
from precocial.bridges.sb3 import (
    SUCCESSORS,
    Normaliser,
    SB3Policy,
    channels_first,
    is_image,
)
from precocial.nets.pictures import is_bytes, numbers_of, pixels_of
from precocial.types import EnvSpec, Metrics, Params, Step, TaskEnv, Tasks, UserError


@dataclass(frozen=True)
class SB3Config:
    """What a policy of SB3 is."""

    file: str = ""
    """The zip that it was imported from."""
    trained_by: str = ""
    """SB3's algorithm, as far as its networks tell."""
    activation: str = "tanh"
    """Between its layers."""
    lanes: int = 10
    """Parallel episodes on a task that it is scored by."""


class SB3:
    """Acts by a policy that was trained elsewhere."""

    stage_unit: Literal["update", "episode"] = "episode"
    num_stages = 1
    is_trial = True
    greedy = True
    progress = 0.0
    policy: SB3Policy

    def __init__(
        self, cfg: SB3Config, spec: EnvSpec, rng: torch.Generator, device: str = "cpu"
    ) -> None:
        if not cfg.file:
            raise UserError(
                "sb3 is for policies that were trained elsewhere; make its run folder with "
                f"precocial import FILE.zip --env {spec.name}"
            )
        self.cfg, self.spec = cfg, spec

    def take(self, policy: SB3Policy) -> None:
        """Act by it.

        Raises:
            UserError: it sees or does something else than the family.
        """
        require_fit(policy, self.spec)
        self.policy = policy

    def meta_update(self, env: TaskEnv, tasks: Tasks, rng: torch.Generator) -> Metrics:
        """It is not trained."""
        raise UserError("an imported policy is not trained here; see precocial transfer")

    def learner(self, num_tasks: int, lanes: int, rng: torch.Generator) -> SB3Learner:
        """Acts, and learns nothing."""
        return SB3Learner(self.policy, self.spec, rng)

    def test_lrs(self, num_updates: int) -> list[float]:
        """Nothing is updated."""
        return []

    @property
    def successor(self) -> str:
        """The algorithm here that a run from it is trained by, unless another is named."""
        return SUCCESSORS[self.policy.kind]

    def networks(self) -> dict[str, Params]:
        """See ``Transferable``."""
        return networks_of(self.policy)

    def begin_with(self, networks: dict[str, Params]) -> None:
        """It is not trained."""
        raise UserError("an imported policy cannot begin from another")

    def state_dict(self) -> dict[str, Any]:
        """The zip's tensors, and what its settings say of spaces and layers."""
        stats, own = self.policy.normaliser, None
        if stats is not None:
            arrays = {"mean": stats.mean, "var": stats.var}
            own = {
                name: {k: torch.from_numpy(v) for k, v in each.items()}
                for name, each in arrays.items()
            } | {"count": stats.seen, "clip": stats.clip, "epsilon": stats.epsilon}  # fmt: skip
        return {"data": self.policy.data, "params": self.policy.params, "normaliser": own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        own, stats = state["normaliser"], None
        if own is not None:
            mean, var = ({k: v.numpy() for k, v in own[n].items()} for n in ("mean", "var"))
            stats = Normaliser(mean, var, own["count"], own["clip"], own["epsilon"])
        self.take(SB3Policy(state["data"], state["params"], stats, self.cfg.file))


class SB3Learner:
    """Acts by a policy; ``rng`` draws where it explores."""

    def __init__(self, policy: SB3Policy, spec: EnvSpec, rng: torch.Generator) -> None:
        self.policy, self.spec, self.rng = policy, spec, rng
        self.acted: dict[str, Tensor] = {}

    @torch.no_grad()
    def act(self, obs: Shaped[Tensor, "n e o"], *, explore: bool = True) -> Tensor:
        """Actions in policy units."""
        x = seen(self.policy, obs.flatten(0, 1).cpu(), self.spec)
        drawn = self.policy.actions(x, deterministic=not explore, rng=self.rng)
        actions = torch.from_numpy(np.ascontiguousarray(drawn)).unflatten(0, obs.shape[:2])
        if self.spec.action_kind == "discrete":
            return actions.long()
        low, high = (torch.tensor(x) for x in (self.spec.action_low, self.spec.action_high))
        unit = (actions.flatten(2) - low) / (high - low) * 2 - 1
        return (unit * self.spec.action_scale).float()

    def observe(self, action: Tensor, step: Step) -> None:
        """It learns nothing."""

    def adapt(self) -> None:
        """It learns nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing but the policy, which the run folder has."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


def seen(policy: SB3Policy, rows: Shaped[Tensor, "b o"], spec: EnvSpec) -> Any:
    """Rows of a family as the policy's network takes them."""
    space, numbers, pixels = policy.observation_space, rows, None
    if is_bytes(rows):
        assert spec.picture is not None
        numbers = numbers_of(rows, spec.picture)
        pixels = pixels_of(rows, spec.picture).numpy()
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    found, at, channel = {}, 0, 0
    for key, part in parts.items():
        if is_image(part):
            assert pixels is not None
            shape = tuple(part.shape or ())
            depth = min(shape)
            image = channels_first(pixels[..., channel : channel + depth], shape)
            found[key] = policy.prepared(part, image, key)
            channel += depth
            continue
        size = spaces.flatdim(part)
        own, at = numbers[:, at : at + size], at + size
        if isinstance(part, spaces.Box):  # of others the family has one-hots already
            shaped = own.reshape(-1, *part.shape).numpy()
            own = policy.prepared(part, shaped.astype(part.dtype), key)
        found[key] = own
    return found if isinstance(space, spaces.Dict) else found[""]


def require_fit(policy: SB3Policy, spec: EnvSpec) -> None:
    """Refuse a family that shows or takes something else.

    Raises:
        UserError: another observation or action.
    """
    space, action = policy.observation_space, policy.action_space
    parts: Sequence[spaces.Space] = (
        list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
    )
    images = [p for p in parts if is_image(p)]
    numbers = sum(spaces.flatdim(p) for p in parts if not is_image(p))
    own = spec.picture
    fits = numbers == (own.numbers if own else spec.obs_dim) and bool(images) == bool(own)
    if own and images:
        shapes = [sorted(p.shape or ()) for p in images]
        sides = {side for shape in shapes for side in shape[1:]}
        fits = fits and sides == {own.side} and own.channels == sum(s[0] for s in shapes)
    if not fits:
        shown = f"pictures {own.shape} and {own.numbers} numbers" if own else f"{spec.obs_dim} "
        raise UserError(
            f"{policy.place} observes {space}; {spec.name} shows {shown.strip()}"
            f"{'' if own else ' numbers'}"
        )
    if isinstance(action, spaces.Discrete):
        same = spec.action_kind == "discrete" and int(action.n) == spec.action_dim
    else:
        same = (
            isinstance(action, spaces.Box) and spec.action_kind == "box"
            and np.allclose(action.low.ravel(), spec.action_low)
            and np.allclose(action.high.ravel(), spec.action_high)
        )  # fmt: skip
    if not same:
        bounds = f" between {spec.action_low} and {spec.action_high}" * (spec.action_kind == "box")
        raise UserError(
            f"{policy.place} acts in {action}; {spec.name} has {spec.action_dim} "
            f"{spec.action_kind} {'actions' if not bounds else 'components'}{bounds}"
        )
