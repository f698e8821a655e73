"""The registered algorithms and their variants.

Named by import strings, so that listing them loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

    from precocial.types import Algorithm, EnvSpec

BRANCHES = {
    "plain": "plain, blind to the task", "gradient": "gradient-based", "memory": "memory-based",
    "inference": "task inference, off-policy", "model": "model-based",
}  # fmt: skip
"""The folders of this package, in the field's words."""


class Entry(NamedTuple):
    """A registered algorithm or variant."""

    place: str
    """``branch.module:Class`` below this package; its settings are ``ClassConfig`` beside it."""
    summary: str
    paper: str
    settings: Mapping[str, Any] = MappingProxyType({})
    """What tells a variant from the class's defaults."""
    sees_task: bool = False
    """The task's numbers are appended to the observation."""
    trains: bool = True
    """False for references that are evaluated untrained."""
    action: str = "box, discrete"
    """Kinds of actions that it can have."""
    lender: str = ""
    """Whose presets it borrows where it has none of its own; empty: its branch's."""

    @property
    def branch(self) -> str:
        """Its folder, a key of ``BRANCHES``."""
        return self.place.partition(".")[0]

    @property
    def config(self) -> Any:
        """Its default settings."""
        return default_config(self.place, self.settings)


_JOINT = {"inner_steps": 0, "num_tasks": 80}
"""As many episodes per iteration as MAML with one inner step, so that budgets are equal."""
_JOINT_Q = {"inner_steps": 0, "num_tasks": 80, "learn_lr": False}
"""The same beside ``q-maml`` with three."""

ALGOS: dict[str, Entry] = {
    "ppo": Entry(
        "plain.ppo:PPO", "proximal policy optimisation", "Schulman et al. 2017"
    ),
    "dqn": Entry(
        "plain.dqn:DQN", "deep Q-learning, double", "Mnih et al. 2015", action="discrete"
    ),
    "sac": Entry(
        "plain.sac:SAC", "soft actor-critic, automatic temperature", "Haarnoja et al. 2018"
    ),
    "q-learning": Entry(
        "plain.q_learning:QLearning", "a table of values, one-hot observations",
        "Watkins, Dayan 1992", action="discrete",
    ),
    "sb3": Entry(
        "plain.sb3:SB3", "a policy of Stable-Baselines3, from precocial import",
        "Raffin et al. 2021", trains=False,
    ),
    "maml": Entry(
        "gradient.maml:MAML", "exact second-order meta-gradient, TRPO", "Finn et al. 2017"
    ),
    "fomaml": Entry(
        "gradient.maml:MAML", "MAML without the second derivative", "Finn et al. 2017",
        {"first_order": True},
    ),
    "meta-sgd": Entry(
        "gradient.maml:MAML", "MAML with a learned inner rate for each parameter",
        "Li et al. 2017", {"learn_lr": True},
    ),
    "cavia": Entry(
        "gradient.maml:MAML", "MAML that adapts a few context numbers alone",
        "Zintgraf et al. 2019", {"adapt": "context", "inner_lr": 1.0},
    ),
    "e-maml": Entry(
        "gradient.e_maml:EMAML", "MAML with credit for what it collects before adapting",
        "Stadie et al. 2018",
    ),
    "promp": Entry(
        "gradient.promp:ProMP", "proximal meta-policy search", "Rothfuss et al. 2019"
    ),
    "gaussian-maml": Entry(
        "gradient.gaussian_maml:GaussianMAML", "a Gaussian over parameters, a draw an episode",
        "Finn et al. 2018",
    ),
    "reptile": Entry(
        "gradient.reptile:Reptile", "interpolate towards adapted parameters", "Nichol et al. 2018"
    ),
    "multi-task": Entry(
        "gradient.maml:MAML", "joint training blind to the task, then fine-tuning", "reference",
        _JOINT,
    ),
    "oracle": Entry(
        "gradient.maml:MAML", "joint training with the task in the observation", "reference",
        _JOINT, sees_task=True,
    ),
    "scratch": Entry(
        "gradient.maml:MAML", "an untrained policy, adapted", "reference", {"inner_steps": 0},
        trains=False,
    ),
    "q-maml": Entry(
        "gradient.q_maml:QMAML", "MAML over a Q-network, learned rates", "Finn et al. 2017",
        action="discrete", lender="q-maml",
    ),
    "q-fomaml": Entry(
        "gradient.q_maml:QMAML", "q-maml without the second derivative", "Finn et al. 2017",
        {"first_order": True}, action="discrete", lender="q-maml",
    ),
    "q-reptile": Entry(
        "gradient.q_reptile:QReptile", "interpolate towards adapted values", "Nichol et al. 2018",
        action="discrete", lender="q-maml",
    ),
    "q-multi-task": Entry(
        "gradient.q_maml:QMAML", "joint Q-learning blind to the task, then fine-tuning",
        "reference", _JOINT_Q, action="discrete", lender="q-maml",
    ),
    "q-scratch": Entry(
        "gradient.q_maml:QMAML", "an untrained Q-network, adapted", "reference", _JOINT_Q,
        trains=False, action="discrete", lender="q-maml",
    ),
    "rl2": Entry(
        "memory.rl2:RL2", "learn inside a memory, PPO over trials", "Duan et al. 2016"
    ),
    "varibad": Entry(
        "memory.varibad:VariBAD", "act under an inferred belief over tasks",
        "Zintgraf et al. 2020",
    ),
    "belief-oracle": Entry(
        "memory.belief_oracle:BeliefOracle", "PPO on the family's exact posterior", "reference"
    ),
    "domain-randomization": Entry(
        "memory.rl2:RL2", "rl2 with its memory cleared at every episode", "reference",
        {"forget": True},
    ),
    "pearl": Entry(
        "inference.pearl:PEARL", "infer the task, draw a guess, act on it; SAC",
        "Rakelly et al. 2019",
    ),
    "grbal": Entry(
        "model.grbal:GrBAL", "a model that takes a gradient step at every time step, MPC",
        "Nagabandi et al. 2019", action="box",
    ),
    "rebal": Entry(
        "model.rebal:ReBAL", "a model with a memory, MPC", "Nagabandi et al. 2019", action="box"
    ),
    "grebal": Entry(
        "model.rebal:GrEBAL", "a memory, and a gradient step of the model's read-out, MPC",
        "this package", action="box",
    ),
    "mb-mpc": Entry(
        "model.mb_mpc:MBMPC", "one global model that never adapts, MPC", "reference", action="box"
    ),
    "mb-de": Entry(
        "model.mb_mpc:MBDE", "mb-mpc, trained on at test time (dynamic evaluation)", "reference",
        action="box",
    ),
}  # fmt: skip


def default_config(place: str, settings: Mapping[str, Any]) -> Any:
    """The settings of the class at ``place``, its defaults but for ``settings``."""
    module, name = place.split(":")
    return getattr(import_module(f"{__name__}.{module}"), f"{name}Config")(**settings)


def class_of(config: Any) -> Any:
    """The class that runs these settings: ``Class`` beside ``ClassConfig``."""
    module = import_module(type(config).__module__)
    return getattr(module, type(config).__name__.removesuffix("Config"))


def build(config: Any, spec: EnvSpec, rng: torch.Generator, device: str = "cpu") -> Algorithm:
    """The algorithm that a config describes."""
    algorithm: Algorithm = class_of(config)(config, spec, rng, device)
    return algorithm
