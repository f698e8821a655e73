"""Adam (Kingma and Ba 2015, https://arxiv.org/abs/1412.6980), made when it is first used."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from precocial.ops.params import restore


class Adam:
    """``torch.optim.Adam`` for what trains, and next to nothing for what only acts.

    Making one imports torch's compiler, a third of the time that ``precocial eval`` of a small run
    takes. The moments of a checkpoint wait until then.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, eps: float = 1e-8) -> None:
        self.parameters, self.lr, self.eps = list(parameters), lr, eps
        self.loaded: dict[str, Any] | None = None

    @cached_property
    def made(self) -> torch.optim.Adam:
        """The optimiser itself."""
        optimizer = torch.optim.Adam(self.parameters, self.lr, eps=self.eps)
        if self.loaded is not None:
            restore(optimizer, self.loaded)
            self.loaded = None
        return optimizer

    def state_dict(self) -> dict[str, Any]:
        """Moments and settings."""
        state: dict[str, Any] = self.made.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the moments, not the settings.

        Raises:
            ValueError: they are of other parameters.
        """
        (group,), moments = state["param_groups"], state["state"]
        if len(group["params"]) != len(self.parameters) or len(moments) > len(self.parameters):
            raise ValueError("moments of other parameters")
        if "made" in self.__dict__:
            restore(self.made, state)
        else:
            self.loaded = state
