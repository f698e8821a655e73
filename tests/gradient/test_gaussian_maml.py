"""A Gaussian over parameters: lanes apart, closed forms, finite differences."""

import math
from dataclasses import replace

import pytest
import torch

from precocial.algos.gradient.gaussian_maml import (
    GaussianMAML,
    GaussianMAMLConfig,
    LaneActor,
    draw,
    lane_dist,
    lane_params,
)
from precocial.envs.control.point_nav import PointNav, PointNavConfig
from precocial.ops import params
from precocial.rollout import collect
from precocial.types import UserError


def method(horizon=4, **fields):
    env = PointNav(PointNavConfig(horizon=horizon))
    settings = {"num_tasks": 2, "episodes_per_task": 3, "hidden": (3,), "init_scale": 0.3}
    cfg = GaussianMAMLConfig(**settings | fields)
    return GaussianMAML(cfg, env.spec, torch.Generator().manual_seed(1)), env


def stages(algo, env, count=2):
    """Data of ``count`` stages with what was drawn for them."""
    rng = torch.Generator().manual_seed(3)
    tasks = env.sample_tasks(2, "train", rng)
    found = []
    for _ in range(count):
        phi = params.detach(algo.policy.start(algo.policy.theta, 2))
        actor = LaneActor(algo.policy, phi, algo.scale, 3, rng)
        rollout = collect(env, tasks, actor, 3, env.spec.horizon, rng)
        found.append(algo.score(rollout, actor))
    return found


def test_each_lane_acts_by_its_own_draw():
    algo, env = method()
    [(batch, noise)] = stages(algo, env, 1)
    phi = algo.policy.start(algo.policy.theta, 2)
    own = lane_params(phi, algo.scale, noise)
    for n in range(2):
        for e in range(3):
            lane = {k: p[3 * n + e] for k, p in own.items()}
            for k, eps in noise.items():
                assert torch.equal(lane[k], algo.policy.theta[k] + algo.scale[k] * eps[n, e])
            alone = algo.policy.dist(lane, batch.obs[n].view(3, 4, 2)[e])["mean"]
            assert torch.allclose(alone, batch.dist["mean"][n].view(3, 4, 2)[e], atol=1e-6)
    again = lane_dist(algo.policy, phi, algo.scale, noise, batch.obs)
    assert torch.allclose(again["mean"], batch.dist["mean"], atol=1e-6)


def test_draws_have_the_scale_that_is_asked_for():
    algo, _ = method(init_scale=0.2)
    phi = params.detach(algo.policy.start(algo.policy.theta, 50))
    noise = draw(phi, algo.scale, 40, torch.Generator().manual_seed(0))
    spread = lane_params(phi, algo.scale, noise)["weight_0"].std(0)
    assert torch.allclose(spread, torch.full_like(spread, 0.2), rtol=0.1)
    assert "log_std" not in noise


@pytest.mark.parametrize("drawn", ["all", "head", "context"])
@pytest.mark.parametrize("scale_per", ["parameter", "layer"])
def test_meta_gradient_equals_finite_differences(drawn, scale_per, double):
    algo, env = method(
        drawn=drawn, scale_per=scale_per, kl_weight=0.1, inner_steps=2, context_dim=2
    )
    data = stages(algo, env, 3)

    def value(meta):
        clip, kl = algo.task_losses(meta, data)
        return (clip + 0.1 * kl).mean()

    meta = {k: p.detach().clone().requires_grad_() for k, p in algo.meta.items()}
    gradient = torch.cat(
        [g.flatten() for g in torch.autograd.grad(value(meta), list(meta.values()))]
    )
    at = params.flatten(meta).detach()
    v, h = torch.randn(len(at), generator=torch.Generator().manual_seed(5)), 1e-6

    def along(step):
        moved = params.unflatten(at + step * v, meta)
        return float(value({k: p.requires_grad_() for k, p in moved.items()}).detach())

    assert (along(h) - along(-h)) / (2 * h) == pytest.approx(float(gradient @ v), rel=1e-5)


def test_kl_is_that_of_two_gaussians():
    algo, env = method(inner_lr=2.0)
    data = stages(algo, env)
    _, kl = algo.task_losses(algo.meta, data)
    phi = params.detach(algo.policy.start(algo.policy.theta, 2))
    phi = algo.make_update()(phi, data[0], 2.0)
    for n in range(2):
        total = 0.0
        for k, s in algo.scale.items():
            there, here = (
                torch.distributions.Normal(m, s) for m in (phi[k][n], algo.policy.theta[k].detach())
            )
            total += float(torch.distributions.kl_divergence(there, here).sum())
        assert float(kl[n].detach()) == pytest.approx(total, rel=1e-3)


def test_a_tiny_scale_is_promp():
    """With sigma near 0 every lane has the mean, and the loss is ProMP's without its KL."""
    from precocial.algos.gradient.promp import ProMP, ProMPConfig

    algo, env = method(init_scale=1e-6, kl_weight=0.0)
    data = stages(algo, env)
    cfg = ProMPConfig(num_tasks=2, episodes_per_task=3, hidden=(3,), inner_kl_coef=0.0)
    promp = ProMP(cfg, env.spec, torch.Generator().manual_seed(1))
    ours, _ = algo.task_losses(algo.meta, data)
    theirs, _ = promp.task_losses([data[0].batch], data[1].batch)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_training_moves_mean_and_scale():
    algo, env = method(learn_lr=True)
    before = {k: p.detach().clone() for k, p in algo.meta.items()}
    rng = torch.Generator().manual_seed(4)
    metrics = algo.meta_update(env, env.sample_tasks(2, "train", rng), rng)
    assert all(math.isfinite(v) for v in metrics.values())
    assert all(not torch.equal(before[k], p) for k, p in algo.meta.items())
    twin, _ = method(learn_lr=True)
    twin.load_state_dict(algo.state_dict())
    assert all(torch.equal(twin.meta[k], p) for k, p in algo.meta.items())


def test_a_learner_draws_anew_after_an_update_and_its_best_actions_are_the_means():
    algo, env = method()
    rng = torch.Generator().manual_seed(4)
    tasks = env.sample_tasks(2, "train", rng)
    learner = algo.learner(2, 3, rng)
    before = {k: e.clone() for k, e in learner.drawn.noise.items()}
    collect(env, tasks, learner, 3, 4, rng)
    learner.adapt()
    assert all(not torch.equal(before[k], e) for k, e in learner.drawn.noise.items())
    obs = torch.randn(2, 3, 2, generator=rng)
    best = learner.act(obs, explore=False)
    assert torch.allclose(best, algo.policy.dist(learner.params, obs)["mean"])
    other = algo.learner(2, 3, rng)
    other.load_state_dict(learner.state_dict())
    again = algo.policy.dist(
        lane_params(learner.params, algo.scale, other.drawn.noise), obs.view(6, 1, 2)
    )
    other.act(obs)
    assert torch.allclose(other.acted["mean"].view(6, 1, 2), again["mean"], atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"init_scale": 0.0}, "--init-scale"), ({"kl_weight": -1.0}, "--kl-weight"),
        ({"clip_eps": math.nan}, "--clip-eps"), ({"inner_steps": 0}, "--inner-steps"),
        ({"drawn": "body", "hidden": ()}, "--drawn is body"),
    ],
)  # fmt: skip
def test_settings_without_a_meaning_are_refused(fields, word):
    with pytest.raises(UserError, match=word):
        replace(GaussianMAMLConfig(), **fields)
