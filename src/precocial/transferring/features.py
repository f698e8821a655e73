"""How much of the returns on a task a network's features tell, before it was trained there.

It tells a network that knows the world from one that does not, and nothing of what its head makes
of it: a source whose actions are all reversed has the same features as the right one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from precocial.algos.plain.shared import Normalisers, PlainMethod
from precocial.nets.baseline import fit
from precocial.nets.mlp import ACTIVATIONS, perceptron
from precocial.ops.params import depth
from precocial.ops.returns import reward_to_go
from precocial.rollout import collect
from precocial.types import TaskEnv, Tasks

EPISODES, STEPS = 32, 128
"""Of the policy whose returns are told."""
RIDGE = 1e-2


def feature_fits(
    members: Mapping[str, Any], env: TaskEnv, tasks: Tasks, actor: Any, rng: torch.Generator
) -> tuple[dict[str, float], int]:
    """R2 of each plain method's features, and the environment steps it took.

    Ridge regression of the discounted returns of ``actor``, an episode on every task, on the last
    hidden layer; fitted on one half of the episodes and scored on the other. Nothing where all
    returns of the other half are equal.
    """
    plain = {name: m for name, m in members.items() if _net(m) is not None}
    if actor not in plain.values():
        return {}, 0
    steps = min(STEPS, env.spec.horizon)
    rollout = collect(env, tasks, actor.learner(tasks.num, 1, rng), 1, steps, rng)
    ended = rollout.terminated | rollout.truncated
    value = reward_to_go(rollout.reward, ended, actor.cfg.gamma)
    found: dict[str, float] = {}
    if value[len(value) // 2 :].unique().numel() > 1:
        found = {name: held_out(features(m, rollout.obs), value) for name, m in plain.items()}
    return found, rollout.reward.numel()


def _net(member: Any) -> str | None:
    """The network whose features are meant: of the policy, or of the values of actions."""
    nets = member.nets if isinstance(member, PlainMethod) else {}
    return next((n for n in ("actor", "q") if "weight_1" in nets.get(n, {})), None)


def features(member: PlainMethod, obs: Shaped[Tensor, "n e t o"]) -> Float[Tensor, "n b f"]:
    """The last hidden layer, and 1."""
    params = member.nets[_net(member) or ""]
    last = depth(params) - 1
    below = {k: p for k, p in params.items() if not k.endswith(f"_{last}")}
    rows = Normalisers([member])(obs.reshape(1, -1, obs.shape[-1])).squeeze(0)
    activation = ACTIVATIONS[member.cfg.activation]
    h = activation(perceptron(below, rows, activation)).unflatten(0, (len(obs), -1))
    return torch.cat([h, torch.ones_like(h[..., :1])], -1)


def held_out(x: Float[Tensor, "n b f"], value: Float[Tensor, "n e t"]) -> float:
    """R2 on the second half of the axis n of a regression on the first."""
    half, y = len(x) // 2, value.flatten(1)
    known, known_y = x[:half].flatten(0, 1), y[:half].flatten()
    everything = torch.ones(1, len(known), dtype=torch.bool, device=x.device)
    weights = fit(known.unsqueeze(0), known_y.unsqueeze(0), everything, RIDGE).squeeze(0)
    rest = y[half:]
    left = (x[half:] @ weights - rest).square().mean()
    return float(1 - left / rest.var(correction=0))
