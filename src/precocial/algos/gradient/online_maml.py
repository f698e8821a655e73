"""MAML over a trial in which every episode counts: adapt after each, always from theta.

For bandits an episode is one pull, so that "roll out, adapt, roll out" would either waste pulls or
adapt to a single one. Here, with the losses of all episodes so far::

    phi_k = theta - alpha sum_{i<k} grad L_i(theta)         L_i = -sum_t (R_t - b) log pi_theta(a_t)

and the outer loss is the policy gradient of the whole trial through every phi_k: reward-to-go over
the trial, so that an early action is credited for what it lets later episodes know::

    J = sum_k sum_t log pi_{phi_k}(a_t) (reward-to-go_t - mean over tasks)

theta, the rate alpha and the inner baseline b are learned. R_t is the reward to go within the
episode. This is Finn et al. 2017 with the exploration credit of E-MAML (Stadie et al. 2018), exact
because phi_k is a deterministic function of the trial so far: a policy with memory.

Since all inner gradients are taken at theta, those of a whole trial come from one backward pass,
stages folded into the task axis, and phi_k is a running sum.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from precocial.algos.gradient.shared import PolicyConfig, PolicyMethod, Recorder
from precocial.checks import at_least, positive
from precocial.nets.mlp import Policy
from precocial.ops.adam import Adam
from precocial.ops.distributions import log_prob
from precocial.ops.params import detach, expand
from precocial.ops.returns import reward_to_go
from precocial.ops.sums import mean, spread, total
from precocial.rollout import collect
from precocial.types import EnvSpec, Metrics, Params, Rollout, TaskEnv, Tasks, UserError


@dataclass(frozen=True)
class OnlineMAMLConfig(PolicyConfig):
    """Settings of MAML over a trial."""

    num_tasks: int = 1000
    """Tasks per iteration (N, the meta-batch)."""
    episodes_per_task: int = 1
    """Parallel episodes per stage (E); the protocol of bandits is 1."""
    hidden: tuple[int, ...] = ()
    """Widths of the policy's hidden layers; none: logits linear in the observation."""
    inner_lr: float = 1.0
    """Initial inner learning rate (alpha), learned."""
    inner_baseline: float = 0.5
    """Initial inner baseline (b), in reward units, learned."""
    outer_lr: float = 0.03
    """Adam's rate (beta)."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        positive(self, "outer_lr", "inner_lr")
        at_least(self, 1, "episodes_per_task")
        if not math.isfinite(self.inner_baseline):
            raise UserError(f"--inner-baseline is {self.inner_baseline}; expected a number")


class Inner(nn.Module):
    """The learned learning rule: alpha and b."""

    def __init__(self, cfg: OnlineMAMLConfig) -> None:
        super().__init__()
        self.log_lr = nn.Parameter(torch.tensor(math.log(cfg.inner_lr)))
        self.baseline = nn.Parameter(torch.tensor(float(cfg.inner_baseline)))

    def gradient(
        self, policy: Policy, params: Params, rollout: Rollout, gamma: float, *, create_graph: bool
    ) -> Params:
        """Gradient of L at theta per task (the first axis of ``params`` and of the data)."""
        ended = rollout.terminated | rollout.truncated
        to_go = reward_to_go(rollout.reward, ended, gamma)
        lp = log_prob(policy.dist(params, rollout.obs), rollout.action)
        loss = -(lp * (to_go - spread(self.baseline, to_go))).sum(2).mean(1)  # (N, E, T) -> (N,)
        grads = torch.autograd.grad(loss.sum(), list(params.values()), create_graph=create_graph)
        return dict(zip(params, grads, strict=True))


class OnlineMAML(PolicyMethod):
    """MAML that adapts after every episode of a trial."""

    cfg: OnlineMAMLConfig
    is_trial = True

    def __init__(
        self, cfg: OnlineMAMLConfig, spec: EnvSpec, rng: torch.Generator, device: str = "cpu"
    ) -> None:
        super().__init__(cfg, spec, rng, device)
        self.num_stages = spec.trial_episodes or 1
        self.inner = Inner(cfg).to(device)
        parameters = [*self.policy.parameters(), *self.inner.parameters()]
        self.optimizer = Adam(parameters, cfg.outer_lr)

    def meta_update(self, env: TaskEnv, tasks: Tasks, rng: torch.Generator) -> Metrics:
        """One trial on every task, then one Adam step on all of it."""
        n, e, k = tasks.num, self.cfg.episodes_per_task, self.num_stages
        learner = self.learner(n, e, rng)
        stages = []
        for stage in range(k):
            if stage:
                learner.adapt()
            stages.append(collect(env, tasks, learner, e, self.spec.horizon, rng))
        trial = fold(stages)  # (N*K, E, T)

        theta = expand(self.policy.theta, n * k)
        gradients = self.inner.gradient(
            self.policy, theta, trial, self.cfg.gamma, create_graph=True
        )
        lr = self.inner.log_lr.exp()
        phi = {}
        for name, g in gradients.items():
            g = g.unflatten(0, (n, k))
            seen = g.cumsum(1) - g  # the sum over the stages before this one
            phi[name] = theta[name] - (spread(lr, seen) * seen).flatten(0, 1)
        lp = log_prob(self.policy.dist(phi, trial.obs), trial.action)
        loss = -total(lp * self.credit(trial.reward, n)) / (n * e)

        self.optimizer.made.zero_grad()
        loss.backward()
        self.optimizer.made.step()
        for rollout in stages:
            self.policy.update_statistics(rollout.obs)
        returns = [float(mean(s.reward.sum(2))) for s in stages]
        return {
            "episode_reward_mean": returns[0],
            f"episode_reward_mean_adapt_{k - 1}": returns[-1],
            "train/trial_return_mean": sum(returns),
            "loss/outer": float(loss.detach()),
            "loss/inner_lr": float(lr.detach()),
            "loss/inner_baseline": float(self.inner.baseline.detach()),
        }

    def credit(self, reward: Float[Tensor, "nk e t"], n: int) -> Float[Tensor, "nk e t"]:
        """Undiscounted reward to go over the trial less its mean over tasks, standardised."""
        # Every lane of a stage feeds the later updates of all lanes, so all their rewards count.
        own = reward.flip(-1).cumsum(-1).flip(-1)
        later = reward.sum((1, 2)).unflatten(0, (n, -1))  # (N, K)
        later = later.flip(1).cumsum(1).flip(1) - later
        to_go = (own.unflatten(0, later.shape) + later[:, :, None, None]).detach()  # (N, K, E, T)
        centred = to_go - to_go.mean((0, 2), keepdim=True)
        return (centred / (to_go.std() + 1e-8)).flatten(0, 1)

    def test_lrs(self, num_updates: int) -> list[float]:
        """The learned rate, the same for every update."""
        return [float(self.inner.log_lr.detach().exp())] * num_updates

    def learner(self, num_tasks: int, lanes: int, rng: torch.Generator) -> OnlineLearner:
        """A learner that adapts from theta on everything so far."""
        return OnlineLearner(self, num_tasks, rng)

    def state_dict(self) -> dict[str, Any]:
        """Parameters, the learning rule, optimiser moments."""
        return super().state_dict() | {
            "inner": self.inner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        super().load_state_dict(state)
        self.inner.load_state_dict(state["inner"])
        self.optimizer.load_state_dict(state["optimizer"])


def fold(stages: list[Rollout]) -> Rollout:
    """Stages into the task axis: K rollouts (N, E, T) -> one (N*K, E, T), a task's in a row."""
    obs, action, reward, next_obs, terminated, truncated = (
        torch.stack(c, 1).flatten(0, 1) for c in zip(*(s[:6] for s in stages), strict=True)
    )
    return Rollout(obs, action, reward, next_obs, terminated, truncated, {})


class OnlineLearner(Recorder):
    """Acts with phi = theta - alpha times the sum of all gradients at theta so far."""

    def __init__(self, method: OnlineMAML, num_tasks: int, rng: torch.Generator) -> None:
        self.theta = {
            k: p.detach().clone() for k, p in expand(method.policy.theta, num_tasks).items()
        }
        super().__init__(copy.deepcopy(method.policy), self.theta, rng)
        self.inner, self.gamma = copy.deepcopy(method.inner), method.cfg.gamma
        self.total = {k: torch.zeros_like(p) for k, p in self.theta.items()}

    def adapt(self) -> None:
        """Add the gradient of what was observed since the last call."""
        rollout = self.take()
        with torch.enable_grad():
            theta = {k: p.requires_grad_() for k, p in detach(self.theta).items()}
            gradient = self.inner.gradient(
                self.policy, theta, rollout, self.gamma, create_graph=False
            )
        lr = float(self.inner.log_lr.detach().exp())
        self.total = {k: t + gradient[k] for k, t in self.total.items()}
        self.params = {k: p - lr * self.total[k] for k, p in self.theta.items()}

    def state_dict(self) -> dict[str, Any]:
        """All it has learned and its learning rule; data not yet adapted to are left out."""
        return {
            "theta": self.theta, "total": self.total, "params": self.params,
            "inner": self.inner.state_dict(), "policy": self.policy.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the saved learner."""
        self.theta, self.total, self.params = state["theta"], state["total"], state["params"]
        self.inner.load_state_dict(state["inner"])
        self.policy.load_state_dict(state["policy"])
