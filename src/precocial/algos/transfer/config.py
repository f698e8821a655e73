"""How a run begins from a source, and what holds it there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from precocial.checks import at_least
from precocial.types import UserError


@dataclass(frozen=True)
class TransferConfig:
    """Ways to begin from a source."""

    checkpoint: Literal["best", "last"] = "best"
    """Of a run folder: a source at its last step may be broken."""
    freeze: tuple[str, ...] = ()
    """Layers that are never trained, by name or pattern: actor.0, 'critic.*'."""
    reinit: tuple[str, ...] = ()
    """Layers that are not taken from the source: actor.2 is a new head of a two-layer policy."""
    only_layers: tuple[int, ...] = ()
    """Take only these layers of every network, counted from the observation; none: all."""
    features_from: int | None = None
    """Take the source's layers up to this one as fixed features, with new layers on top."""
    unfreeze_at: int = 0
    """Train what was frozen from so many environment steps on; 0: never."""
    kickstart: float | None = None
    """Weight of KL(source || policy), which falls to 0; None: the algorithm's own."""
    kickstart_steps: int = 20_480
    """Environment steps in which it falls to 0."""
    critic_warmup: int | None = None
    """Environment steps at first in which only the critic learns; None: the algorithm's own."""
    l2_source: float = 0.0
    """Weight of the squared distance to what was taken from the source."""
    map_obs: tuple[str, ...] = ()
    """Where the target's observation has what the source knows: NEW=OLD, columns or names of a Dict
    space, e.g. 0=2 or camera=sensor; without it columns keep their places."""
    head_temperature: float = 1.0
    """Divide a policy's logits by this: an over-confident source is slow to change its mind."""
    log_std: float | None = None
    """Standard deviation with which a Gaussian policy begins; None: the source's own."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        at_least(self, 0, "unfreeze_at", "l2_source")
        at_least(self, 1, "kickstart_steps")
        for name in ("kickstart", "critic_warmup"):
            if getattr(self, name) is not None:
                at_least(self, 0, name)
        if self.only_layers:
            if min(self.only_layers) < 0:
                raise UserError(f"--only-layers are {self.only_layers}; expected numbers from 0 on")
            if self.features_from is not None:
                raise UserError("--only-layers and --features-from were both given; expected one")
        if self.features_from is not None:
            at_least(self, 0, "features_from")
        for name in ("head_temperature", "log_std"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"--{name.replace('_', '-')} is {value}; expected a number above 0")
        if self.unfreeze_at and not self.freeze and self.features_from is None:
            raise UserError(
                f"--unfreeze-at is {self.unfreeze_at} and nothing is frozen; name layers with "
                "--freeze, or leave it out"
            )
