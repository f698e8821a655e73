"""Networks of Stable-Baselines3 by the names and in the shapes of those here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from precocial.bridges.sb3 import SB3Policy, is_image, numbered
from precocial.errors import UserError
from precocial.ops.params import depth
from precocial.types import Params


def networks_of(policy: SB3Policy) -> dict[str, Params]:
    """What a run can begin from: ``actor``, ``critic``, ``q``, ``q_twin``, as far as there are.

    Means of actions in a box are brought from the environment's units to the policy's, in which
    +-1 spans the bounds; those of SAC, TD3 and DDPG are of before they are squashed, as here. Of
    SAC's deviations nothing is taken (another function of the last layer), nor of gSDE's.

    Raises:
        UserError: it reads pictures, whose convolutions are others than those here, or has an
            activation that layers here do not have.
    """
    space = policy.observation_space
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    if any(map(is_image, parts)):
        raise UserError(
            f"{policy.place} reads pictures by NatureCNN, which no network here has; it can be "
            "evaluated, not begun from"
        )
    if policy.activation not in ("Tanh", "ReLU"):
        raise UserError(
            f"{policy.place} has the activation {policy.activation}; networks here have tanh or "
            "relu, so none can begin from it"
        )
    params, nets = policy.params, {}
    match policy.kind:
        case "PPO or A2C":
            actor = layers(params, "mlp_extractor.policy_net", "action_net")
            if isinstance(policy.action_space, spaces.Box):
                actor = in_policy_units(actor, params.get("log_std"), policy.action_space)
            critic = layers(params, "mlp_extractor.value_net", "value_net")
            nets = {"actor": actor, "critic": critic}
        case "DQN":
            nets = {"q": layers(params, "q_net.q_net")}
        case _:
            head = "actor.mu.0" if "actor.mu.0.weight" in params else "actor.mu"
            sac = policy.kind == "SAC"
            actor = layers(params, "actor.latent_pi", head) if sac else layers(params, "actor.mu")
            nets = {"actor": with_deviations(actor)}
            for ours, theirs in (("q", "critic.qf0"), ("q_twin", "critic.qf1")):
                if f"{theirs}.0.weight" in params:
                    nets[ours] = layers(params, theirs)
    size = len(next(iter(nets.values()))["weight_0"])
    nets["normaliser"] = {
        "mean": torch.zeros(size), "var": torch.ones(size), "count": torch.zeros(()),
    }  # fmt: skip
    stats = policy.normaliser
    if stats is not None:
        keys = {k: spaces.flatdim(s) for k, s in space.spaces.items()} if isinstance(
            space, spaces.Dict
        ) else {"": size}  # fmt: skip
        nets["normaliser"] = {  # some parts of a Dict may be left as they are
            name: torch.from_numpy(
                np.concatenate([each[k].ravel() if k in each else np.full(n, other)
                                for k, n in keys.items()])
            ).float()
            for name, each, other in (("mean", stats.mean, 0.0), ("var", stats.var, 1.0))
        } | {"count": torch.tensor(stats.seen)}  # fmt: skip
    return nets


def layers(params: Mapping[str, Tensor], body: str, head: str = "") -> Params:
    """A perceptron from the layers of a sequence and perhaps a last one."""
    names = [f"{body}.{i}" for i in numbered(params, body)] + [head] * bool(head)
    found = {}
    for i, name in enumerate(names):
        weight, bias = params.get(f"{name}.weight"), params.get(f"{name}.bias")
        if weight is None or weight.ndim != 2:
            raise UserError(f"{name}.weight is missing or no matrix; expected a layer")
        found[f"weight_{i}"] = weight.T.contiguous()
        found[f"bias_{i}"] = torch.zeros(len(weight)) if bias is None else bias.clone()
    return found


def in_policy_units(actor: Params, log_std: Tensor | None, space: spaces.Box) -> Params:
    """A Gaussian policy whose +-1 spans the bounds of the actions."""
    low, high = (torch.from_numpy(x.ravel().copy()).float() for x in (space.low, space.high))
    if not bool(torch.isfinite(high - low).all()):
        raise UserError(f"its actions {space} have no bounds, which policies here need")
    scale, last = 2 / (high - low), depth(actor) - 1
    actor[f"weight_{last}"] = actor[f"weight_{last}"] * scale
    actor[f"bias_{last}"] = (actor[f"bias_{last}"] - low) * scale - 1
    if log_std is not None and log_std.ndim == 1:
        actor["log_std"] = log_std + scale.log()
    return actor


def with_deviations(actor: Params) -> Params:
    """A last layer that gives deviations, too: the same of every action, whatever is seen."""
    last = depth(actor) - 1
    for name in (f"weight_{last}", f"bias_{last}"):
        actor[name] = torch.cat([actor[name], torch.zeros_like(actor[name])], -1)
    return actor
