"""GrBAL: a model of the dynamics whose parameters adapt to the last M transitions at every step.

Nagabandi, Clavera et al. 2019, https://arxiv.org/abs/1803.11347, Algorithms 1 and 2:

    training   sample a moment t of the data                                            1, line 7
               past = transitions t-M .. t-1,  future = transitions t .. t+K-1
               phi = theta - alpha grad L(theta; past)                                  1, line 8
               (theta, alpha) -= beta grad sum L(phi; future)                           1, line 11
    acting     phi = theta - alpha grad L(theta; last M transitions)                    2, line 4
               plan with the model phi, do the first action                             2, line 5
    (L: squared error of the normalised state difference)

phi is computed from theta at every step, so nothing has to be forgotten when the world changes:
after M steps the window holds nothing older. alpha is one fixed number, or one learned number per
parameter (``--learn-lr``, Li et al. 2017, Meta-SGD), which the paper leaves open and on which
adaptation depends.

Deviations: windows of 1 to M past transitions are trained on, so that the first steps of an episode
adapt, too, and L(past) is the sum over M, so that few transitions move the parameters less.
Predictions stay within the range of the data and of the present state. The planner is MPPI by
default, one of those of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from precocial.algos.model.adapters import ParameterAdapter, frozen, prediction_error
from precocial.algos.model.shared import AdaptiveConfig, ModelBased
from precocial.checks import positive
from precocial.nets.dynamics import Dynamics, Factors
from precocial.replay import Transitions
from precocial.types import EnvSpec, Params


@dataclass(frozen=True)
class GrBALConfig(AdaptiveConfig):
    """Settings of ``grbal``."""

    inner_lr: float = 0.1
    """Inner rate (alpha); where it is learned, at first."""
    learn_lr: bool = True
    """Learn one rate per parameter (Meta-SGD)."""
    first_order: bool = False
    """Drop the second derivative from the meta-gradient."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        positive(self, "inner_lr")


class GradientModel(nn.Module):
    """A model of the dynamics and its inner rates."""

    def __init__(self, spec: EnvSpec, cfg: GrBALConfig, rng: torch.Generator) -> None:
        super().__init__()
        self.dynamics, self.inner_lr = Dynamics(spec, cfg.hidden, rng), cfg.inner_lr
        self.rates = nn.ParameterDict(
            {k: torch.full_like(p, cfg.inner_lr) for k, p in self.dynamics.named_parameters()}
            if cfg.learn_lr
            else {}
        )

    @property
    def step_size(self) -> Params | float:
        """alpha: one number, or one per parameter."""
        return dict(self.rates.items()) or self.inner_lr


class GradientAdapter(ParameterAdapter):
    """Adapts from theta to the lane's last M transitions."""

    def __init__(self, model: GradientModel, cfg: GrBALConfig, lanes: int) -> None:
        super().__init__(model, model.dynamics, cfg.past, lanes)
        self.step_size = model.step_size

    def step(
        self, x: Float[Tensor, "b m i"], y: Float[Tensor, "b m s"], filled: Float[Tensor, "b m"],
        ended: Bool[Tensor, " b"],
    ) -> Params:  # fmt: skip
        """Phi = theta - alpha grad L(theta; the last M)."""
        return self.dynamics.after_step(self.dynamics.gradient(x, y, filled), self.step_size)


class GrBAL(ModelBased):
    """Gradient-based adaptive learner."""

    cfg: GrBALConfig
    model: GradientModel

    def __init__(
        self, cfg: GrBALConfig, spec: EnvSpec, rng: torch.Generator, device: str = "cpu"
    ) -> None:
        model = GradientModel(spec, cfg, rng)
        self.prepare(cfg, spec, model, model.dynamics, device)

    def adapter(self, lanes: int) -> GradientAdapter:
        """See ``ModelBased``."""
        return GradientAdapter(frozen(self.model), self.cfg, lanes)

    def loss(self, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Error on the future after a step on the past; the error before it is reported beside."""
        cfg, dynamics = self.cfg, self.dynamics
        window = self.replay.sample(cfg.windows, cfg.past, cfg.future, rng)
        inputs, targets, seen, asked = masks(window, dynamics, cfg.past, rng)
        past, future = inputs.split([cfg.past, cfg.future], 1)
        past_target, target = targets.split([cfg.past, cfg.future], 1)
        gradient = dynamics.gradient(past, past_target, seen)
        if cfg.first_order:
            gradient = [Factors(h.detach(), d.detach()) for h, d in gradient]
        adapted = dynamics.stepped(future, gradient, self.model.step_size)
        loss = prediction_error(adapted, target, asked)
        with torch.no_grad():
            before = dynamics.trace(future)[-1]
        unadapted = prediction_error(before, target, asked)
        return loss, {"adapted": loss, "unadapted": unadapted}


def masks(
    window: Transitions, dynamics: Dynamics, past: int, rng: torch.Generator
) -> tuple[Tensor, Tensor, Float[Tensor, "w m"], Float[Tensor, "w k"]]:
    """Inputs and targets of windows, and which of past and future to use.

    Only what belongs to the episode of the moment between them; of the past the last 1 to M
    transitions, their number drawn for every window.
    """
    num = window.episode.shape[0]
    moment = window.episode[:, past : past + 1]
    same = (window.episode == moment) & (moment >= 0)
    length = torch.randint(1, past + 1, (num, 1), generator=rng, device=rng.device)
    age = past - torch.arange(past, device=rng.device)
    seen = (same[:, :past] & (age <= length)).float()
    inputs = dynamics.inputs(window.obs, window.action)
    targets = dynamics.targets(window.obs, window.next_obs)
    return inputs, targets, seen, same[:, past:].float()
