"""Trials: masks, memories, beliefs; what RL2, VariBAD and the belief oracle stand on."""

import math
from dataclasses import replace

import pytest
import torch

from precocial.algos import ALGOS, build
from precocial.algos.memory.rl2 import RL2, LastStep, RL2Config
from precocial.algos.memory.trials import (
    TrialConfig,
    minibatches,
    ppo_update,
    run_trials,
    score,
    standardise,
    trial_metrics,
)
from precocial.algos.memory.varibad import VAE, Trials, VariBADConfig
from precocial.envs import ENVS
from precocial.envs.control.cart_pole import CartPole
from precocial.envs.control.point_nav import PointNav, PointNavConfig
from precocial.evaluation.curve import adaptation_curve
from precocial.nets.gru import bfloat16_supported
from precocial.nets.memory import build_memory
from precocial.ops.distributions import log_prob
from precocial.ops.elbo import chain_kl, log_likelihood
from precocial.ops.losses import masked_mean
from precocial.ops.returns import episode_index, episode_returns, last_valid
from precocial.runs.folder import load_algorithm
from precocial.runs.plan import plan
from precocial.training import run, train
from precocial.types import Rollout, Step, UserError

MEMORIES = ["gru", "lstm", "transformer", "fast-weights"]
IN_TRIAL = [name for name, entry in ALGOS.items() if isinstance(entry.config, TrialConfig)]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def uneven(steps=7, lanes=2):
    """Two lanes: episodes of 2, 1, 3 steps, and of 3, 3, 1; three are one trial of three."""
    ended = torch.zeros(1, lanes, steps, dtype=torch.bool)
    ended[0, 0, [1, 2, 5]] = True
    ended[0, 1, [2, 5, 6]] = True
    return ended


# ---- masks --------------------------------------------------------------------------------


def test_episodes_of_uneven_length_by_hand():
    ended = uneven()
    reward = torch.arange(14.0).reshape(1, 2, 7)
    assert episode_index(ended)[0].tolist() == [[0, 0, 1, 2, 2, 2, 3], [0, 0, 0, 1, 1, 1, 2]]
    # Lane 0: 0+1, 2, 3+4+5; lane 1: 7+8+9, 10+11+12, 13.
    assert episode_returns(reward, ended, 3)[0].tolist() == [[1, 2, 12], [24, 33, 13]]
    valid = episode_index(ended) < 3
    assert valid[0].tolist() == [[True] * 6 + [False], [True] * 7]
    assert last_valid(valid)[0].nonzero().tolist() == [[0, 5], [1, 6]]
    with pytest.raises(ValueError, match="fewer than 4"):
        episode_returns(reward, ended, 4)


def hand_made_rollout(value, reward):
    ended = uneven()
    nothing = torch.zeros(1, 2, 7, 1)
    extra = {
        "logits": torch.full((1, 2, 7, 2), math.log(0.5)), "value": value, "input": nothing,
        "keep": torch.ones(1, 2, 7), "valid": episode_index(ended) < 3,
    }  # fmt: skip
    action = torch.zeros(1, 2, 7, dtype=torch.long)
    return Rollout(nothing, action, reward, nothing, ended, torch.zeros_like(ended), extra)


def plain_policy():
    """Values in reward units: mean 0, spread 1."""
    return RL2(small(), CartPole().spec, rng()).policy


def test_advantages_run_over_the_trial_and_stop_at_its_end():
    reward, value = torch.ones(1, 2, 7), torch.zeros(1, 2, 7)
    cfg = TrialConfig(gamma=1.0, gae_lambda=1.0)
    batch = score(hand_made_rollout(value, reward), plain_policy(), cfg)
    # Rewards to go to the end of the trial, across episode ends; lane 0 has 6 valid steps.
    assert batch.advantage[:6, 0].tolist() == [6, 5, 4, 3, 2, 1]
    assert batch.advantage[:, 1].tolist() == [7, 6, 5, 4, 3, 2, 1]
    assert batch.valid[:, 0].tolist() == [1, 1, 1, 1, 1, 1, 0]
    # A value bootstraps across an episode's end and not beyond the trial's:
    # lambda 0, gamma .5: r + .5 V(next) - V with V = 4 everywhere, and 1 - 4 at the last step.
    cfg = TrialConfig(gamma=0.5, gae_lambda=0.0)
    batch = score(hand_made_rollout(value + 4, reward), plain_policy(), cfg)
    assert batch.advantage[:6, 0].tolist() == [-1, -1, -1, -1, -1, -3]


@pytest.mark.parametrize("forget", [False, True])
def test_credit_ends_before_a_diverged_step(forget):
    # Value 4 everywhere, reward 1, gamma 1, lambda 0: 1 at each step, but 1 - 4 at the trial's end.
    # The step that diverged, the last of lane 0 or one of lane 1, is as if it had not been.
    lost = torch.zeros(1, 2, 7)
    lost[0, 0, 5] = lost[0, 1, 2] = 1
    rollout = hand_made_rollout(torch.full((1, 2, 7), 4.0), torch.ones(1, 2, 7))
    rollout.extra["info/diverged"] = lost
    rollout.reward[lost > 0] = 0
    cfg = TrialConfig(gamma=1.0, gae_lambda=1.0)
    batch = score(rollout, plain_policy(), cfg, forgetful=forget)
    assert batch.valid.T.tolist() == [[1] * 5 + [0, 0], [1, 1, 0, 1, 1, 1, 1]]
    if not forget:
        # Lane 0: 5 rewards and then 4, less 4. Lane 1: 2 and 4, and 4 to the end, less 4.
        assert batch.advantage[:5, 0].tolist() == [5, 4, 3, 2, 1]
        assert batch.advantage[:, 1].tolist() == [2, 1, 0, 0, -1, -2, -3]
    else:
        assert batch.advantage[3:5, 0].tolist() == [2, 1]
        assert batch.advantage[:2, 1].tolist() == [2, 1]
    assert batch.select(torch.tensor([1])).valid.shape == (7, 1)
    assert trial_metrics(rollout, 3)["train/lanes_diverged"] == 2


def test_steps_that_do_not_count_may_be_very_unlikely():
    env = PointNav(PointNavConfig(horizon=5))
    method, _, batch = collected(small(init_std=1e-3), env=env)
    valid = batch.valid.clone()
    valid[-2:] = 0
    old = batch.log_prob - 200 * (1 - valid)  # the ratio is infinite there
    ppo_update(
        method.policy, batch._replace(valid=valid, log_prob=old), method.cfg, method.optimizer.made,
        0.0, rng(),
    )  # fmt: skip
    assert all(bool(p.isfinite().all()) for p in method.policy.parameters())


def test_forgetting_cuts_credit_at_every_episode():
    cfg = TrialConfig(gamma=1.0, gae_lambda=1.0)
    rollout = hand_made_rollout(torch.zeros(1, 2, 7), torch.ones(1, 2, 7))
    batch = score(rollout, plain_policy(), cfg, forgetful=True)
    assert batch.advantage[:6, 0].tolist() == [2, 1, 1, 3, 2, 1]


def test_masked_mean_divides_by_the_mask():
    x, mask = torch.tensor([1.0, 2.0, 50.0]), torch.tensor([1.0, 1.0, 0.0])
    assert float(masked_mean(x, mask)) == 1.5


def small(memory="gru", **fields):
    fields = {"num_tasks": 6, "memory_size": 16, "minibatches": 2, "outer_epochs": 2} | fields
    return RL2Config(memory=memory, **fields)


def collected(cfg, seed=0, env=None):
    env = env or CartPole()
    method = RL2(cfg, env.spec, rng(seed))
    tasks = env.sample_tasks(cfg.num_tasks, "train", rng(seed + 1))
    learner = method.make_learner(method.policy, tasks.num, cfg.lanes, rng(seed), training=True)
    rollout = run_trials(env, tasks, learner, cfg, rng(seed))
    batch = score(rollout, method.policy, cfg, forgetful=cfg.forget)
    batch = method.with_memories(batch, learner)
    return method, rollout, batch


def test_what_follows_the_trial_changes_nothing():
    method, _, batch = collected(small())
    assert bool((batch.valid == 0).any())  # cart-pole's episodes end early
    spoilt = batch._replace(
        advantage=batch.advantage + 100 * (1 - batch.valid),
        target=batch.target - 1000 * (1 - batch.valid),
        log_prob=batch.log_prob + (1 - batch.valid),
        input=batch.input + 10 * (1 - batch.valid).unsqueeze(-1),
    )
    before = {k: v.clone() for k, v in method.policy.state_dict().items()}
    results = []
    for data in (batch, spoilt):
        method.policy.load_state_dict(before)
        optimizer = torch.optim.SGD(method.policy.parameters(), 1.0)
        ppo_update(method.policy, data, method.cfg, optimizer, 0.5, rng())
        results.append({k: v.clone() for k, v in method.policy.state_dict().items()})
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name
    assert not torch.equal(results[0]["policy_head.weight"], before["policy_head.weight"])


# ---- memories -----------------------------------------------------------------------------


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("forget", [False, True])
@pytest.mark.parametrize("extra", [{}, {"embed": 8, "previous_obs": True, "trials_per_task": 2}])
@torch.no_grad()
def test_recomputed_log_probs_and_values_equal_the_stored_ones(memory, forget, extra):
    if memory == "fast-weights" and extra:
        extra = extra | {"embed": 0}
    method, rollout, batch = collected(small(memory, forget=forget, **extra))
    dist, value = method.policy.sequence(batch.input, batch.memory, batch.keep)
    inside = batch.valid > 0
    error = (log_prob(dist, batch.action) - batch.log_prob)[inside].abs().max()
    assert float(error) < 1e-5
    stored = rollout.extra["value"].flatten(0, 1).T  # (N, E, T) -> (T, B)
    assert float((value - stored)[inside].abs().max()) < 1e-4


@pytest.mark.parametrize("memory", ["gru", "lstm"])
@pytest.mark.parametrize("forget", [False, True])
@torch.no_grad()
def test_pieces_start_from_the_memory_they_had(memory, forget):
    method, _, pieces = collected(small(memory, forget=forget, max_seq_len=5))
    _, _, whole = collected(small(memory, forget=forget))
    assert pieces.input.shape[0] == 5
    assert float(pieces.valid.sum()) == float(whole.valid.sum())
    dist, _ = method.policy.sequence(pieces.input, pieces.memory, pieces.keep)
    error = (log_prob(dist, pieces.action) - pieces.log_prob)[pieces.valid > 0].abs().max()
    assert float(error) < 1e-5


@pytest.mark.parametrize("kind", MEMORIES)
@torch.no_grad()
def test_step_by_step_equals_the_sequence(kind):
    memory = build_memory(kind, 3, 16, rng())
    x = torch.randn(40, 5, 3, generator=rng(1))  # longer than the transformer's first cache
    keep = (torch.rand(40, 5, generator=rng(2)) > 0.2).float()
    for mask in (None, keep):
        whole = memory.sequence(x, memory.initial(5), mask)
        state, outs = memory.initial(5), []
        with torch.no_grad():
            for t in range(40):
                if mask is not None:
                    state = memory.clear(state, mask[t] == 0)
                h, state = memory.step(x[t], state)
                outs.append(h)
        assert torch.allclose(whole, torch.stack(outs), atol=1e-5)


@pytest.mark.parametrize("kind", MEMORIES)
@torch.no_grad()
def test_memory_is_causal_and_clearing_forgets(kind):
    memory = build_memory(kind, 3, 16, rng())
    x = torch.randn(12, 2, 3, generator=rng(1))
    other = x.clone()
    other[:6] += 1.0
    keep = torch.ones(12, 2)
    start = memory.initial(2)
    a, b = memory.sequence(x, start, keep), memory.sequence(other, start, keep)
    assert not torch.allclose(a[6:], b[6:], atol=1e-4)  # it remembers across step 6
    keep[6] = 0
    a, b = memory.sequence(x, start, keep), memory.sequence(other, start, keep)
    assert torch.allclose(a[6:], b[6:], atol=1e-6)  # cleared before step 6
    later = x.clone()
    later[9:] += 1.0
    c = memory.sequence(later, start, keep)
    assert torch.allclose(a[:9], c[:9], atol=1e-6)  # nothing looks ahead


@pytest.mark.parametrize("kind", MEMORIES)
@torch.no_grad()
def test_a_permuted_batch_gives_permuted_results(kind):
    method, _, batch = collected(small(kind))
    order = torch.randperm(batch.valid.shape[1], generator=rng(3))
    mixed = batch.select(order)
    a, va = method.policy.sequence(batch.input, batch.memory, batch.keep)
    b, vb = method.policy.sequence(mixed.input, mixed.memory, mixed.keep)
    steps = b["logits"].shape[0]
    assert torch.allclose(a["logits"][:steps, order], b["logits"], atol=1e-5)
    assert torch.allclose(va[:steps, order], vb, atol=1e-5)


# ---- what the learner is told ---------------------------------------------------------------


def test_the_last_reward_and_the_end_arrive_with_the_next_episode():
    env = CartPole()
    context = LastStep(env.spec, RL2Config())
    obs = torch.zeros(1, 1, 4)
    assert context.features(obs[0])[0].tolist() == [0] * 8  # a trial starts with nothing
    action = torch.tensor([[1]])
    ends = torch.tensor([[True]])
    step = Step(obs, obs, torch.tensor([[2.5]]), ends, ~ends, {})
    context.observe(action, step)
    # Observation, one-hot action, reward, end.
    assert context.features(obs[0])[0].tolist() == [0, 0, 0, 0, 0, 1, 2.5, 1]
    blind = LastStep(env.spec, RL2Config(forget=True))
    blind.features(obs[0])
    blind.observe(action, step)
    assert blind.features(obs[0])[0].tolist() == [0] * 8
    whole = LastStep(env.spec, RL2Config(previous_obs=True))
    whole.features(obs[0] + 7)
    whole.observe(action, step)
    assert whole.features(obs[0])[0].tolist() == [0, 0, 0, 0, 0, 1, 2.5, 1, 7, 7, 7, 7]


def test_memory_is_cleared_between_trials_and_not_within():
    cfg = small()
    _, rollout, _ = collected(cfg)
    method, again, _ = collected(cfg)
    assert torch.equal(rollout.action, again.action)  # a new learner starts from nothing
    env = CartPole()
    tasks = env.sample_tasks(2, "train", rng())
    learner = method.learner(2, 1, rng())
    obs = env.reset(tasks, 1, rng())
    norms = []
    for _ in range(60):
        step = env.step(learner.act(obs))
        before = learner.memory["h"]
        learner.observe(torch.zeros(2, 1, dtype=torch.long), step)
        assert torch.equal(learner.memory["h"], before)
        obs = step.obs
        norms.append(bool((step.terminated | step.truncated).any()))
    assert any(norms)  # episodes ended meanwhile
    assert float(learner.memory["h"].norm()) > 0


def test_a_saved_learner_goes_on_as_it_would_have():
    env = CartPole()
    method = RL2(small(), env.spec, rng())
    tasks = env.sample_tasks(3, "test", rng())
    learner, obs = method.learner(3, 1, rng()), env.reset(tasks, 1, rng())
    for _ in range(30):
        step = env.step(learner.act(obs, explore=False))
        learner.observe(learner.act(obs, explore=False), step)
        obs = step.obs
    other = RL2(small(), env.spec, rng(9)).learner(3, 1, rng())
    other.act(obs)
    other.load_state_dict(learner.state_dict())
    learner.act(obs), other.act(obs)
    assert torch.equal(learner.acted["logits"], other.acted["logits"])


# ---- PPO ----------------------------------------------------------------------------------


@torch.no_grad()
def test_value_units_are_those_of_a_step_and_moving_them_keeps_predictions():
    policy = plain_policy()
    target = torch.tensor([[10.0, 14.0, 99.0], [1.0, 3.0, 5.0]])
    valid = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    policy.value_std.fill_(2.0)
    h = torch.randn(2, 3, policy.memory.size, generator=rng())
    before = 2.0 * policy.heads(h)[1]
    policy.track(target, valid, rate=1.0)
    # Means 12 and 3; squares 4 + 4 and 4 + 0 + 4 over 5 valid steps.
    assert policy.value_mean[:3].tolist() == [12, 3, 0]
    assert math.isclose(float(policy.value_std), math.sqrt(16 / 5), rel_tol=1e-6)
    assert torch.allclose(policy.value_std * policy.heads(h)[1], before, atol=1e-5)
    assert torch.allclose(policy.in_reward_units(policy.normalise(target)), target)
    policy.track(target + 10, valid, rate=0.3)
    assert torch.allclose(policy.value_mean[:3], torch.tensor([15.0, 6.0, 0.0]))


@torch.no_grad()
def test_standardised_advantages():
    method, _, batch = collected(small())
    ready = standardise(batch, method.policy, first=True)
    inside = batch.valid > 0
    assert abs(float(ready.advantage[inside].mean())) < 1e-5
    assert abs(float(ready.advantage[inside].std(correction=0)) - 1) < 1e-4
    assert float((ready.target * batch.valid).sum(1).abs().max()) < 1e-2  # mean 0 at every step


@pytest.mark.parametrize(("trials", "sizes"), [(10, [2, 2] + [1] * 6), (8, [1] * 8)])
def test_a_pass_has_as_many_minibatches_as_asked(trials, sizes):
    cfg = small(num_tasks=trials, minibatches=8, outer_epochs=1)
    parts = [p.valid.shape[1] for p in minibatches(collected(cfg)[2], cfg, rng())]
    assert parts == sizes


def test_the_rate_falls_to_zero_over_the_run():
    method, _, batch = collected(small(outer_lr=1e-2))
    for progress, rate in ((0.0, 1e-2), (0.75, 2.5e-3)):
        ppo_update(method.policy, batch, method.cfg, method.optimizer.made, progress, rng())
        assert math.isclose(method.optimizer.made.param_groups[0]["lr"], rate)


# ---- VariBAD ------------------------------------------------------------------------------


def test_chain_kl_by_hand():
    mean = torch.tensor([[[1.0], [3.0]]])
    log_var = torch.tensor([[[0.0], [math.log(4.0)]]])
    # KL(N(1,1) || N(0,1)) = 1/2; KL(N(3,4) || N(1,1)) = (4 + 4 - 1 - ln 4) / 2.
    expected = [0.5, (4 + 4 - 1 - math.log(4)) / 2]
    assert torch.allclose(chain_kl(mean, log_var)[0], torch.tensor(expected))


def test_log_likelihood_by_hand():
    gaussian = log_likelihood(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 0.0]), "gaussian")
    assert math.isclose(float(gaussian), -2 - math.log(2 * math.pi), rel_tol=1e-6)
    logits, actual = torch.tensor([[2.0], [2.0]]), torch.tensor([[1.0], [-0.1]])
    p = 1 / (1 + math.exp(-2.0))
    expected = torch.tensor([math.log(p), math.log(1 - p)])
    assert torch.allclose(log_likelihood(logits, actual, "bernoulli"), expected)


@torch.no_grad()
def test_elbo_against_a_hand_computed_case():
    """A decoder that ignores the latent: the likelihood is known, past and future both count."""
    env = CartPole()
    cfg = VariBADConfig(elbo_terms=0, decode_steps=0, transition_weight=0.0)
    vae = VAE(cfg, env.spec, rng())
    for p in vae.reward.parameters():
        p.data.zero_()
    for p in vae.posterior.parameters():
        p.data.zero_()
    vae.reward.layers[-1].bias.data.fill_(1.0)  # predicts reward 1
    steps = 3
    reward = torch.tensor([[1.0, 2.0, 4.0], [1.0, 1.0, 9.0]])
    valid = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    zeros = torch.zeros(2, steps, 4)
    trials = Trials(zeros, torch.zeros(2, steps, 2), reward, zeros, valid)
    losses = vae.loss(trials, rng())
    # Posteriors all equal N(0, 1): no KL, from each to the one before and to the prior.
    assert float(losses["loss/kl_latent"]) == 0
    constant = 0.5 * math.log(2 * math.pi)
    # Lane 0: squared errors 0 + 1 + 9 over 3 steps, 4 posteriors; lane 1: none over 2 steps, 3.
    first, second = 5.0 + 3 * constant, 2 * constant
    expected = (4 * first + 3 * second) / 7
    assert math.isclose(float(losses["loss/reward_decoder"]), expected, rel_tol=1e-6)


@torch.no_grad()
def test_random_subsets_leave_the_elbo_unbiased():
    env = CartPole()
    length = torch.tensor([2, 8, 5, 3]).unsqueeze(-1)  # uneven trials
    trials = Trials(
        torch.randn(4, 8, 4, generator=rng(1)), torch.randn(4, 8, 2, generator=rng(2)),
        torch.randn(4, 8, generator=rng(3)), torch.randn(4, 8, 4, generator=rng(4)),
        (torch.arange(8) < length).float(),
    )  # fmt: skip
    full = VAE(VariBADConfig(elbo_terms=0, decode_steps=0), env.spec, rng())
    part = VAE(VariBADConfig(elbo_terms=2, decode_steps=3), env.spec, rng())
    draws = rng(5)
    for name in ("loss/reward_decoder", "loss/transition_decoder"):
        exact = sum(float(full.loss(trials, draws)[name]) for _ in range(100)) / 100
        drawn = torch.tensor([float(part.loss(trials, draws)[name]) for _ in range(1500)])
        error = float(drawn.std()) / math.sqrt(1500)
        assert abs(float(drawn.mean()) - exact) < 3.5 * error + 0.01
    alone = VAE(VariBADConfig(elbo_terms=1, decode_steps=1), env.spec, rng())
    short = trials.select(torch.tensor([0]))
    assert all(
        math.isfinite(float(v)) for _ in range(50) for v in alone.loss(short, draws).values()
    )


@pytest.mark.parametrize(("trials", "sizes"), [(3, [3, 3, 3]), (8, [5, 5, 5])])
def test_no_trial_is_twice_in_an_update_of_the_encoder(trials, sizes):
    env = CartPole()
    cfg = VariBADConfig(num_tasks=trials, minibatches=1, vae_batch=5, vae_updates=3)
    method = build(cfg, env.spec, rng())
    loss, batches = method.vae.loss, []
    method.vae.loss = lambda batch, draws: batches.append(batch.obs) or loss(batch, draws)
    method.meta_update(env, env.sample_tasks(trials, "train", rng()), rng())
    assert [len(obs) for obs in batches] == sizes
    assert all(len(obs.flatten(1).unique(dim=0)) == len(obs) for obs in batches)


# ---- whole runs ---------------------------------------------------------------------------


TINY = {"num_tasks": 8, "minibatches": 2, "eval_tasks": 4, "eval_every": 2, "iterations": 4}


@pytest.mark.parametrize(
    ("algo", "memory"),
    [("rl2", m) for m in MEMORIES]
    + [("domain-randomization", "gru"), ("varibad", ""), ("belief-oracle", "")],
)
def test_resume_equals_the_uninterrupted_run(algo, memory, tmp_path):
    folders = [tmp_path / "whole", tmp_path / "stopped"]
    # The schedule depends on the run's length, so rates are constant here.
    flags = {"quiet": True, "anneal": False} | ({"memory": memory} if memory else {})
    train(algo, "bandit", out=folders[0], **flags, **TINY)
    train(algo, "bandit", out=folders[1], **flags, **TINY | {"iterations": 2})
    run(folders[1], 4, quiet=True)
    states = [load_algorithm(f)[2].state_dict() for f in folders]
    leaves = [torch.utils._pytree.tree_leaves(s) for s in states]
    assert len(leaves[0]) == len(leaves[1])
    for a, b in zip(*leaves, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("algo", IN_TRIAL)
@pytest.mark.parametrize("family", [k for k in ENVS if not k.startswith("half-cheetah")])
def test_every_family_runs_a_trial(algo, family):
    p = plan(algo, family, num_tasks=4, minibatches=1, outer_epochs=1)
    shorter = {"horizon": 50} if family == "Acrobot-v1" else {}  # 500 take ten seconds
    env = ENVS[family].cls(replace(p.env_config, **shorter))
    if algo == "belief-oracle" and env.spec.belief is None:
        with pytest.raises(UserError, match="exact posterior"):
            build(p.algo_config, env.spec, rng())
        return
    method = build(p.algo_config, env.spec, rng())
    tasks = env.sample_tasks(4, "train", rng())
    metrics = method.meta_update(env, tasks, rng())
    assert all(math.isfinite(v) for v in metrics.values())
    curve = adaptation_curve(method, env, tasks, stages=3, lanes=1, seed=0)
    assert curve.returns.shape == (4, 3)


def test_evaluation_may_run_past_the_trained_trial():
    env = CartPole()
    method = RL2(small(), env.spec, rng())
    tasks = env.sample_tasks(3, "test", rng())
    curve = adaptation_curve(method, env, tasks, stages=4, lanes=2, seed=0)
    assert curve.episodes_seen == [0, 2, 4, 6]
    assert curve.returns.shape == (3, 4)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"episodes_per_trial": 0}, "at least 1 whole episode"),
        ({"memory": "transformer", "max_seq_len": 5}, "whole trial"),
        ({"memory": "transformer", "memory_size": 30}, "multiple of"),
        ({"memory": "fast-weights", "max_seq_len": 5}, "max-seq-len"),
        ({"memory": "fast-weights", "embed": 8}, "--embed is 8"),
        ({"memory": "fast-weights", "precision": "bfloat16"}, "not fast-weights"),
        ({"memory": "fast-weights", "key_size": 0}, "key-size"),
        ({"memory": "lstm", "precision": "bfloat16"}, "gru"),
        ({"minibatches": 100, "num_tasks": 10}, "minibatches"),
        ({"gamma": 1.5}, "gamma"),
        ({"outer_lr": 0.0}, "outer-lr"),
        ({"ent_coef": math.inf}, "ent-coef"),
    ],
)
def test_settings_without_a_meaning(fields, words):
    with pytest.raises(UserError, match=words):
        RL2Config(**fields)


def test_a_reference_keeps_its_meaning():
    with pytest.raises(UserError, match="domain-randomization"):
        plan("domain-randomization", "bandit", forget=False)
    with pytest.raises(UserError, match="domain-randomization"):
        plan("rl2", "bandit", forget=True)
    with pytest.raises(UserError, match="both 0"):
        plan("varibad", "grid-nav", reward_weight=0.0, transition_weight=0.0)


def test_a_refused_algorithm_leaves_no_folder(tmp_path):
    with pytest.raises(UserError, match="exact posterior"):
        train("belief-oracle", "point-nav", out=tmp_path / "run", quiet=True)
    assert not list(tmp_path.iterdir())


def test_a_run_with_bfloat16_is_evaluated_without(tmp_path, monkeypatch):
    if not bfloat16_supported():
        pytest.skip("no bfloat16 here")
    train("rl2", "bandit", out=tmp_path / "run", quiet=True, precision="bfloat16", **TINY)
    monkeypatch.setattr("precocial.runs.folder.bfloat16_supported", lambda: False)
    assert load_algorithm(tmp_path / "run")[3] == TINY["iterations"]
    with pytest.raises(UserError, match="bfloat16"):
        run(tmp_path / "run", 9, quiet=True)


def test_a_trial_of_one_episode_is_one():
    for family in ("bandit", "grid-nav"):
        option = "env_pulls" if family == "bandit" else "env_episodes"
        p = plan("rl2", family, **{option: 1})
        assert p.algo_config.episodes(ENVS[family].cls(p.env_config).spec) == 1
    assert RL2Config().episodes(CartPole().spec) == 2


def test_learners_do_not_share_a_restored_memory():
    env = CartPole()
    method = RL2(small("transformer"), env.spec, rng())
    tasks = env.sample_tasks(2, "test", rng())
    one, other = method.learner(2, 1, rng()), method.learner(2, 1, rng())
    obs = env.reset(tasks, 1, rng())
    one.act(obs), other.act(obs)
    other.load_state_dict(one.state_dict())
    before = one.memory["keys"].clone()
    other.act(obs + 1)
    assert torch.equal(one.memory["keys"], before)


@torch.no_grad()
@pytest.mark.parametrize(("spread", "std"), [(0.01, 0.01), (0.0, 1e-4)])
def test_small_rewards_have_units_of_their_own_at_once(spread, std):
    policy = plain_policy()
    h = torch.randn(2, 3, policy.memory.size, generator=rng())
    before = policy.heads(h)[1]
    policy.track(torch.tensor([[-1.0, 1.0]]).expand(5, 2) * spread, torch.ones(5, 2), rate=1.0)
    assert float(policy.value_std) == pytest.approx(std)
    # An untrained head's noise does not become 100, or 10 000, spreads.
    assert torch.allclose(policy.heads(h)[1], 10 * before)


@pytest.mark.parametrize("other", ["lstm", "fast-weights"])
def test_another_memory_does_not_load(other, tmp_path):
    train("rl2", "bandit", out=tmp_path / "run", quiet=True, **TINY)
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("memory: gru", f"memory: {other}"))
    with pytest.raises(UserError, match="does not fit"):
        run(tmp_path / "run", 6, quiet=True)
