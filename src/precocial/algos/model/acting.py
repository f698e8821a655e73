"""Acting at random, and by planning with a model that adapts."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from precocial.algos.model.adapters import Adapter
from precocial.ops.planning import Plan, PlannerConfig, first_plan, imagined_return, improve, shift
from precocial.types import EnvSpec, Step

WARM = 0.7
"""Correlation of random actions from one step to the next: a robot that only trembles shows
little of how it moves."""


class RandomActor:
    """Acts at random, the same way for a while."""

    def __init__(self, spec: EnvSpec, shape: tuple[int, int], rng: torch.Generator) -> None:
        self.spec, self.rng = spec, rng
        self.noise = self.draw((*shape, spec.action_dim))
        self.acted: dict[str, Tensor] = {}

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal noise."""
        return torch.randn(shape, generator=self.rng, device=self.rng.device)

    def act(self, obs: Tensor, *, explore: bool = True) -> Float[Tensor, "n e a"]:
        """First-order autoregressive noise, clipped to the bounds."""
        action = self.noise.clamp(-1, 1) * self.spec.action_scale
        fresh = self.draw(tuple(self.noise.shape))
        self.noise = WARM * self.noise + math.sqrt(1 - WARM**2) * fresh
        return action

    def observe(self, action: Tensor, step: Step) -> None:
        """It does not look."""


class MPCLearner:
    """Model-predictive control: plan with the adapted model, do the first action, plan again.

    Args:
        adapter: The model, on N*E lanes.
        cfg: The planner's settings.
        spec: With ``reward_fn``.
        shape: Tasks and lanes (N, E).
        rng: Draws candidates.
    """

    plans = True

    def __init__(
        self, adapter: Adapter, cfg: PlannerConfig, spec: EnvSpec, shape: tuple[int, int],
        rng: torch.Generator,
    ) -> None:  # fmt: skip
        self.adapter, self.cfg, self.spec, self.shape, self.rng = adapter, cfg, spec, shape, rng
        self.plan = first_plan(shape[0] * shape[1], spec.action_dim, cfg, rng.device)
        self.obs: Tensor | None = None
        self.acted: dict[str, Tensor] = {}

    @torch.no_grad()
    def act(self, obs: Float[Tensor, "n e o"], *, explore: bool = True) -> Float[Tensor, "n e a"]:
        """The first action of the improved plan; planning is all the exploration there is."""
        assert self.spec.reward_fn is not None
        self.obs = obs.flatten(0, 1)
        score = partial(
            imagined_return, self.adapter.predict, self.spec.reward_fn, self.spec.terminal_fn,
            self.obs,
        )  # fmt: skip
        self.plan = improve(score, self.plan, self.cfg, self.rng)
        return self.plan.mean[:, 0].unflatten(0, self.shape) * self.spec.action_scale

    @torch.no_grad()
    def observe(self, action: Float[Tensor, "n e a"], step: Step) -> None:
        """Adapt to what just happened, at once; where the episode ended, start afresh."""
        assert self.obs is not None, "act comes before observe"
        ended = (step.terminated | step.truncated).flatten()
        done = clipped(action, self.spec).flatten(0, 1)
        self.adapter.observe(self.obs, done, step.next_obs.flatten(0, 1), ended)
        later = shift(self.plan, self.cfg)
        keep = (~ended).to(later.mean).view(-1, 1, 1)
        self.plan = later._replace(mean=later.mean * keep)

    def adapt(self) -> None:
        """Nothing: the model has adapted at every step."""

    def state_dict(self) -> dict[str, Any]:
        """Its model, what it knows of the present, and its plan."""
        return {
            "model": self.adapter.model.state_dict(), "adapter": self.adapter.state_dict(),
            "plan": self.plan._asdict(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the saved learner; without a saved model, with the one that is here."""
        if "model" in state:
            self.adapter.model.load_state_dict(state["model"])
        self.adapter.load_state_dict(state["adapter"])
        self.plan = Plan(**state["plan"])


def clipped(action: Float[Tensor, "*b a"], spec: EnvSpec) -> Float[Tensor, "*b a"]:
    """What the environment makes of a policy's sample, +-1 spanning the bounds."""
    return (action / spec.action_scale).clamp(-1, 1)
