"""A policy as a zip that Stable-Baselines3 loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from torch import Tensor

from precocial.algos.gradient.shared import PolicyMethod
from precocial.algos.plain.dqn import DQN as OurDQN
from precocial.algos.plain.sac import SAC as OurSAC
from precocial.algos.plain.sac import log_stds
from precocial.bridges.sb3 import is_image
from precocial.envs import ENVS
from precocial.envs.own.adapter import GymTaskEnv
from precocial.envs.single import TaskGymEnv
from precocial.exporting.policy import Source, of_observations, stateless
from precocial.ops.params import depth
from precocial.types import Params, UserError


class Spaces(gymnasium.Env):
    """Has spaces, and nothing happens in it."""

    def __init__(self, observation: spaces.Space, action: spaces.Space) -> None:
        self.observation_space, self.action_space = observation, action

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Some observation."""
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Some other."""
        return self.observation_space.sample(), 0.0, False, False, {}


def spaces_of(source: Source) -> Spaces:
    """Spaces of the environment that the run was trained on, as Gymnasium knows it."""
    env, name = source.trained.env, source.trained.plan.env
    if isinstance(env, GymTaskEnv):
        return Spaces(env.observation_space, env.action_space)
    if name in gymnasium.registry:
        theirs = gymnasium.make(name)
        if spaces.flatdim(theirs.observation_space) == source.spec.obs_dim:
            return Spaces(theirs.observation_space, theirs.action_space)
    assert name in ENVS
    one = TaskGymEnv(name)
    return Spaces(spaces.Box(-np.inf, np.inf, (source.spec.obs_dim,), np.float32), one.action_space)


def require_known(space: spaces.Space, what: str, *, whole: bool = True) -> None:
    """Refuse a space that SB3 does not take, or reads otherwise than networks here.

    Raises:
        UserError: it is one, in one line.
    """
    if whole and isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            require_known(part, f"{what} {key!r}", whole=False)
        return
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete
                      | spaces.MultiBinary):  # fmt: skip
        raise UserError(f"{what}: SB3 takes no {space}; export to onnx or safetensors")
    if np.any(getattr(space, "start", 0)):
        raise UserError(f"{what}: SB3 counts from 0, {space} does not; export to onnx")
    if is_image(space):
        raise UserError(f"{what}: SB3 takes {space} for a picture and scales it; export to onnx")


def write(source: Source, out: Path) -> None:
    """Write the zip.

    A normaliser becomes part of the first layer, without its bound of ten deviations; a context,
    of the first bias. SAC's deviations are others in SB3: only best actions are alike.

    Raises:
        UserError: SB3 has no policy of this form.
    """
    stateless(source)  # refuses what has none
    algorithm, cfg, env = source.algorithm, source.config, spaces_of(source)
    if source.spec.picture:
        raise UserError(
            "networks here read pictures by other convolutions than SB3's; export to onnx"
        )
    require_known(env.observation_space, "observations")
    require_known(env.action_space, "actions")
    if getattr(cfg, "dueling", False):
        raise UserError("SB3 has no dueling DQN; export to onnx or safetensors")
    nets = {k: dict(v) for k, v in algorithm.networks().items()}
    normaliser = nets.pop("normaliser", None)
    if isinstance(algorithm, PolicyMethod):
        nets[algorithm.network] = of_observations(source)
    for net in ("actor", "critic", "q", "q_twin"):
        if net in nets:
            nets[net] = merged(nets[net], source, normaliser)
    kwargs: dict[str, Any] = {
        "activation_fn": torch.nn.Tanh if cfg.activation == "tanh" else torch.nn.ReLU
    }
    hidden = list(cfg.hidden)
    by_value = isinstance(algorithm, OurDQN) or getattr(algorithm, "network", "") == "q"
    found: dict[str, Tensor] = {}
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    if by_value:
        model: Any = DQN(policy, env, policy_kwargs=kwargs | {"net_arch": hidden},
                         buffer_size=1, device="cpu")  # fmt: skip
        for target in ("q_net", "q_net_target"):
            found |= sequence(nets["q"], f"{target}.q_net")
    elif isinstance(algorithm, OurSAC) and source.spec.action_kind == "box":
        model = SAC(policy, env, policy_kwargs=kwargs | {"net_arch": hidden}, buffer_size=1,
                    device="cpu")  # fmt: skip
        found = sac_tensors(nets)
    else:
        net_arch = {"pi": hidden, "vf": hidden}
        model = PPO(policy, env, policy_kwargs=kwargs | {"net_arch": net_arch}, device="cpu")
        actor = in_env_units(nets["actor"], env.action_space)
        found = sequence(actor, "mlp_extractor.policy_net", "action_net")
        if "critic" in nets:
            found |= sequence(nets["critic"], "mlp_extractor.value_net", "value_net")
        if "log_std" in actor:
            found["log_std"] = actor["log_std"]
    own = model.policy.state_dict()
    model.policy.load_state_dict(own | found)
    with out.open("wb") as file:  # of a path without a suffix SB3 would make another
        model.save(file)


def merged(params: Params, source: Source, normaliser: Params | None) -> Params:
    """A network that reads observations as they are: the normaliser in its first layer."""
    params = {k: p.detach().clone() for k, p in params.items()}
    size, weight = source.spec.obs_dim, params["weight_0"]
    if getattr(source.config, "normalize_obs", False) and normaliser is not None:
        scale = torch.ones(len(weight))
        shift = torch.zeros(len(weight))
        scale[:size] = (normaliser["var"] + 1e-8).rsqrt()
        shift[:size] = normaliser["mean"]
        weight = weight * scale.unsqueeze(1)
        params["bias_0"] = params["bias_0"] - shift @ weight
    return params | {"weight_0": weight}


def sequence(params: Params, body: str, head: str = "") -> dict[str, Tensor]:
    """Layers ``body.0``, ``body.2``, ..., the last one as ``head`` where it has a name."""
    last = depth(params) - 1
    found = {}
    for i in range(last + 1):
        name = head if head and i == last else f"{body}.{2 * i}"
        found[f"{name}.weight"] = params[f"weight_{i}"].T.contiguous()
        found[f"{name}.bias"] = params[f"bias_{i}"]
    return found


def in_env_units(actor: Params, space: spaces.Space) -> Params:
    """A Gaussian policy whose means are actions of the environment; others as they are."""
    if not isinstance(space, spaces.Box):
        return actor
    low, high = (torch.from_numpy(x.ravel().copy()).float() for x in (space.low, space.high))
    scale, last = (high - low) / 2, depth(actor) - 1
    return actor | {
        f"weight_{last}": actor[f"weight_{last}"] * scale,
        f"bias_{last}": (actor[f"bias_{last}"] + 1) * scale + low,
        "log_std": actor["log_std"] + scale.log(),
    }


def sac_tensors(nets: dict[str, Params]) -> dict[str, Tensor]:
    """Of SAC: the policy's mean, both critics, and deviations as they are where nothing is seen."""
    actor = nets["actor"]
    last = depth(actor) - 1
    mean = {k: p.chunk(2, -1)[0] if k.endswith(f"_{last}") else p for k, p in actor.items()}
    found = sequence(mean, "actor.latent_pi", "actor.mu")
    found["actor.log_std.weight"] = torch.zeros_like(found["actor.mu.weight"])
    found["actor.log_std.bias"] = log_stds(actor[f"bias_{last}"].chunk(2)[1])
    for ours, theirs in (("q", "qf0"), ("q_twin", "qf1")):
        for critic in ("critic", "critic_target"):
            found |= sequence(nets[ours], f"{critic}.{theirs}")
    return found
