"""Belief oracle: the policy is given the exact posterior over tasks.

The reference that VariBAD approaches (Zintgraf et al. 2020, https://arxiv.org/abs/1910.08348,
Sec. 5.1): inference is Bayes' rule, done exactly by the family, and only acting is learned::

    b_0 = p(task);   b_{t+1} ~ p(s_{t+1}, r_{t+1} | s_t, a_t, task) b_t
    a_t ~ pi(s_t, b_t, time)        trained by PPO over trials

Deviation: the time in the trial and in the episode is an input too. A trial ends, so the best
action depends on how much of it is left, and nothing else here could count.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from precocial.algos.memory.trials import (
    TrialConfig,
    TrialLearner,
    TrialMethod,
)
from precocial.checks import widths
from precocial.nets.pictures import beside
from precocial.nets.trial_policy import TrialPolicy, perceptron_policy
from precocial.types import Belief, EnvSpec, Metrics, Step, TaskEnv, Tasks, UserError


@dataclass(frozen=True)
class BeliefOracleConfig(TrialConfig):
    """Settings of ``belief-oracle``."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the policy's hidden layers."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        widths(self, "hidden")


class ExactBelief:
    """The exact posterior and the time, beside the observation."""

    def __init__(self, spec: EnvSpec, shape: tuple[int, int], episodes: int) -> None:
        self.spec, self.shape, self.episodes = spec, shape, episodes
        self.belief: dict[str, Tensor] | None = None

    @property
    def model(self) -> Belief:
        """The family's posterior."""
        assert self.spec.belief is not None
        return self.spec.belief

    @staticmethod
    def extra(spec: EnvSpec) -> int:
        """Numbers beside the observation."""
        assert spec.belief is not None
        return spec.belief.dim + 2

    def features(self, obs: Shaped[Tensor, "b o"]) -> Shaped[Tensor, "b i"]:
        """(s_t, b_t, share of the trial's episodes done, share of the episode done)."""
        self.obs = obs.unflatten(0, self.shape)
        if self.belief is None:
            self.belief = self.model.prior(self.obs)
            self.time = torch.zeros((*self.shape, 2), device=obs.device)
        scale = torch.tensor([self.episodes, self.spec.horizon], device=obs.device)
        time = (self.time / scale).clamp(max=1.0)
        known = self.model.features(self.belief, self.obs)
        return beside(self.obs, torch.cat([known, time], -1)).flatten(0, 1)

    def observe(self, action: Tensor, step: Step) -> None:
        """Bayes' rule, and the clock."""
        assert self.belief is not None
        self.belief = self.model.update(self.belief, self.obs, action, step.reward, step.next_obs)
        ended = (step.terminated | step.truncated).to(step.reward)
        episode, within = self.time.unbind(-1)
        self.time = torch.stack([episode + ended, (within + 1) * (1 - ended)], -1)

    def state_dict(self) -> dict[str, Any]:
        """Belief and clock."""
        return {} if self.belief is None else {"belief": self.belief, "time": self.time}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        if "belief" in state:
            self.belief, self.time = dict(state["belief"]), state["time"]


class BeliefOracle(TrialMethod):
    """PPO on the exact posterior."""

    cfg: BeliefOracleConfig

    def __init__(
        self, cfg: BeliefOracleConfig, spec: EnvSpec, rng: torch.Generator, device: str = "cpu"
    ) -> None:
        if spec.belief is None:
            raise UserError(
                f"belief-oracle needs a family that knows its exact posterior and {spec.name} does "
                "not; try bandit, tabular-mdp, grid-nav, grid-world or two-step"
            )
        extra, steps = ExactBelief.extra(spec), cfg.trial_steps(spec)
        policy = perceptron_policy(spec, extra, cfg.hidden, steps, cfg.init_std, rng)
        self.prepare(cfg, spec, policy, device)

    def meta_update(self, env: TaskEnv, tasks: Tasks, rng: torch.Generator) -> Metrics:
        """One trial on every lane, then PPO on all of them."""
        learner = self.make_learner(self.policy, tasks.num, self.cfg.lanes, rng, training=True)
        return self.improve(env, tasks, learner, rng)[1]

    def learner(self, num_tasks: int, lanes: int, rng: torch.Generator) -> TrialLearner:
        """A learner on a copy of the network, at the start of its trial."""
        return self.make_learner(copy.deepcopy(self.policy), num_tasks, lanes, rng, training=False)

    def make_learner(
        self, policy: TrialPolicy, num_tasks: int, lanes: int, rng: torch.Generator, *,
        training: bool,
    ) -> TrialLearner:  # fmt: skip
        """A learner on N x E lanes."""
        context = ExactBelief(self.spec, (num_tasks, lanes), self.num_stages)
        return TrialLearner(policy, context, (num_tasks, lanes), rng, record=training)
