"""Meta-gradients: closed forms, finite differences of exact objectives, properties."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from jaxtyping import Float  # noqa: F401  (annotations are checked while tests run)

from precocial.algos import ALGOS, build
from precocial.algos.gradient.e_maml import EMAML, EMAMLConfig
from precocial.algos.gradient.maml import MAML, FisherProduct, MAMLConfig
from precocial.algos.gradient.reptile import ReptileConfig
from precocial.algos.gradient.shared import (
    Batch,
    GradientConfig,
    NetworkConfig,
    policy_losses,
    score,
)
from precocial.algos.transfer.begin import begin
from precocial.algos.transfer.config import TransferConfig
from precocial.envs import ENVS
from precocial.envs.control.point_nav import PointNav, PointNavConfig
from precocial.nets.mlp import Policy
from precocial.ops import distributions, params
from precocial.ops.adaptation import adapt, inner_update
from precocial.ops.returns import first_episode_return
from precocial.rollout import collect
from precocial.types import EnvSpec, UserError

# ---- an MDP small enough to enumerate ------------------------------------------------------

STATES, ACTIONS = 2, 2
SPEC = EnvSpec("tiny", STATES, "discrete", ACTIONS, (), (), 3, None, 0)


class TinyMDP:
    """Two states, two actions, deterministic start; every trajectory can be listed."""

    def __init__(self, horizon: int, task: int) -> None:
        g = torch.Generator().manual_seed(100 + task)
        self.horizon = horizon
        self.chance = torch.rand(STATES, ACTIONS, STATES, generator=g) + 0.1
        self.chance /= self.chance.sum(-1, keepdim=True)
        self.reward = torch.randn(STATES, ACTIONS, generator=g)

    def trajectories(self):
        """All (states, actions, environment probability)."""
        for actions in itertools.product(range(ACTIONS), repeat=self.horizon):
            for later in itertools.product(range(STATES), repeat=self.horizon - 1):
                states = (0, *later)
                weight = 1.0
                for s, a, z in zip(states, actions, later, strict=False):
                    weight *= float(self.chance[s, a, z])
                yield states, actions, weight

    def expected_return(self, log_pi):
        """Exact expected return of a policy table (S, A) of log-probabilities, gamma 1."""
        total = 0.0
        for states, actions, weight in self.trajectories():
            lp = sum(log_pi[s, a] for s, a in zip(states, actions, strict=True))
            gain = sum(self.reward[s, a] for s, a in zip(states, actions, strict=True))
            total = total + weight * lp.exp() * gain
        return total


def linear_policy():
    policy = Policy(SPEC, (), "tanh", 1.0, False, torch.Generator().manual_seed(1))
    return policy.double()


def table(policy, theta):
    """Log-probabilities (S, A) under shared parameters."""
    return policy.dist(theta, torch.eye(STATES))["logits"]


def exact_adapted(policy, theta, mdp, lr, steps):
    """Gradient ascent on the exact expected return, differentiable."""
    for _ in range(steps):
        gain = mdp.expected_return(table(policy, theta))
        grads = torch.autograd.grad(gain, list(theta.values()), create_graph=True)
        theta = {k: p + lr * g for (k, p), g in zip(theta.items(), grads, strict=True)}
    return theta


def weighted_support(policy, phi, mdp, cfg, baseline=0.3):
    """Every trajectory as a lane, with its probability under phi folded into reward and advantage.

    The mean over lanes of (weight x per-trajectory loss) is then the exact expectation, so the
    estimator has no sampling error; only its bias is left.
    """
    rows = list(mdp.trajectories())
    states = torch.tensor([r[0] for r in rows])[None]  # (1, E, T)
    actions = torch.tensor([r[1] for r in rows])[None]
    chance = torch.tensor([r[2] for r in rows])
    with torch.no_grad():
        lp = table(policy, {k: v[0] for k, v in phi.items()})[states, actions]
        # Means divide by E*T; the objective is a sum over steps and an expectation.
        weight = (chance * lp.sum(-1).exp())[:, :, None] * lp.shape[1] * lp.shape[2]
    reward = mdp.reward[states, actions]
    to_go = reward.flip(-1).cumsum(-1).flip(-1)
    first = torch.zeros_like(reward)
    first[..., 0] = 1
    flat = lambda x: x.flatten(1, 2)  # noqa: E731
    obs = torch.nn.functional.one_hot(states, STATES).double()
    return Batch(
        flat(obs), flat(actions), policy.dist(phi, flat(obs)), flat(lp),
        flat(weight * (to_go - baseline)), weight * reward, (weight * baseline).expand_as(reward),
        first, torch.ones(1, 1, 1), torch.zeros(1),
    )  # fmt: skip


def meta_gradient(estimator, horizon, steps, task, *, first_order=False, moved=0.0):
    """(ours, exact) gradients of the return after adapting, both with exact expectations.

    ``moved`` is how far theta has gone since the data were sampled, as in a line search.
    """
    policy, mdp, lr = linear_policy(), TinyMDP(horizon, task), 0.3
    cfg = GradientConfig(estimator=estimator, inner_lr=lr, inner_steps=steps, gamma=1.0)
    theta = {k: p.detach().requires_grad_() for k, p in policy.named_parameters()}
    supports, phi = [], params.expand(theta, 1)
    for _ in range(steps):
        supports.append(weighted_support(policy, params.detach(phi), mdp, cfg))
        [loss] = policy_losses(policy, supports[-1:], cfg)
        phi = inner_update(loss, phi, lr, second_order=False)
    g = torch.Generator().manual_seed(7)
    theta = {
        k: (p.detach() + moved * torch.randn(p.shape, generator=g)).requires_grad_()
        for k, p in theta.items()
    }
    losses = policy_losses(policy, supports, cfg)
    adapted = adapt(losses, params.expand(theta, 1), lr, second_order=not first_order)
    gain = mdp.expected_return(table(policy, {k: v[0] for k, v in adapted.items()}))
    ours = params.flatten(
        dict(zip(theta, torch.autograd.grad(gain, list(theta.values())), strict=True))
    )

    def objective(vector):
        leaves = {k: p.requires_grad_() for k, p in params.unflatten(vector, theta).items()}
        best = exact_adapted(policy, leaves, mdp, lr, steps)
        return float(mdp.expected_return(table(policy, best)).detach())

    at, h = params.flatten(theta).detach(), 1e-5
    exact = torch.stack([
        torch.tensor((objective(at + h * e) - objective(at - h * e)) / (2 * h))
        for e in torch.eye(len(at))
    ])  # fmt: skip
    return ours, exact


def relative_error(estimator, horizon, steps, **kwargs):
    errors = [meta_gradient(estimator, horizon, steps, task, **kwargs) for task in range(3)]
    return max(float((ours - exact).norm() / exact.norm()) for ours, exact in errors)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("horizon", [1, 2, 3])
@pytest.mark.parametrize("estimator", ["dice", "loaded-dice"])
def test_dice_equals_finite_differences_of_the_exact_objective(double, estimator, horizon, steps):
    assert relative_error(estimator, horizon, steps) < 1e-6


@pytest.mark.parametrize("steps", [1, 2])
def test_dice_is_exact_after_theta_has_moved(double, steps):
    assert relative_error("dice", 3, steps, moved=0.5) < 1e-6
    assert relative_error("loaded-dice", 3, steps, moved=0.5) < 1e-6
    assert relative_error("likelihood-ratio", 1, steps, moved=0.5) < 1e-6
    assert relative_error("likelihood-ratio", 3, steps, moved=0.5) > 0.01
    assert relative_error("log-likelihood", 1, steps, moved=0.5) > 0.1


@pytest.mark.parametrize("steps", [1, 2])
def test_likelihood_ratio_is_exact_at_horizon_one(double, steps):
    assert relative_error("likelihood-ratio", 1, steps) < 1e-6


def test_bias_of_the_estimators_is_known_and_printed(double, capsys):
    lines = ["relative error of the meta-gradient (worst of 3 tasks)",
             "horizon K   dice     likelihood-ratio  log-likelihood  first-order"]  # fmt: skip
    worst = {}
    for horizon, steps in itertools.product((1, 2, 3), (1, 2)):
        row = [
            relative_error(e, horizon, steps)
            for e in ("dice", "likelihood-ratio", "log-likelihood")
        ]
        row.append(relative_error("dice", horizon, steps, first_order=True))
        worst[horizon, steps] = row
        lines.append(
            f"{horizon:7} {steps}  {row[0]:.1e}  {row[1]:16.3f}  {row[2]:14.3f}  {row[3]:11.3f}"
        )
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    for (horizon, _), (dice, ratio, likelihood, first_order) in worst.items():
        assert dice < 1e-6
        assert likelihood > 0.01
        assert first_order > 0.01
        assert ratio < 1e-6 if horizon == 1 else ratio > 1e-4


@pytest.mark.parametrize("steps", [1, 2])
def test_credit_for_what_was_collected_makes_the_gradient_exact(double, steps):
    """E-MAML of one episode an update: the sum over all that can happen, by finite differences."""
    mdp, lr = TinyMDP(2, 0), 0.5
    cfg = EMAMLConfig(inner_lr=lr, inner_steps=steps, hidden=(), gamma=1.0)
    algo = EMAML(cfg, SPEC, torch.Generator().manual_seed(1))
    algo.policy.double()
    every = list(itertools.product(list(mdp.trajectories()), repeat=steps))

    def batch(rows):
        """One episode of each task."""
        states, actions = (torch.tensor([r[i] for r in rows])[:, None] for i in (0, 1))
        reward = mdp.reward[states, actions]
        advantage = (reward.flip(-1).cumsum(-1).flip(-1) - 0.3).flatten(1)
        obs = torch.nn.functional.one_hot(states, STATES).double().flatten(1, 2)
        n, none = len(rows), torch.zeros_like(advantage)
        return Batch(
            obs, actions.flatten(1), {}, none, advantage, reward, reward, reward,
            torch.ones(n, 1, 1), torch.zeros(n),
        )  # fmt: skip

    supports = [batch([trial[k] for trial in every]) for k in range(steps)]
    world = torch.tensor([math.prod(r[2] for r in trial) for trial in every])

    def pieces(theta):
        """Return after the updates and log chance of the actions, of each trial."""
        losses = policy_losses(algo.policy, supports, cfg)
        phi = adapt(losses, params.expand(theta, len(every)), lr, second_order=True)
        gains = [
            mdp.expected_return(table(algo.policy, {k: v[n] for k, v in phi.items()}))
            for n in range(len(every))
        ]
        return torch.stack(gains), 2 * algo.chance(theta, supports, second_order=True)

    def exact(vector):
        leaves = params.unflatten(vector, algo.policy.theta)
        gains, chance = pieces({k: p.detach().requires_grad_() for k, p in leaves.items()})
        return float((world * chance.exp() * gains).sum().detach())

    theta = {k: p.detach().requires_grad_() for k, p in algo.policy.theta.items()}
    gains, chance = pieces(theta)
    ours = (world * chance.exp()).detach() * (gains + gains.detach() * chance)
    gradient = params.flatten(
        dict(zip(theta, torch.autograd.grad(ours.sum(), list(theta.values())), strict=True))
    )
    at = params.flatten(theta).detach()
    v, h = torch.randn(len(at), generator=torch.Generator().manual_seed(5)), 1e-6
    slope = (exact(at + h * v) - exact(at - h * v)) / (2 * h)
    assert slope == pytest.approx(float(gradient @ v), rel=1e-6)


def test_credit_is_of_the_return_above_that_of_other_tasks():
    cfg = EMAMLConfig(num_tasks=6, episodes_per_task=4, hidden=(8, 8))
    env, rng = PointNav(PointNavConfig(horizon=10)), torch.Generator().manual_seed(0)
    algo = EMAML(cfg, env.spec, rng)
    stages = algo.collect_stages(env, env.sample_tasks(6, "train", rng), rng)
    *supports, query = stages.batches
    earned = stages.rollouts[-1].reward.sum(2).mean(1)
    others = (earned.sum() - earned) / 5
    assert torch.allclose(query.above, (earned - others) / (1 / query.scale).mean(), atol=1e-3)
    plain = MAML.outer_loss(algo, algo.meta, supports, query, second_order=True)[0]
    loss = algo.outer_loss(algo.meta, supports, query, second_order=True)[0]
    acted = supports[0].log_prob.sum(1) / 10
    assert torch.allclose(plain - loss, acted * query.above, atol=1e-3)


@pytest.mark.parametrize("name", ["cart-pole", "point-nav-corners"])
def test_credit_is_for_the_return_of_an_episode_in_a_unit_of_all_tasks(name):
    """A lane of cart-pole always has a reward of 1 a step; most tasks of corners have none."""
    env, rng = ENVS[name].cls(), torch.Generator().manual_seed(0)
    cfg = EMAMLConfig(num_tasks=8, episodes_per_task=4, hidden=(8,))
    algo = EMAML(cfg, env.spec, rng)
    stages = algo.collect_stages(env, env.sample_tasks(8, "train", rng), rng)
    rollout, query = stages.rollouts[-1], stages.batches[-1]
    ended = rollout.terminated | rollout.truncated
    earned = first_episode_return(rollout.reward, ended).mean(1)
    others = (earned.sum() - earned) / 7
    # The first episode and those that others ended before.
    episodes = 1 + float(ended[..., :-1].sum()) / 32
    unit = float((1 / query.scale).mean()) / episodes
    assert (query.scale.max() > 1e7) == (name == "point-nav-corners")
    assert torch.allclose(query.above, (earned - others) / unit, rtol=1e-3, atol=1e-4)


# ---- quadratic losses -----------------------------------------------------------------------


@pytest.mark.parametrize("first_order", [False, True])
def test_quadratic_losses_have_the_closed_form_meta_gradient(double, first_order):
    # L_i = |theta - c_i|^2 / 2: phi = theta - alpha (theta - c), so the meta-gradient is
    # (1 - alpha)^2 (theta - mean c), first-order (1 - alpha) (theta - mean c).
    centres, alpha = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), 0.3
    theta = {"x": torch.tensor([1.0, -2.0, 0.5], requires_grad=True)}

    def loss(phi):
        return 0.5 * (phi["x"] - centres).square().sum(1)

    phi = adapt([loss], params.expand(theta, 4), alpha, second_order=not first_order)
    ours = torch.autograd.grad(loss(phi).mean(), theta["x"])[0]
    power = 1 if first_order else 2
    assert torch.allclose(ours, (1 - alpha) ** power * (theta["x"] - centres.mean(0)))


# ---- properties -----------------------------------------------------------------------------


def support(n=6, e=4, seed=0, cfg=None, horizon=10):
    """A policy, data of n tasks and the tasks."""
    env = PointNav(PointNavConfig(horizon=horizon))
    rng = torch.Generator().manual_seed(seed)
    maml = MAML(cfg or MAMLConfig(num_tasks=n, episodes_per_task=e, hidden=(8, 8)), env.spec, rng)
    tasks = env.sample_tasks(n, "train", rng)
    return maml, env, tasks, maml.collect_stages(env, tasks, rng)


def test_adapted_parameters_do_not_depend_on_the_other_tasks():
    maml, _, _, stages = support()
    batch, cfg = stages.batches[0], maml.cfg

    def updated(data):
        [loss] = policy_losses(maml.policy, [data], cfg)
        phi = params.expand(maml.policy.theta, data.obs.shape[0])
        return inner_update(loss, phi, 0.1, second_order=False)

    together = updated(batch)
    order = torch.tensor([3, 1, 2, 0, 5, 4])
    other = Batch(
        *[
            x[order] if not isinstance(x, dict) else {k: v[order] for k, v in x.items()}
            for x in batch
        ]
    )
    permuted, alone = updated(other), updated(batch.select(slice(0, 1)))
    for k in together:
        assert torch.equal(together[k][order], permuted[k])
        assert torch.equal(together[k][:1], alone[k])


def test_inner_rate_zero_is_the_identity():
    maml, _, _, stages = support()
    phi = params.expand(maml.policy.theta, 6)
    [loss] = policy_losses(maml.policy, stages.batches[:1], maml.cfg)
    new = inner_update(loss, phi, 0.0, second_order=False)
    assert all(torch.equal(new[k], phi[k]) for k in phi)


def test_the_ratio_is_one_before_any_update():
    maml, _, _, stages = support()
    *supports, query = stages.batches
    dist = maml.policy.dist(stages.phi, query.obs)
    assert torch.allclose(distributions.log_prob(dist, query.action), query.log_prob, atol=1e-5)
    loss, kl = maml.outer_loss(maml.policy.theta, supports, query, second_order=False)
    assert loss.abs().max() < 1e-5  # the mean of normalised advantages
    assert kl.abs().max() < 1e-6


@pytest.mark.parametrize("learn_lr", [False, True])
def test_fisher_product_is_the_hessian_of_the_kl_through_the_adaptation(learn_lr, double):
    cfg = MAMLConfig(
        num_tasks=2, episodes_per_task=3, hidden=(3,), fisher_every=1, damping=0.0,
        learn_lr=learn_lr,
    )  # fmt: skip
    maml, _, _, stages = support(2, cfg=cfg, horizon=4)
    maml.policy.double()
    *supports, query = stages.batches
    theta = params.detach(maml.policy.theta)
    losses = policy_losses(maml.policy, supports, cfg)
    phi = adapt(losses, params.expand(theta, 2), cfg.inner_lr, second_order=False)
    query = query._replace(dist=distributions_of(maml, phi, query))

    def divergence(vector):
        leaves = params.unflatten(vector, theta)
        return maml.outer_loss(leaves, supports, query, second_order=True)[1].mean()

    hessian = torch.autograd.functional.hessian(divergence, params.flatten(theta))
    v = torch.randn(len(hessian), generator=torch.Generator().manual_seed(5))
    ours = FisherProduct(maml, supports, query)(v)
    assert torch.allclose(ours, hessian @ v, rtol=1e-6, atol=1e-9)


def distributions_of(maml, phi, query):
    return params.detach(maml.policy.dist(phi, query.obs))


@pytest.mark.parametrize("learn_lr", [False, True])
@pytest.mark.parametrize("adapt", ["all", "head", "body", "context"])
def test_outer_gradient_equals_finite_differences(adapt, learn_lr, double):
    cfg = MAMLConfig(
        num_tasks=2, episodes_per_task=3, hidden=(3,), inner_steps=3, learn_lr=learn_lr,
        adapt=adapt, context_dim=2,
    )  # fmt: skip
    maml, _, _, stages = support(2, cfg=cfg, horizon=4)
    maml.policy.double()
    *supports, query = stages.batches
    gradient, _ = maml.outer_gradient(maml.meta, supports, query)
    at = params.flatten(maml.meta).detach()
    v = torch.randn(len(at), generator=torch.Generator().manual_seed(5))

    def loss(vector):
        leaves = {k: p.requires_grad_() for k, p in params.unflatten(vector, maml.meta).items()}
        return float(
            maml.outer_loss(leaves, supports, query, second_order=False)[0].mean().detach()
        )

    h = 1e-6
    slope = (loss(at + h * v) - loss(at - h * v)) / (2 * h)
    assert slope == pytest.approx(float(params.flatten(gradient) @ v), rel=1e-5)


@pytest.mark.parametrize(
    ("adapt", "moved"),
    [
        ("all", {"weight_0", "bias_0", "weight_1", "bias_1", "log_std"}),
        ("head", {"weight_1", "bias_1", "log_std"}),
        ("body", {"weight_0", "bias_0"}),
        ("context", {"context"}),
    ],
)
def test_an_update_moves_what_it_is_asked_to(adapt, moved, rng):
    cfg = MAMLConfig(num_tasks=3, episodes_per_task=4, hidden=(5,), adapt=adapt, context_dim=2)
    maml, env, tasks, _ = support(3, cfg=cfg)
    learner = maml.learner(3, 4, rng)
    before = dict(learner.params)
    collect(env, tasks, learner, 4, 10, rng)
    learner.adapt()
    assert {k for k, p in learner.params.items() if not torch.equal(p, before[k])} == moved
    assert {k.removeprefix("lr/") for k in maml.meta} == {*maml.policy.theta}
    with_rates = MAML(replace(cfg, learn_lr=True), env.spec, rng)
    assert {*with_rates.learned_rates()} == moved


def test_a_body_without_hidden_layers_is_refused():
    with pytest.raises(UserError, match=r"--adapt is body.*--hidden"):
        MAMLConfig(hidden=(), adapt="body")


def test_a_context_is_read_after_a_start_from_a_source_without_one(rng):
    """Weights of 0 would be a saddle: no gradient reaches the context, so none reaches them."""
    fields = {"num_tasks": 3, "episodes_per_task": 4, "hidden": (5,)}
    env = PointNav(PointNavConfig(horizon=8))
    source = MAML(MAMLConfig(**fields), env.spec, rng)
    cavia = MAML(MAMLConfig(**fields, adapt="context", context_dim=2), env.spec, rng)
    nets = {"actor": source.networks()["actor"], "normaliser": source.networks()["normaliser"]}
    begin(cavia, TransferConfig(), {"nets": nets, "obs_dim": env.spec.obs_dim})
    obs = torch.randn(3, 4, env.spec.obs_dim, generator=rng)
    acts, would = (m.policy.dist(m.policy.start(m.policy.theta, 3), obs) for m in (cavia, source))
    assert torch.allclose(acts["mean"], would["mean"], atol=1e-6)
    assert (cavia.policy.theta["weight_0"][-2:] != 0).all()
    kept = cavia.policy.theta["weight_0"].detach().clone()
    again = MAML(cavia.cfg, env.spec, rng)
    begin(again, TransferConfig(), {"nets": cavia.networks(), "obs_dim": env.spec.obs_dim})
    assert torch.equal(again.policy.theta["weight_0"], kept)


def test_a_trust_region_moves_learned_rates_too():
    cfg = MAMLConfig(num_tasks=6, episodes_per_task=4, hidden=(5,), learn_lr=True)
    maml, _, _, stages = support(6, cfg=cfg)
    *supports, query = stages.batches
    metrics = maml.trust_region_step(supports, query)
    assert 0 < metrics["loss/kl"] <= cfg.max_kl
    for r in maml.learned_rates().values():  # a step of Adam has the same length for any gradient
        assert float((r.log() - math.log(0.1)).abs().max()) == pytest.approx(0.03, rel=0.01)


def test_trust_region_step_stays_within_the_limit_and_improves():
    maml, _, _, stages = support(8, 10)
    *supports, query = stages.batches
    metrics = maml.trust_region_step(supports, query)
    assert 0 < metrics["loss/kl"] <= maml.cfg.max_kl
    assert metrics["loss/outer_after"] < metrics["loss/outer"]


BY_GRADIENT = [n for n, e in ALGOS.items() if isinstance(e.config, NetworkConfig) and n != "oracle"]


@pytest.mark.parametrize(
    ("name", "family"),
    [(n, "cart-pole") for n in BY_GRADIENT]
    + [(n, "point-nav") for n in BY_GRADIENT if "box" in ALGOS[n].action],
)
def test_every_algorithm_updates_saves_and_adapts(name, family, rng):
    from precocial.envs import ENVS

    env = ENVS[family].cls(ENVS[family].config(horizon=8))
    cfg = replace(ALGOS[name].config, num_tasks=3, episodes_per_task=4, hidden=(8,))
    algo = build(cfg, env.spec, rng)
    tasks = env.sample_tasks(3, "train", rng)
    before = params.flatten(algo.policy.theta).detach().clone()
    metrics = algo.meta_update(env, tasks, rng)
    assert all(isinstance(v, float) for v in metrics.values())
    assert not torch.equal(before, params.flatten(algo.policy.theta))
    twin = build(cfg, env.spec, torch.Generator().manual_seed(99))
    twin.load_state_dict(algo.state_dict())
    assert torch.equal(params.flatten(algo.policy.theta), params.flatten(twin.policy.theta))
    theta = params.flatten(algo.policy.theta).detach().clone()
    learner = algo.learner(3, 4, rng)
    collect(env, tasks, learner, 4, 8, rng)
    learner.adapt()
    assert learner.params["bias_0"].shape[0] == 3
    assert any(not torch.equal(p[0], p[1]) for p in learner.params.values())
    assert torch.equal(theta, params.flatten(algo.policy.theta))  # training saw nothing of it


def test_three_inner_steps_resample_each_time(rng):
    *_, stages = support(cfg=MAMLConfig(num_tasks=6, episodes_per_task=4, inner_steps=3))
    assert len(stages.rollouts) == 4
    actions = [r.action for r in stages.rollouts]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(actions, 2))
    assert "episode_reward_mean_adapt_3" in stages.metrics()


def test_reptile_moves_towards_the_mean_of_the_adapted_parameters(rng):
    env = PointNav(PointNavConfig(horizon=8))
    cfg = replace(ALGOS["reptile"].config, num_tasks=3, episodes_per_task=4, outer_lr=1.0)
    algo = build(cfg, env.spec, rng)
    tasks = env.sample_tasks(3, "train", rng)
    kept = {}
    inner = algo.collect_stages
    algo.collect_stages = lambda *a, **k: kept.setdefault("stages", inner(*a, **k))
    algo.meta_update(env, tasks, rng)
    mean = {k: v.mean(0) for k, v in kept["stages"].phi.items()}
    assert torch.allclose(params.flatten(mean), params.flatten(algo.policy.theta), atol=1e-6)


def test_reptile_takes_a_whole_number_as_its_rate(rng):
    env = PointNav(PointNavConfig(horizon=8))
    cfg = ReptileConfig(num_tasks=3, episodes_per_task=4, inner_lr=1)
    build(cfg, env.spec, rng).meta_update(env, env.sample_tasks(3, "train", rng), rng)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_reptile_tasks_do_not_share_optimiser_state(optimizer, rng):
    env = PointNav(PointNavConfig(horizon=8))
    cfg = replace(
        ALGOS["reptile"].config, num_tasks=3, episodes_per_task=4, inner_optimizer=optimizer,
        inner_epochs=3,
    )  # fmt: skip
    algo = build(cfg, env.spec, rng)
    tasks = env.sample_tasks(3, "train", rng)
    stages = algo.collect_stages(env, tasks, rng)
    batch, theta = stages.batches[0], params.expand(algo.policy.theta, 3)
    together = algo.make_update()(theta, batch, 0.1)
    alone = algo.make_update()(params.expand(algo.policy.theta, 1), batch.select(slice(1, 2)), 0.1)
    for k in together:
        assert torch.allclose(together[k][1:2], alone[k], atol=1e-6)


def with_a_diverged_step(rollout):
    """The same, where a simulation diverged at step 3 of the first lane."""
    truncated, lost = rollout.truncated.clone(), torch.zeros_like(rollout.reward)
    truncated[0, 0, 3], lost[0, 0, 3] = True, 1
    extra = rollout.extra | {"info/diverged": lost}
    return rollout._replace(truncated=truncated, extra=extra)


def test_a_diverged_step_has_no_advantage_and_is_counted():
    _, env, _, stages = support()
    data = with_a_diverged_step(stages.rollouts[0])
    batch = score(data, MAMLConfig(), env.spec)
    assert batch.advantage[0, 3] == 0 and (batch.advantage == 0).sum() == 1
    assert batch.first[0, 0, 4] == 1
    seen = stages._replace(rollouts=[data, *stages.rollouts[1:]])
    assert seen.metrics()["train/lanes_diverged"] == 1
    assert "train/lanes_diverged" not in stages.metrics()


def test_a_learner_hears_of_diverged_steps_and_loads_a_file_without_rates(rng):
    maml, env, tasks, _ = support(3)
    learner = maml.learner(3, 4, rng)
    obs, lost = env.reset(tasks, 4, rng), torch.eye(3, 4)
    for _ in range(10):
        step = env.step(action := learner.act(obs))
        learner.observe(action, step._replace(info=step.info | {"diverged": lost}))
        obs = step.obs
    assert torch.equal(learner.take().diverged, lost.bool().unsqueeze(-1).expand(-1, -1, 10))
    state = learner.state_dict()
    del state["rates"]
    learner.load_state_dict(state)
    assert not learner.rates


def test_scored_data_keep_episodes_together(rng):
    _, env, _, stages = support()
    batch = score(stages.rollouts[0], MAMLConfig(), env.spec)
    assert batch.first[..., 0].all()
    assert batch.advantage.shape == (6, 40)
