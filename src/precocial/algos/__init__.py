"""The registered algorithms and their variants."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from precocial.algos.gradient.maml import MAML, MAMLConfig
from precocial.algos.gradient.online_maml import OnlineMAML, OnlineMAMLConfig
from precocial.algos.gradient.promp import ProMP, ProMPConfig
from precocial.algos.gradient.reptile import Reptile, ReptileConfig
from precocial.algos.memory.belief_oracle import BeliefOracle, BeliefOracleConfig
from precocial.algos.memory.rl2 import RL2, RL2Config
from precocial.algos.memory.varibad import VariBAD, VariBADConfig
from precocial.algos.model.grbal import GrBAL, GrBALConfig
from precocial.algos.model.mb_mpc import MBDE, MBMPC, MBDEConfig, MBMPCConfig
from precocial.algos.model.rebal import GrEBALConfig, ReBAL, ReBALConfig
from precocial.types import Algorithm, EnvSpec


class Entry(NamedTuple):
    """A registered algorithm or variant."""

    config: Any
    """Its default settings; their type says which class runs."""
    summary: str
    paper: str
    sees_task: bool = False
    """The task's numbers are appended to the observation."""
    trains: bool = True
    """False for references that are evaluated untrained."""
    action: str = "box, discrete"
    """Kinds of actions that it can have."""


CLASSES: dict[type, Any] = {
    MAMLConfig: MAML,
    OnlineMAMLConfig: OnlineMAML,
    ProMPConfig: ProMP,
    ReptileConfig: Reptile,
    RL2Config: RL2,
    VariBADConfig: VariBAD,
    BeliefOracleConfig: BeliefOracle,
    GrBALConfig: GrBAL,
    ReBALConfig: ReBAL,
    GrEBALConfig: ReBAL,
    MBMPCConfig: MBMPC,
    MBDEConfig: MBDE,
}

_JOINT = MAMLConfig(inner_steps=0, num_tasks=80)
"""As many episodes per iteration as MAML with one inner step, so that budgets are equal."""

ALGOS: dict[str, Entry] = {
    "maml": Entry(MAMLConfig(), "exact second-order meta-gradient, TRPO", "Finn et al. 2017"),
    "fomaml": Entry(
        MAMLConfig(first_order=True), "MAML without the second derivative", "Finn et al. 2017"
    ),
    "promp": Entry(ProMPConfig(), "proximal meta-policy search", "Rothfuss et al. 2019"),
    "reptile": Entry(
        ReptileConfig(), "interpolate towards adapted parameters", "Nichol et al. 2018"
    ),
    "rl2": Entry(RL2Config(), "learn inside a memory, PPO over trials", "Duan et al. 2016"),
    "varibad": Entry(
        VariBADConfig(), "act under an inferred belief over tasks", "Zintgraf et al. 2020"
    ),
    "belief-oracle": Entry(
        BeliefOracleConfig(), "PPO on the family's exact posterior", "reference"
    ),
    "domain-randomization": Entry(
        RL2Config(forget=True), "the same with its memory cleared at every episode", "reference"
    ),
    "grbal": Entry(
        GrBALConfig(),
        "a model that takes a gradient step at every time step, MPC",
        "Nagabandi et al. 2019",
        action="box",
    ),
    "rebal": Entry(
        ReBALConfig(), "a model with a memory, MPC", "Nagabandi et al. 2019", action="box"
    ),
    "grebal": Entry(
        GrEBALConfig(),
        "a memory, and a gradient step of the model's read-out, MPC",
        "this package",
        action="box",
    ),
    "mb-mpc": Entry(
        MBMPCConfig(), "one global model that never adapts, MPC", "reference", action="box"
    ),
    "mb-de": Entry(
        MBDEConfig(),
        "the same, trained on at test time (dynamic evaluation)",
        "reference",
        action="box",
    ),
    "multi-task": Entry(_JOINT, "joint training blind to the task, then fine-tuning", "reference"),
    "oracle": Entry(
        _JOINT, "joint training with the task in the observation", "reference", sees_task=True
    ),
    "scratch": Entry(
        MAMLConfig(inner_steps=0), "an untrained policy, adapted", "reference", trains=False
    ),
}


def build(config: Any, spec: EnvSpec, rng: torch.Generator, device: str = "cpu") -> Algorithm:
    """The algorithm that a config describes."""
    algorithm: Algorithm = CLASSES[type(config)](config, spec, rng, device)
    return algorithm
