"""Models that adapt to the last transitions of the present episode, lane by lane."""

from __future__ import annotations

import copy
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from precocial.nets.dynamics import Dynamics
from precocial.ops.losses import masked_mean
from precocial.types import Params


@runtime_checkable
class Adapter(Protocol):
    """A model of the dynamics on B lanes, and what adapts it to each lane's present."""

    resets: int
    """Lanes whose adaptation broke down (NaN) and was started afresh."""

    @property
    def model(self) -> nn.Module:
        """All that was trained, a copy of the adapter's own."""
        ...

    def predict(
        self, obs: Float[Tensor, "b c o"], action: Float[Tensor, "b c a"]
    ) -> Float[Tensor, "b c o"]:
        """The next observations, as far as the present is known."""
        ...

    def observe(
        self, obs: Float[Tensor, "b o"], action: Float[Tensor, "b a"],
        next_obs: Float[Tensor, "b o"], ended: Bool[Tensor, " b"],
    ) -> None:  # fmt: skip
        """Adapt to one more transition; forget everything where it ended the episode."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Window:
    """The last M transitions of the present episode on each of B lanes, newest last."""

    def __init__(self, length: int, lanes: int) -> None:
        self.length, self.lanes = length, lanes
        self.transitions: tuple[Tensor, ...] | None = None
        self.filled: Float[Tensor, "b m"] = torch.zeros(lanes, length)

    def push(self, *transition: Tensor) -> None:
        """One more transition, tensors (B, ...); the oldest goes."""
        if self.transitions is None:
            self.transitions = tuple(
                x.new_zeros(self.lanes, self.length, *x.shape[1:]) for x in transition
            )
            self.filled = transition[0].new_zeros(self.lanes, self.length)
        pairs = zip(self.transitions, transition, strict=True)
        self.transitions = tuple(torch.cat([w[:, 1:], x.unsqueeze(1)], 1) for w, x in pairs)
        self.filled = torch.cat([self.filled[:, 1:], torch.ones_like(self.filled[:, :1])], 1)

    def clear(self, lanes: Bool[Tensor, " b"]) -> None:
        """Nothing is known of these lanes, whatever it was (NaN in a product would stay NaN)."""
        self.filled = self.filled.masked_fill(lanes.unsqueeze(1), 0.0)
        if self.transitions is not None:
            self.transitions = tuple(
                x.masked_fill(lanes.view(-1, *(1,) * (x.ndim - 1)), 0.0) for x in self.transitions
            )

    def state_dict(self) -> dict[str, Any]:
        """What it holds."""
        held = {} if self.transitions is None else dict(enumerate(self.transitions))
        return {"filled": self.filled} | {str(k): v for k, v in held.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.filled = state["filled"]
        held = [state[str(k)] for k in range(len(state) - 1)]
        self.transitions = tuple(held) if held else None


def prediction_error(
    predicted: Float[Tensor, "w k s"], target: Float[Tensor, "w k s"], asked: Float[Tensor, "w k"]
) -> Float[Tensor, ""]:
    """Squared error of normalised differences: mean over the state, and over what is asked."""
    return masked_mean((predicted - target).square().mean(-1), asked)


class ParameterAdapter:
    """Parameters phi of each lane's own, adapted at every step; a method says how in ``step``.

    Args:
        model: All that was trained, not changed.
        dynamics: The model or a part of it; its parameters are theta.
        past: M, transitions that ``step`` is given.
        lanes: B.
    """

    def __init__(self, model: nn.Module, dynamics: Dynamics, past: int, lanes: int) -> None:
        self.model, self.dynamics, self.window = model, dynamics, Window(past, lanes)
        self.theta = dynamics.theta
        self.phi = self.theta
        self.resets = 0

    def step(
        self, x: Float[Tensor, "b m i"], y: Float[Tensor, "b m s"], filled: Float[Tensor, "b m"],
        ended: Bool[Tensor, " b"],
    ) -> Params:  # fmt: skip
        """New parameters, leaves (B, ...), by the last transitions' inputs and targets."""
        raise NotImplementedError

    def predict(
        self, obs: Float[Tensor, "b c o"], action: Float[Tensor, "b c a"]
    ) -> Float[Tensor, "b c o"]:
        """See ``Adapter``."""
        return self.dynamics.predict(self.phi, obs, action)

    def observe(
        self, obs: Float[Tensor, "b o"], action: Float[Tensor, "b a"],
        next_obs: Float[Tensor, "b o"], ended: Bool[Tensor, " b"],
    ) -> None:  # fmt: skip
        """See ``Adapter``; lanes whose parameters are not finite go back to theta."""
        self.window.push(self.dynamics.inputs(obs, action), self.dynamics.targets(obs, next_obs))
        self.window.clear(ended)
        assert self.window.transitions is not None
        x, y = self.window.transitions
        self.phi = self.step(x, y, self.window.filled, ended)
        self.resets += restore_broken(self.phi, self.theta, self.window)

    def state_dict(self) -> dict[str, Any]:
        """Parameters and window of every lane."""
        return {"phi": dict(self.phi), "window": self.window.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the saved one."""
        self.phi = state["phi"]
        self.window.load_state_dict(state["window"])


def restore_broken(phi: Params, theta: Params, window: Window) -> int:
    """Put lanes whose parameters (B, ...) are not finite back to theta; returns how many."""
    own = {k: p for k, p in phi.items() if p.ndim > theta[k].ndim}
    total = torch.stack([p.flatten(1).sum(1) for p in own.values()]).sum(0)
    broken = ~torch.isfinite(total)
    if bool(broken.any()):
        for name, p in own.items():
            p[broken] = theta[name]
        window.clear(broken)
    return int(broken.sum())


def frozen(model: nn.Module) -> Any:
    """A copy that nothing trains."""
    return copy.deepcopy(model).requires_grad_(False)
