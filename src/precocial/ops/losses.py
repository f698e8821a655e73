"""Surrogate losses, to be minimised. Means are within a task: (N, B) in, (N,) out."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from precocial.ops.sums import mean_of_each, total


def policy_gradient_loss(
    log_prob: Float[Tensor, "n *b"], advantage: Float[Tensor, "n *b"]
) -> Float[Tensor, " n"]:
    """REINFORCE: minus the mean of log pi(a|s) A. First derivative right, Hessian biased."""
    return -mean_of_each(log_prob * advantage)


def likelihood_ratio_loss(
    log_prob: Float[Tensor, "n *b"],
    old_log_prob: Float[Tensor, "n *b"],
    advantage: Float[Tensor, "n *b"],
) -> Float[Tensor, " n"]:
    """Minus the mean of (pi / pi_old) A, step by step.

    The low-variance-curvature surrogate of Rothfuss et al. 2019, Eq. 15: both derivatives of the
    log-likelihood, the Hessian without the cross terms between steps.
    """
    return -mean_of_each((log_prob - old_log_prob).exp() * advantage)


def dice_loss(
    log_prob: Float[Tensor, "n e t"],
    old_log_prob: Float[Tensor, "n e t"],
    reward: Float[Tensor, "n e t"],
    value: Float[Tensor, "n e t"],
    first: Float[Tensor, "n e t"],
    gamma: float,
    scale: Float[Tensor, "n 1 1"],
    *,
    all_orders: bool = False,
) -> Float[Tensor, " n"]:
    """DiCE (Foerster et al. 2018, Eq. 6) with the baseline of their Eq. 8; all orders unbiased.

        L = -sum_t gamma^t [ box(a_0..t) r_t + (1 - box(a_t)) b_t ];   box = pi(...) / pi_old(...)

    with sums over one episode. Their baseline reduces the variance of first derivatives; with
    ``all_orders`` it is weighed by box(a_0..t-1), too, which reduces that of all (Loaded DiCE,
    Farquhar et al. 2019, https://arxiv.org/abs/1909.10549, with their lambda 1: the sum of
    gamma^t [box(a_0..t) - box(a_0..t-1)] A_t, by parts). Where pi is the policy that sampled, box
    is their exp(x - stop(x)); anywhere else the expectation of L and all its derivatives are those
    of minus the return of pi.

    Args:
        log_prob: log pi(a_t|s_t) under the parameters to differentiate.
        old_log_prob: log pi_old(a_t|s_t) of the policy that sampled.
        reward: Reward of step t; where an episode is cut, and what is expected to follow.
        value: Baseline b_t: expected discounted reward to go; must not depend on a_t.
        first: 1 where step t opens an episode, else 0.
        gamma: Discount per step; counted from the episode's start.
        scale: Factor on a task's rewards and baseline, so that one inner rate suits many units.
        all_orders: Let the baseline act on higher derivatives, too.
    """
    # (N, E, T) -> sums of log pi / pi_old over the episode so far, restarted at each opening.
    ratio = log_prob - old_log_prob
    total = ratio.cumsum(-1)
    steps = torch.arange(log_prob.shape[-1], device=log_prob.device).expand(first.shape)
    opening = torch.where(first > 0, steps, 0).cummax(-1).values
    before = torch.cat([torch.zeros_like(total[..., :1]), total[..., :-1]], -1)
    past = total - before.gather(-1, opening)
    # From a table: a vectorised power would round differently with the size of the batch.
    powers = gamma ** torch.arange(log_prob.shape[-1], device=reward.device, dtype=reward.dtype)
    discount = powers[steps - opening]
    weight = (past - ratio).exp() if all_orders else 1.0
    per_step = discount * scale * (past.exp() * reward + weight * (1 - ratio.exp()) * value)
    return mean_of_each(-per_step)


def ppo_clip_terms(
    log_prob: Float[Tensor, "*b"],
    old_log_prob: Float[Tensor, "*b"],
    advantage: Float[Tensor, "*b"],
    clip_eps: float,
) -> Float[Tensor, "*b"]:
    """Clipped surrogate of each step (Schulman et al. 2017, Eq. 7), to be minimised."""
    ratio = (log_prob - old_log_prob).exp()
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps)
    return -torch.minimum(ratio * advantage, clipped * advantage)


def ppo_clip_loss(
    log_prob: Float[Tensor, "n *b"],
    old_log_prob: Float[Tensor, "n *b"],
    advantage: Float[Tensor, "n *b"],
    clip_eps: float,
) -> Float[Tensor, " n"]:
    """Clipped surrogate of each task."""
    return mean_of_each(ppo_clip_terms(log_prob, old_log_prob, advantage, clip_eps))


def masked_mean(x: Float[Tensor, "*b"], mask: Float[Tensor, "*b"]) -> Float[Tensor, ""]:
    """Mean over the steps where ``mask`` is 1: the sum divided by the mask's; 0 if none is."""
    return total(x * mask) / total(mask).clamp(min=1)
