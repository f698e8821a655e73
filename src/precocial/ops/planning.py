"""Planning by sampling: random shooting, CEM and MPPI, many lanes at once.

A planner is a pair of functions. ``propose`` draws candidate sequences of actions around a plan,
``refine`` makes a better plan of the candidates and their scores. Axes: B lanes, C candidates,
L steps ahead (the planning horizon), A action components in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from precocial.checks import at_least, in_range, positive
from precocial.threads import alone
from precocial.types import RewardFn, TerminalFn

Score = Callable[[Float[Tensor, "b c l a"]], Float[Tensor, "b c"]]
"""What candidates are worth; not finite where a model broke down."""
Predict = Callable[[Float[Tensor, "b c o"], Float[Tensor, "b c a"]], Float[Tensor, "b c o"]]
"""The next observation."""


class Plan(NamedTuple):
    """What a lane means to do, and how far candidates stray from it."""

    mean: Float[Tensor, "b l a"]
    std: Float[Tensor, "b l a"]


@dataclass(frozen=True)
class PlannerConfig:
    """Settings of the planner."""

    planner: Literal["random-shooting", "cem", "mppi"] = "mppi"
    """How action sequences are found."""
    plan_horizon: int = 10
    """Steps that a plan looks ahead (L)."""
    candidates: int = 256
    """Action sequences that are tried in a round (C)."""
    rounds: int = 1
    """Rounds of proposing and refining before every action."""
    plan_std: float = 0.5
    """Standard deviation of candidates around the plan (cem: at first), +-1 spanning the bounds."""
    elite_share: float = 0.1
    """Share of the candidates that cem refits to."""
    smoothing: float = 0.1
    """How much of its old mean and deviation cem keeps in a round."""
    temperature: float = 0.3
    """Of mppi's weights exp(score / temperature), in standard deviations of the scores."""
    correlation: float = 0.5
    """Of mppi's noise from one step to the next."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        at_least(self, 1, "plan_horizon", "rounds")
        at_least(self, 2, "candidates")
        positive(self, "plan_std", "temperature", "elite_share")
        in_range(self, 0, 1, "elite_share", "correlation")
        in_range(self, 0, 0.99, "smoothing")


def first_plan(
    lanes: int, actions: int, cfg: PlannerConfig, device: torch.device | str = "cpu"
) -> Plan:
    """Do nothing, for lack of anything better."""
    mean = torch.zeros(lanes, cfg.plan_horizon, actions, device=device)
    return Plan(mean, torch.full_like(mean, cfg.plan_std))


def shift(plan: Plan, cfg: PlannerConfig) -> Plan:
    """The plan one step later: its rest, the last action once more, and the first spread."""
    mean = torch.cat([plan.mean[:, 1:], plan.mean[:, -1:]], 1)
    return Plan(mean, torch.full_like(mean, cfg.plan_std))


def improve(score: Score, plan: Plan, cfg: PlannerConfig, rng: torch.Generator) -> Plan:
    """``cfg.rounds`` rounds; candidates are clipped before they are scored.

    The plan itself is always the first candidate. A lane on which no score is finite keeps its
    plan; elsewhere such candidates count as the worst.
    """
    propose, refine = PLANNERS[cfg.planner]
    for _ in range(cfg.rounds):
        candidates = propose(plan, cfg, rng)
        candidates[:, 0] = plan.mean
        candidates.clamp_(-1, 1)
        scores = score(candidates)
        sane = torch.isfinite(scores)
        if not bool(sane.all()):
            worst = torch.where(sane, scores, torch.inf).amin(1, keepdim=True)
            scores = torch.where(sane, scores, worst)
            broken = ~sane.any(1)
            candidates[broken] = plan.mean[broken].unsqueeze(1)
            scores = scores.masked_fill(broken.unsqueeze(1), 0.0)
        plan = refine(plan, candidates, scores, cfg)
    return plan


def imagined_return(
    predict: Predict,
    reward_fn: RewardFn,
    terminal_fn: TerminalFn | None,
    obs: Float[Tensor, "b o"],
    candidates: Float[Tensor, "b c l a"],
) -> Float[Tensor, "b c"]:
    """Sum of rewards along imagined trajectories; nothing counts after an ending."""
    state = obs.unsqueeze(1).expand(-1, candidates.shape[1], -1)
    total = candidates.new_zeros(candidates.shape[:2])
    alive = torch.ones_like(total)
    for action in candidates.unbind(2):
        following = predict(state, action)
        total += alive * reward_fn(state, action, following)
        if terminal_fn is not None:
            alive = alive * (~terminal_fn(following)).to(alive)
        state = following
    return total


# ---- the planners -----------------------------------------------------------------------------


def shooting_propose(
    plan: Plan, cfg: PlannerConfig, rng: torch.Generator
) -> Float[Tensor, "b c l a"]:
    """Any action at every step, whatever the plan."""
    return torch.rand(_shape(plan, cfg), generator=rng, device=plan.mean.device) * 2 - 1


def shooting_refine(
    plan: Plan, candidates: Float[Tensor, "b c l a"], scores: Float[Tensor, "b c"],
    cfg: PlannerConfig,
) -> Plan:  # fmt: skip
    """The best candidate."""
    return plan._replace(mean=_pick(candidates, scores.argmax(1, keepdim=True)).squeeze(1))


def cem_propose(plan: Plan, cfg: PlannerConfig, rng: torch.Generator) -> Float[Tensor, "b c l a"]:
    """A Gaussian around the plan."""
    noise = torch.randn(_shape(plan, cfg), generator=rng, device=plan.mean.device)
    return torch.addcmul(plan.mean.unsqueeze(1), noise, plan.std.unsqueeze(1))


def cem_refine(
    plan: Plan, candidates: Float[Tensor, "b c l a"], scores: Float[Tensor, "b c"],
    cfg: PlannerConfig,
) -> Plan:  # fmt: skip
    """Mean and deviation of the elites (Rubinstein 1999), smoothed."""
    num = max(2, round(cfg.elite_share * scores.shape[1]))
    elites = _pick(candidates, scores.topk(num, 1).indices)
    mean, std = elites.mean(1), elites.std(1, correction=0)
    return Plan(
        *(torch.lerp(new, old, cfg.smoothing) for new, old in zip((mean, std), plan, strict=True))
    )


def mppi_propose(plan: Plan, cfg: PlannerConfig, rng: torch.Generator) -> Float[Tensor, "b c l a"]:
    """The plan and noise of deviation ``std`` that goes on for a while.

    n_t = beta n_{t-1} + sqrt(1 - beta^2) u_t. Deviation from Nagabandi et al. 2019 (PDDM), who
    smooth as beta u_t + (1 - beta) n_{t-1}: here the deviation is the same at every step.
    """
    noise = torch.randn(_shape(plan, cfg), generator=rng, device=plan.mean.device)
    fresh = (1 - cfg.correlation**2) ** 0.5
    for t in range(1, noise.shape[2]):
        noise[:, :, t].mul_(fresh).add_(noise[:, :, t - 1], alpha=cfg.correlation)
    return torch.addcmul(plan.mean.unsqueeze(1), noise, plan.std.unsqueeze(1))


def mppi_refine(
    plan: Plan, candidates: Float[Tensor, "b c l a"], scores: Float[Tensor, "b c"],
    cfg: PlannerConfig,
) -> Plan:  # fmt: skip
    """Candidates' mean, weighted by the exponential of their score (Williams et al. 2017, Eq. 4).

    Deviation: the temperature is in standard deviations of the lane's scores, so that it needs no
    tuning to the size of a family's rewards.
    """
    spread = scores.std(1, correction=0, keepdim=True).clamp(min=1e-8)
    above = scores - scores.amax(1, keepdim=True)
    weight = torch.softmax(above / (cfg.temperature * spread), 1)
    return plan._replace(mean=alone(torch.einsum, "bc,bcla->bla", weight, candidates))


class Planner(NamedTuple):
    """A planner's pair of functions."""

    propose: Callable[[Plan, PlannerConfig, torch.Generator], Tensor]
    refine: Callable[[Plan, Tensor, Tensor, PlannerConfig], Plan]


PLANNERS = {
    "random-shooting": Planner(shooting_propose, shooting_refine),
    "cem": Planner(cem_propose, cem_refine),
    "mppi": Planner(mppi_propose, mppi_refine),
}


def _shape(plan: Plan, cfg: PlannerConfig) -> tuple[int, ...]:
    lanes, length, actions = plan.mean.shape
    return lanes, cfg.candidates, length, actions


def _pick(
    candidates: Float[Tensor, "b c l a"], index: Int[Tensor, "b k"]
) -> Float[Tensor, "b k l a"]:
    """Candidates ``index`` (B, k) of every lane."""
    lane = torch.arange(candidates.shape[0], device=candidates.device).unsqueeze(1)
    return candidates[lane, index]
