"""Returns and advantages along the time axis, the last one."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from precocial.ops.sums import mean_of_each


def reward_to_go(
    reward: Float[Tensor, "*b t"], ended: Bool[Tensor, "*b t"], gamma: float
) -> Float[Tensor, "*b t"]:
    """Discounted sum of the rewards from t to the end of t's episode (or of the data).

    Args:
        reward: Reward of step t.
        ended: True where step t was the last of its episode.
        gamma: Discount per environment step, in [0, 1].
    """
    keep = gamma * (~ended).to(reward.dtype)
    following = torch.zeros_like(reward[..., 0])
    out = []
    for r, k in zip(reversed(reward.unbind(-1)), reversed(keep.unbind(-1)), strict=True):
        following = torch.addcmul(r, k, following)
        out.append(following)
    return torch.stack(out[::-1], -1)


def gae(
    reward: Float[Tensor, "*b t"],
    value: Float[Tensor, "*b t"],
    next_value: Float[Tensor, "*b t"],
    terminated: Bool[Tensor, "*b t"],
    truncated: Bool[Tensor, "*b t"],
    gamma: float,
    gae_lambda: float,
) -> Float[Tensor, "*b t"]:
    """Generalised advantage estimate (Schulman et al. 2016, Eq. 16).

        delta_t = r_t + gamma V(s_{t+1}) - V(s_t);     A_t = delta_t + gamma lambda A_{t+1}

    Either ending stops the recursion; only termination drops V(s_{t+1}).

    Args:
        reward: Reward of step t.
        value: V(s_t).
        next_value: V of the true successor, not of the observation after a reset.
        terminated: The MDP ended with step t.
        truncated: The clock ended the episode with step t.
        gamma: Discount per environment step, in [0, 1].
        gae_lambda: Weight of longer estimates, in [0, 1].

    Returns:
        Advantages in reward units, not normalised.

    Raises:
        ValueError: gamma or gae_lambda is outside [0, 1].
    """
    if not (0 <= gamma <= 1 and 0 <= gae_lambda <= 1):
        raise ValueError(f"gamma {gamma} and gae_lambda {gae_lambda} must lie in [0, 1]")
    alive = (~terminated).to(reward.dtype)
    delta = reward + gamma * alive * next_value - value
    return reward_to_go(delta, terminated | truncated, gamma * gae_lambda)


def time_in_episode(ended: Bool[Tensor, "*b t"]) -> Int[Tensor, "*b t"]:
    """Steps since the episode's start at each step, from the end flags alone.

    The data are taken to begin with an episode.
    """
    steps = torch.arange(ended.shape[-1], device=ended.device).expand(ended.shape)
    # The step after an ending opens an episode; its index is carried forward by a running maximum.
    opens = torch.where(ended, steps + 1, 0).cummax(-1).values
    first = torch.cat([torch.zeros_like(opens[..., :1]), opens[..., :-1]], -1)
    return steps - first


def in_whole_episode(
    ended: Bool[Tensor, "*b t"], early: Bool[Tensor, "*b t"]
) -> Bool[Tensor, "*b t"]:
    """True for steps whose episode's end is in the data and not ``early``: its return is known."""
    steps = torch.arange(ended.shape[-1], device=ended.device).expand(ended.shape)
    none = steps.shape[-1]  # beyond the last step: no end in the data
    end = torch.where(ended, steps, none).flip(-1).cummin(-1).values.flip(-1)
    known = torch.cat([ended & ~early, torch.zeros_like(ended[..., :1])], -1)
    return known.gather(-1, end)


def first_episode_return(
    reward: Float[Tensor, "*b t"], ended: Bool[Tensor, "*b t"]
) -> Float[Tensor, "*b"]:
    """Undiscounted return of the first whole episode of every lane.

    Raises:
        ValueError: on some lane no episode ends within the data.
    """
    if not bool(ended.any(-1).all()):
        raise ValueError(
            f"some lanes end no episode within {reward.shape[-1]} steps; collect a horizon at least"
        )
    before_end = ended.long().cumsum(-1) - ended.long() == 0
    return (reward * before_end).sum(-1)


def episode_index(ended: Bool[Tensor, "*b t"]) -> Int[Tensor, "*b t"]:
    """Which episode of the data each step belongs to: 0, 1, ..."""
    return ended.long().cumsum(-1) - ended.long()


def episode_returns(
    reward: Float[Tensor, "*b t"], ended: Bool[Tensor, "*b t"], episodes: int
) -> Float[Tensor, "*b k"]:
    """Undiscounted return of each of the first ``episodes`` episodes of every lane.

    Raises:
        ValueError: some lane ends fewer episodes within the data.
    """
    if not bool((ended.sum(-1) >= episodes).all()):
        raise ValueError(f"some lanes end fewer than {episodes} episodes within the data")
    # Steps after the last episode fall into one more bin, which is dropped.
    index = episode_index(ended).clamp(max=episodes)
    sums = torch.zeros((*reward.shape[:-1], episodes + 1), dtype=reward.dtype, device=reward.device)
    return sums.scatter_add_(-1, index, reward)[..., :-1]


def last_valid(valid: Bool[Tensor, "*b t"]) -> Bool[Tensor, "*b t"]:
    """True at the last step of each lane's trial: valid, with nothing valid after it."""
    after = torch.cat([valid[..., 1:], torch.zeros_like(valid[..., :1])], -1)
    return valid & ~after


def normalise(advantage: Float[Tensor, "n *r"]) -> Float[Tensor, "n *r"]:
    """Mean 0 and standard deviation 1 within each task (the first axis)."""
    flat = advantage.flatten(1)
    mean, std = mean_of_each(flat).unsqueeze(1), flat.std(1, correction=0, keepdim=True)
    return ((flat - mean) / (std + 1e-8)).reshape(advantage.shape)
