"""References for models that adapt: one global model, and one that goes on training while it acts.

``mb-mpc``: Nagabandi et al. 2018, https://arxiv.org/abs/1708.02596, Algorithm 1. The model is
fitted to all data at once and never adapts: what it scores is what one robust model can do.

``mb-de``: dynamic evaluation (Krause et al. 2018, https://arxiv.org/abs/1709.07432), the comparison
of Nagabandi, Clavera et al. 2019, Sec. 6. The same model; while it acts, every step takes one more
plain gradient step on the last M transitions, from where the last one ended:

    phi_0 = theta;    phi_{t+1} = phi_t - alpha grad L(phi_t; last M transitions)

Nothing in its training prepares it for that. Both are fitted to as many transitions in an Adam step
as ``grbal`` is scored on, plan with the same planner, and forget at the end of the episode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from precocial.algos.model.adapters import Adapter, ParameterAdapter, frozen, prediction_error
from precocial.algos.model.shared import AdaptiveConfig, ModelBased, ModelConfig
from precocial.checks import positive
from precocial.nets.dynamics import Dynamics
from precocial.ops.adaptation import inner_update
from precocial.ops.params import expand
from precocial.types import EnvSpec, Params


@dataclass(frozen=True)
class MBMPCConfig(ModelConfig):
    """Settings of ``mb-mpc``."""


@dataclass(frozen=True)
class MBDEConfig(AdaptiveConfig):
    """Settings of ``mb-de``."""

    inner_lr: float = 0.01
    """Rate of the gradient steps while it acts (alpha)."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        positive(self, "inner_lr")


class FixedAdapter:
    """A model that stays what it is."""

    resets = 0

    def __init__(self, dynamics: Dynamics) -> None:
        self.model, self.theta = dynamics, dynamics.theta

    def predict(
        self, obs: Float[Tensor, "b c o"], action: Float[Tensor, "b c a"]
    ) -> Float[Tensor, "b c o"]:
        """By the one model."""
        return self.model.predict(self.theta, obs, action)

    def observe(
        self, obs: Float[Tensor, "b o"], action: Float[Tensor, "b a"],
        next_obs: Float[Tensor, "b o"], ended: Bool[Tensor, " b"],
    ) -> None:  # fmt: skip
        """It does not look."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing was kept."""


class DynamicAdapter(ParameterAdapter):
    """Trains on while it acts."""

    def __init__(self, dynamics: Dynamics, cfg: MBDEConfig, lanes: int) -> None:
        super().__init__(dynamics, dynamics, cfg.past, lanes)
        self.inner_lr, self.phi = cfg.inner_lr, expand(self.theta, lanes)

    def step(
        self, x: Float[Tensor, "b m i"], y: Float[Tensor, "b m s"], filled: Float[Tensor, "b m"],
        ended: Bool[Tensor, " b"],
    ) -> Params:  # fmt: skip
        """One more gradient step; theta again where the episode ended."""

        def loss(params: Params) -> Float[Tensor, " b"]:
            error = (self.dynamics.delta(params, x) - y).square().mean(-1)
            return (error * filled).mean(-1)

        phi = inner_update(loss, self.phi, self.inner_lr, second_order=False)
        return {
            k: torch.where(ended.view(-1, *(1,) * (p.ndim - 1)), self.theta[k], p.detach())
            for k, p in phi.items()
        }


class MBMPC(ModelBased):
    """A global model."""

    cfg: ModelConfig
    model: Dynamics

    def __init__(
        self, cfg: ModelConfig, spec: EnvSpec, rng: torch.Generator, device: str = "cpu"
    ) -> None:
        model = Dynamics(spec, cfg.hidden, rng)
        self.prepare(cfg, spec, model, model, device)

    def adapter(self, lanes: int) -> Adapter:
        """See ``ModelBased``."""
        return FixedAdapter(frozen(self.model))

    def loss(self, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Error on windows of the data."""
        window = self.replay.sample(self.cfg.windows, 0, self.cfg.future, rng)
        predicted = self.model.trace(self.model.inputs(window.obs, window.action))[-1]
        target = self.model.targets(window.obs, window.next_obs)
        loss = prediction_error(predicted, target, (window.episode >= 0).float())
        return loss, {"unadapted": loss}


class MBDE(MBMPC):
    """The same model with dynamic evaluation."""

    cfg: MBDEConfig

    def adapter(self, lanes: int) -> DynamicAdapter:
        """See ``ModelBased``."""
        return DynamicAdapter(frozen(self.model), self.cfg, lanes)
