"""Planning and learning in finite MDPs whose tables are known to the code, a batch at once."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def value_iteration(
    chance: Float[Tensor, "n s a z"],
    reward: Float[Tensor, "n s a"],
    horizon: int,
    discount: float = 1.0,
) -> tuple[Float[Tensor, "n s"], Int[Tensor, "n h s"]]:
    """Finite-horizon optimum: values at the first step, and the best action at every step.

    Args:
        chance: Transition probabilities from state s under action a to state z.
        reward: Mean reward of (s, a).
        horizon: Steps of an episode (H).
        discount: Weight of the next step's value, in [0, 1].
    """
    value = torch.zeros_like(reward[..., 0])
    policy = []
    for _ in range(horizon):
        ahead = (chance @ value[:, None, :, None]).squeeze(-1)  # (N, S, A)
        value, action = (reward + discount * ahead).max(-1)
        policy.append(action)
    return value, torch.stack(policy[::-1], 1)


def psrl(
    chance: Float[Tensor, "n s a s"],
    reward: Float[Tensor, "n s a"],
    horizon: int,
    episodes: int,
    rng: torch.Generator,
    prior_mean: float = 1.0,
) -> Float[Tensor, "n k"]:
    """Returns of posterior sampling (Osband et al. 2013) in episodes 1 to k from state 0.

    Before an episode it draws an MDP from its posterior and acts in it optimally, undiscounted.
    Prior: transitions Dirichlet(1), mean rewards N(prior_mean, 1), known unit noise on rewards.

    Args:
        chance: True transition probabilities.
        reward: True mean rewards.
        horizon: Steps of an episode (H).
        episodes: Episodes of a trial (k).
        rng: Draws posterior samples, transitions and rewards.
        prior_mean: Of the rewards. 1 is right for random MDPs; the published results, 138.1 over
            ten episodes, are those of 0, which explores less.
    """
    num = len(reward)
    task = torch.arange(num, device=reward.device)
    cumulated = chance.cumsum(-1)[..., :-1]
    concentration = torch.ones_like(chance)
    total, count = torch.full_like(reward, prior_mean), torch.ones_like(reward)
    returns = torch.zeros(num, episodes, device=reward.device)
    for episode in range(episodes):
        # torch.distributions draws without a generator, and calls just this.
        drawn_chance = torch._sample_dirichlet(concentration, generator=rng)
        noise = torch.randn(reward.shape, generator=rng, device=reward.device)
        drawn_reward = total / count + noise / count.sqrt()
        policy = value_iteration(drawn_chance, drawn_reward, horizon)[1]
        s = torch.zeros_like(task)
        for step in range(horizon):
            a = policy[task, step, s]
            noise = torch.randn(num, generator=rng, device=reward.device)
            r = reward[task, s, a] + noise
            draw = torch.rand((num, 1), generator=rng, device=reward.device)
            following = (draw > cumulated[task, s, a]).sum(-1)
            concentration[task, s, a, following] += 1
            total[task, s, a] += r
            count[task, s, a] += 1
            returns[:, episode] += r
            s = following
    return returns
