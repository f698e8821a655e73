"""Registers every family with Gymnasium; cheap, since nothing is imported until one is made."""

from __future__ import annotations

import gymnasium

from precocial.envs import ENVS


def gym_id(name: str) -> str:
    """The id of a family, e.g. "half-cheetah-dir" -> "precocial/HalfCheetahDir-v0"."""
    camel = "".join(word[0].upper() + word[1:] for word in name.split("-"))
    return f"precocial/{camel}-v0"


def register_all() -> None:
    """Register ``precocial/PointNav-v0`` and the others that Gymnasium lacks; again is harmless."""
    for name in ENVS:
        if name not in gymnasium.registry and gym_id(name) not in gymnasium.registry:
            gymnasium.register(
                gym_id(name), "precocial.envs.single:TaskGymEnv", kwargs={"family": name}
            )
