"""The registered task families, and how any environment string becomes a ``TaskEnv``.

Families are named by import strings, so that listing them loads neither torch nor MuJoCo.
"""

from __future__ import annotations

import dataclasses
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from precocial.envs.base import EnvConfig
    from precocial.types import TaskEnv


KINDS = {
    "classic": "bandits, small MDPs, learning experiments", "grid": "grids",
    "control": "control", "mujoco": "robots, MuJoCo",
}  # fmt: skip
"""The folders of families in this package, in words."""


class Family(NamedTuple):
    """A registered task family."""

    place: str
    """``module:Class`` below this package; its settings are ``module:ClassConfig``."""
    summary: str
    action: str
    observation: str
    paper: str
    extra: str = ""
    """pip extra it needs, "" for none."""

    @property
    def kind(self) -> str:
        """Its folder, a key of ``KINDS``."""
        return self.place.partition(".")[0]

    @property
    def cls(self) -> Any:
        """The class, built as ``cls(config)``."""
        module, name = self.place.split(":")
        return getattr(import_module(f"{__name__}.{module}"), name)

    @property
    def config(self) -> type[EnvConfig]:
        """The settings' class."""
        module, name = self.place.split(":")
        config: type[EnvConfig] = getattr(import_module(f"{__name__}.{module}"), name + "Config")
        return config


ENVS: dict[str, Family] = {
    "point-nav": Family(
        "control.point_nav:PointNav", "reach a hidden goal on a plane",
        "box 2", "box 2", "Finn et al. 2017",
    ),
    "point-nav-corners": Family(
        "control.point_nav_corners:PointNavCorners", "find which of four corners has the reward",
        "box 2", "box 2", "Rothfuss et al. 2019",
    ),
    "point-robot": Family(
        "control.point_robot:PointRobot", "go to a hidden goal on a plane, from anywhere",
        "box 2", "box 2", "Rakelly et al. 2019",
    ),
    "point-robot-sparse": Family(
        "control.point_robot:PointRobotSparse", "find a hidden goal on a half circle",
        "box 2", "box 2", "Rakelly et al. 2019",
    ),
    "wind": Family(
        "control.wind:Wind", "reach a goal in a hidden wind and stay there",
        "box 2", "box 2", "Dorfman et al. 2021",
    ),
    "bandit": Family(
        "classic.bandit:Bandit", "arms of hidden Bernoulli rates, one pull an episode",
        "discrete", "box 1", "Duan et al. 2016",
    ),
    "tabular-mdp": Family(
        "classic.tabular_mdp:TabularMDP", "random 10-state, 5-action MDPs",
        "discrete 5", "one-hot 10", "Duan et al. 2016",
    ),
    "harlow": Family(
        "classic.harlow:Harlow", "learn which of two unfamiliar objects is rewarded",
        "discrete 2", "box 45", "Wang et al. 2018",
    ),
    "two-step": Family(
        "classic.two_step:TwoStep", "two-step choices whose good end changes now and then",
        "discrete 2", "one-hot 3", "Daw et al. 2011",
    ),
    "grid-nav": Family(
        "grid.grid_nav:GridNav", "find a goal on a 5x5 grid and stay (GridNavi)",
        "discrete 5", "one-hot 25", "Zintgraf et al. 2020",
    ),
    "grid-world": Family(
        "grid.grid_world:GridWorld", "find a goal on a grid, then go straight to it",
        "discrete 4", "one-hot 25", "this package",
    ),
    "frozen-lake": Family(
        "grid.frozen_lake:FrozenLake", "cross a frozen lake whose holes are hidden",
        "discrete 4", "one-hot 25", "Grigsby et al. 2024",
    ),
    "instructions": Family(
        "grid.instructions:Instructions", "walk to the tile that a sentence names",
        "discrete 4", "one-hot 25 and words 61", "this package",
    ),
    "FrozenLake-v1": Family(
        "grid.frozen_lake:FrozenLakeV1", "Gymnasium's 4x4 lake, one task",
        "discrete 4", "one-hot 16", "Gymnasium",
    ),
    "FrozenLake8x8-v1": Family(
        "grid.frozen_lake:FrozenLake8x8V1", "Gymnasium's 8x8 lake, one task",
        "discrete 4", "one-hot 64", "Gymnasium",
    ),
    "cart-pole": Family(
        "control.cart_pole:CartPole", "balance with hidden masses, length, force and sign",
        "discrete 2", "box 4", "Barto et al. 1983",
    ),
    "CartPole-v1": Family(
        "control.cart_pole_v1:CartPoleV1", "Gymnasium's CartPole, one task",
        "discrete 2", "box 4", "Barto et al. 1983",
    ),
    "Acrobot-v1": Family(
        "control.acrobot_v1:AcrobotV1", "Gymnasium's Acrobot, one task",
        "discrete 3", "box 6", "Sutton 1996",
    ),
    "MountainCar-v0": Family(
        "control.mountain_car_v0:MountainCarV0", "Gymnasium's MountainCar, one task",
        "discrete 3", "box 2", "Moore 1990",
    ),
    "Pendulum-v1": Family(
        "control.pendulum_v1:PendulumV1", "Gymnasium's Pendulum, one task",
        "box 1", "box 3", "Gymnasium",
    ),
    "pendulum-mass": Family(
        "control.pendulum:PendulumMass", "swing up a pendulum of hidden mass",
        "box 1", "box 3", "RLlib's MAML example",
    ),
    "hidden-gain": Family(
        "control.hidden_gain:HiddenGain", "follow a target with a motor of hidden gain",
        "box 1", "box 3", "this package",
    ),
    "half-cheetah-dir": Family(
        "mujoco.half_cheetah:HalfCheetahDir", "run forward or backward, MuJoCo",
        "box 6", "box 17", "Finn et al. 2017",
    ),
    "half-cheetah-vel": Family(
        "mujoco.half_cheetah:HalfCheetahVel", "run at a hidden speed, MuJoCo",
        "box 6", "box 17", "Finn et al. 2017",
    ),
    "half-cheetah-disabled": Family(
        "mujoco.half_cheetah_disabled:HalfCheetahDisabled",
        "run with a dead joint, MuJoCo", "box 6", "box 18", "Nagabandi et al. 2019",
    ),
    "half-cheetah-slope": Family(
        "mujoco.half_cheetah_slope:HalfCheetahSlope",
        "run over slopes out of sight, MuJoCo", "box 6", "box 18", "Nagabandi et al. 2019",
    ),
    "half-cheetah-pier": Family(
        "mujoco.half_cheetah_pier:HalfCheetahPier",
        "run over floating blocks, MuJoCo", "box 6", "box 18", "Nagabandi et al. 2019",
    ),
    "ant-crippled": Family(
        "mujoco.ant_crippled:AntCrippled",
        "walk with a crippled leg, MuJoCo", "box 8", "box 28", "Nagabandi et al. 2019",
    ),
    "arm-7dof": Family(
        "mujoco.arm_7dof:Arm7Dof",
        "reach with an arm that is loaded, stiff or lame, MuJoCo", "box 7", "box 20",
        "Nagabandi et al. 2019",
    ),
}  # fmt: skip


SAME_RESULTS = frozenset(("threads", "workers", "step_timeout"))
"""Options of a family that say how it is stepped, and nothing of what comes out."""
SAME_TASKS = SAME_RESULTS | {"train_tasks", "action_scale"}
"""Options of a family in which runs may differ and still face the same tasks."""


def env_config(name: str, **fields: Any) -> EnvConfig:
    """Settings of a family, or of the adapter for any other environment."""
    if name in ENVS:
        cls = ENVS[name].config
    else:
        from precocial.envs.base import GymConfig as cls
    known = {f.name for f in dataclasses.fields(cls)}
    return cls(**{k: v for k, v in fields.items() if k in known})


def make_env(name: str, config: EnvConfig) -> TaskEnv:
    """The environment a string names: a registered family, a Gymnasium id or ``module:Class``.

    Raises:
        UserError: nothing has that name, or the environment does not fit.
    """
    if name in ENVS and not getattr(config, "theirs", False):
        env: TaskEnv = ENVS[name].cls(config)
        return env
    from precocial.envs.own.adapter import make_gym_env

    return make_gym_env(name, config)
