"""The registered task families."""

from __future__ import annotations

from typing import Any, NamedTuple

from precocial.envs.base import EnvConfig
from precocial.envs.point_nav import PointNav, PointNavConfig


class Family(NamedTuple):
    """A registered task family."""

    cls: Any
    """Class built as ``cls(config)``."""
    config: type[EnvConfig]
    summary: str
    paper: str
    extra: str = ""
    """pip extra it needs, "" for none."""


ENVS: dict[str, Family] = {
    "point-nav": Family(
        PointNav, PointNavConfig, "reach a hidden goal on a plane", "Finn et al. 2017"
    ),
}
