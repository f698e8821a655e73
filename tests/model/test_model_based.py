"""Models that adapt: derivatives, windows, lanes, what is forgotten, and broken models."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch

from precocial.algos import ALGOS, build
from precocial.algos.model.acting import MPCLearner, RandomActor
from precocial.algos.model.adapters import Window
from precocial.algos.model.grbal import GradientModel, GrBALConfig, masks
from precocial.algos.model.mb_mpc import MBDEConfig
from precocial.algos.model.rebal import GrEBALConfig
from precocial.algos.model.shared import AdaptiveConfig
from precocial.envs.control.hidden_gain import HiddenGain, HiddenGainConfig
from precocial.envs.control.point_nav import PointNav
from precocial.errors import UserError
from precocial.nets.dynamics import Dynamics
from precocial.nets.products import affine, dense, shared, stepped
from precocial.ops.adaptation import inner_update
from precocial.ops.params import expand
from precocial.replay import Replay, Transitions
from precocial.rollout import collect
from precocial.types import EnvSpec, Rollout, Step


class Stateless:
    """What an adapter has that is never saved."""

    model = torch.nn.Module()
    resets = 0

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


METHODS = ("grbal", "rebal", "grebal", "mb-mpc", "mb-de")
SMALL = {
    "hidden": (16, 16), "model_updates": 5, "windows": 8, "past": 4, "future": 3, "num_tasks": 3,
    "candidates": 8, "plan_horizon": 3,
}  # fmt: skip


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def spec(obs=3, action=2, command=0):
    return EnvSpec(
        "test", obs, "box", action, (-1.0,) * action, (1.0,) * action, 50, None, 1,
        reward_fn=lambda o, a, n: n[..., 0], command_dim=command,
    )  # fmt: skip


def small(name, env, **over):
    known = ALGOS[name].config.__dataclass_fields__
    fields = {k: v for k, v in (SMALL | over).items() if k in known}
    if "memory_size" in known:
        fields["memory_size"] = 8
    return build(dataclasses.replace(ALGOS[name].config, **fields), env.spec, rng(1))


def trained(name, env, iterations=2, **over):
    algorithm = small(name, env, **over)
    for i in range(iterations):
        tasks = env.sample_tasks(3, "train", rng(i))
        algorithm.meta_update(env, tasks, rng(10 + i))
    return algorithm


def fed(algorithm, rollout):
    """With these data and a model that already says something; bounds of predictions are off."""
    algorithm.learn_statistics(algorithm.replay.add(rollout, rollout.action.clamp(-1, 1)))
    dynamics = algorithm.dynamics
    dynamics.low.fill_(-torch.inf)
    dynamics.high.fill_(torch.inf)
    for p in algorithm.model.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=rng(3))
    return algorithm


# ---- products and derivatives -----------------------------------------------------------------


@pytest.mark.parametrize("size", [7, 300])  # below and above what oneDNN is used for
def test_products_equal_pytorchs(size):
    x, weight, bias = torch.randn(40, size), torch.randn(size, size), torch.randn(size)
    assert torch.allclose(affine(bias, x, weight), x @ weight + bias, atol=1e-3)
    assert torch.allclose(dense(x, weight, bias, relu=True), (x @ weight + bias).relu(), atol=1e-3)
    args = [v.double().requires_grad_() for v in (x[:4], weight[:, :3], bias[:3])]
    assert torch.autograd.gradcheck(shared, args)


def test_a_stepped_layer_has_the_derivatives_of_its_formula():
    def draw(*shape):
        return torch.randn(*shape, generator=rng(3), dtype=torch.float64, requires_grad=True)

    x, weight, rate, h, d = draw(2, 3, 4), draw(4, 5), draw(4, 5), draw(2, 6, 4), draw(2, 6, 5)
    assert torch.autograd.gradcheck(stepped, (x, weight, rate, h, d))
    plain = x @ (weight - rate * (h.mT @ d))
    assert torch.allclose(stepped(x, weight, rate, h, d), plain)
    number = stepped(x, weight, 0.3, h, d)
    assert torch.allclose(number, x @ (weight - 0.3 * (h.mT @ d)))


def model_and_windows(hidden=(6, 5), learn=True, rate=0.2):
    cfg = GrBALConfig(hidden=hidden, inner_lr=rate, learn_lr=learn)
    model = GradientModel(spec(), cfg, rng(5)).double()
    for p in model.dynamics.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=rng(6), dtype=torch.float64)
    for p in model.rates.values():
        p.data *= 0.5 + torch.rand(p.shape, generator=rng(7), dtype=torch.float64)

    def draw(*shape):
        return torch.randn(*shape, generator=rng(8), dtype=torch.float64)

    past, target, future, wanted = draw(3, 4, 5), draw(3, 4, 3), draw(3, 2, 5), draw(3, 2, 3)
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]], dtype=torch.float64)
    return model, past, target, mask, future, wanted


def outer_loss(model, past, target, mask, future, wanted):
    gradient = model.dynamics.gradient(past, target, mask)
    predicted = model.dynamics.stepped(future, gradient, model.step_size)
    return (predicted - wanted).square().mean()


def test_the_second_order_gradient_equals_finite_differences():
    model, *data = model_and_windows()
    outer_loss(model, *data).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        flat, grad = p.data.view(-1), p.grad.view(-1)
        for i in range(0, flat.numel(), 7):
            before, sides = flat[i].item(), []
            for shift in (1e-5, -1e-5):
                flat[i] = before + shift
                with torch.no_grad():
                    sides.append(outer_loss(model, *data))
            flat[i] = before
            numeric = (sides[0] - sides[1]) / 2e-5
            assert numeric.item() == pytest.approx(grad[i].item(), rel=1e-4, abs=1e-8), name


def test_first_order_changes_the_gradient_and_not_the_loss():
    env = HiddenGain(HiddenGainConfig(horizon=20))
    rollout, found = rollout_of(env), {}
    for first_order in (False, True):
        algorithm = fed(small("grbal", env, first_order=first_order), rollout)
        loss, _ = algorithm.loss(rng(3))
        loss.backward()
        model = algorithm.model
        found[first_order] = loss, model.dynamics.weight_0.grad, model.rates["weight_0"].grad
    (exact, through, rate), (loss, without, rate_without) = found[False], found[True]
    assert torch.equal(exact, loss)
    assert (through - without).abs().max() > 0.01 * through.abs().max()
    assert torch.allclose(rate, rate_without, atol=1e-7)  # the rates need no second derivative


@pytest.mark.parametrize("learn", [True, False])
def test_the_step_by_hand_equals_autograds(learn):
    """Also the parameters that acting writes down, and what they predict."""
    model, past, target, mask, future, _ = model_and_windows(learn=learn)
    dynamics = model.dynamics

    def loss(params):
        error = (dynamics.delta(params, past) - target).square().mean(-1)
        return (error * mask).mean(-1)

    theta = expand(dynamics.theta, 3)
    grads = torch.autograd.grad(loss(theta).sum(), list(theta.values()))
    rates = model.step_size if learn else dict.fromkeys(theta, 0.2)
    plain = {k: theta[k] - rates[k] * g for k, g in zip(theta, grads, strict=True)}
    if not learn:
        again = inner_update(loss, theta, 0.2, second_order=False)
        assert all(torch.allclose(again[k], plain[k]) for k in plain)
    gradient = dynamics.gradient(past, target, mask)
    phi = dynamics.after_step(gradient, model.step_size)
    for name, value in plain.items():
        assert torch.allclose(phi[name], value), name
    assert torch.allclose(
        dynamics.stepped(future, gradient, model.step_size), dynamics.delta(plain, future)
    )
    assert torch.allclose(dynamics.network(phi, future), dynamics.delta(plain, future))


def test_one_step_of_a_linear_model_equals_the_hand_derived_one():
    # One input row x, one target y, no hidden layer to speak of: a read-out alone adapts (top=1).
    # L = mean_s (xW + b - y)^2, so dL/dW = x' 2 (xW + b - y) / S and dL/db = 2 (xW + b - y) / S.
    dynamics = Dynamics(spec(obs=2, action=1), (3,), rng(2))
    x, y = torch.tensor([[[0.5, -1.0, 2.0]]]), torch.tensor([[[1.0, -0.5]]])
    features = torch.relu(x[0] @ dynamics.weight_0 + dynamics.bias_0)
    residual = features @ dynamics.weight_1 + dynamics.bias_1 - y[0]
    alpha = 0.3
    gradient = dynamics.gradient(x, y, torch.ones(1, 1), top=1)
    phi = dynamics.after_step(gradient, alpha)
    assert torch.allclose(phi["weight_1"][0], dynamics.weight_1 - alpha * features.T @ residual)
    assert torch.allclose(phi["bias_1"][0], dynamics.bias_1 - alpha * residual[0])
    assert phi["weight_0"].ndim == 2  # the layers below stay everyone's


def test_a_rate_of_zero_and_an_empty_window_change_nothing():
    model, past, target, mask, future, _ = model_and_windows()
    plain = model.dynamics.trace(future)[-1]
    gradient = model.dynamics.gradient(past, target, mask)
    assert torch.allclose(model.dynamics.stepped(future, gradient, 0.0), plain)
    adapted = model.dynamics.stepped(future, gradient, model.step_size)
    assert torch.allclose(adapted[2], plain[2])  # nothing was seen there
    assert not torch.allclose(adapted[0], plain[0])


# ---- model, replay, windows -------------------------------------------------------------------


def test_the_model_normalises_raw_data_and_bounds_predictions():
    dynamics = Dynamics(spec(obs=3, action=1, command=1), (4,), rng())
    obs = torch.randn(200, 3, generator=rng(1)) * torch.tensor([1.0, 50.0, 9.0]) + 5
    following = obs + torch.randn(200, 3, generator=rng(2))
    for part in (slice(0, 1), slice(1, 60), slice(60, 200)):  # as of all of it at once
        dynamics.update_statistics(obs[part], following[part])
    inputs = dynamics.inputs(obs, torch.zeros(200, 1))
    assert inputs.shape == (200, 3)  # two of the state, one of the action; no command
    assert inputs[:, :2].mean(0).abs().max() < 1e-4
    assert (inputs[:, :2].std(0, correction=0) - 1).abs().max() < 1e-4
    targets = dynamics.targets(obs, following)
    assert targets.shape == (200, 2) and (targets.std(0, correction=0) - 1).abs().max() < 1e-4

    for p in dynamics.parameters():
        p.data *= 1e4  # a model gone wild
    wild = dynamics.predict(dynamics.theta, obs.unsqueeze(0), torch.ones(1, 200, 1))[0]
    both = torch.cat([obs, following])[:, :2]
    assert (wild[:, :2] >= both.amin(0) - 1e-4).all()
    assert (wild[:, :2] <= both.amax(0) + 1e-4).all()
    assert torch.equal(wild[:, 2], obs[:, 2])  # commands are held


def bounded_by(low, high):
    """A model that predicts no change, of two numbers that were seen from ``low`` to ``high``."""
    dynamics = Dynamics(spec(obs=2, action=1), (4,), rng())
    for p in dynamics.parameters():
        p.data.zero_()
    seen = torch.tensor([[low, low], [high, high]])
    dynamics.update_statistics(seen, seen)
    return dynamics


def test_a_robot_outside_the_data_is_predicted_from_where_it_is():
    dynamics = bounded_by(-1.0, 1.0)
    obs = torch.tensor([[[5.0, 0.5], [-7.0, 0.5], [0.5, 0.5]]])
    action = torch.zeros(1, 3, 1)
    assert torch.equal(dynamics.predict(dynamics.theta, obs, action), obs)
    # A change of 1.5 towards the data and away from it; within the data, beyond their end.
    for change, expected in ((-1.5, [3.5, -7.0, -1.0]), (1.5, [5.0, -5.5, 1.0])):
        dynamics.bias_1.data.fill_(change)
        predicted = dynamics.predict(dynamics.theta, obs, action)
        assert predicted[0, :, 0].tolist() == expected


@pytest.mark.parametrize("broken", [math.inf, -math.inf, math.nan])
def test_a_model_that_is_not_finite_shows_in_what_it_predicts(broken):
    dynamics = bounded_by(-1.0, 1.0)
    dynamics.bias_1.data[0] = broken
    predicted = dynamics.predict(dynamics.theta, torch.zeros(1, 3, 2), torch.zeros(1, 3, 1))
    assert predicted[..., 0].isnan().all() and torch.equal(predicted[..., 1], torch.zeros(1, 3))


def rollout_of(env, lanes=2, steps=60):
    tasks = env.sample_tasks(3, "train", rng())
    actor = RandomActor(env.spec, (3, lanes), rng(4))
    return collect(env, tasks, actor, lanes, steps, rng(5))


def test_windows_hold_consecutive_transitions_and_never_cross_an_episode():
    env = HiddenGain(HiddenGainConfig(horizon=20))
    replay = Replay()
    rollout = rollout_of(env)
    replay.add(rollout, rollout.action)
    assert len(replay) == 3 * 2
    window = replay.sample(300, 5, 4, rng())
    dynamics = Dynamics(env.spec, (4,), rng())
    _, _, seen, asked = masks(window, dynamics, 5, rng(1))
    used = torch.cat([seen, asked], 1).bool()
    assert 0 < float(seen.mean()) < 1 and bool((seen.sum(1) < 5).any())
    for w in range(300):
        steps = used[w].nonzero().squeeze(-1)
        assert len(window.episode[w, steps].unique()) == 1
        for i, j in zip(steps, steps[1:], strict=False):
            assert j == i + 1  # no gaps
            assert torch.equal(window.next_obs[w, i], window.obs[w, j])
    # The newest transition before the moment is in the past, wherever it is of the same episode.
    same = window.episode[:, 4] == window.episode[:, 5]
    assert torch.equal(seen[:, 4].bool(), same & (window.episode[:, 5] >= 0))


def with_a_diverged_step(rollout, next_obs):
    """The same, where a simulation diverged at step 7 of the first lane and led to this."""
    lost = torch.zeros_like(rollout.reward)
    lost[0, 0, 7] = 1
    after, truncated = rollout.next_obs.clone(), rollout.truncated.clone()
    after[0, 0, 7], truncated[0, 0, 7] = next_obs, True
    extra = rollout.extra | {"info/diverged": lost}
    return rollout._replace(next_obs=after, truncated=truncated, extra=extra)


def test_what_a_diverged_simulation_left_is_never_used():
    env = HiddenGain(HiddenGainConfig(horizon=20))
    rollout = with_a_diverged_step(rollout_of(env), 1e6)
    replay = Replay()
    replay.add(rollout, rollout.action)
    window = replay.sample(500, 5, 4, rng())
    _, _, seen, asked = masks(window, Dynamics(env.spec, (4,), rng()), 5, rng(1))
    far = window.next_obs[..., 0] > 1e5
    assert far.any() and not (far & torch.cat([seen, asked], 1).bool()).any()


@pytest.mark.parametrize("name", METHODS)
def test_what_a_diverged_simulation_led_to_changes_neither_loss_nor_gradient(name):
    env = HiddenGain(HiddenGainConfig(horizon=20))
    rollout, found = rollout_of(env, lanes=1), []
    for reached in (0.0, 1e6):
        over = {"windows": 200, "past": 4, "future": 4}
        algorithm = fed(small(name, env, **over), with_a_diverged_step(rollout, reached))
        loss, _ = algorithm.loss(rng(2))
        loss.backward()
        found.append([loss, *(p.grad for p in algorithm.model.parameters())])
    for harmless, wild in zip(*found, strict=True):
        assert torch.allclose(harmless, wild, rtol=1e-4, atol=1e-6)


def test_a_global_model_is_scored_on_each_transition_that_counts_and_on_no_other():
    # Moves by 1, by 2, a diverged step, by 3, and nothing after; the model predicts no change.
    algorithm = build(
        dataclasses.replace(ALGOS["mb-mpc"].config, hidden=(4,), windows=1, future=4),
        spec(obs=1, action=1), rng(),
    )  # fmt: skip
    for p in algorithm.model.parameters():
        p.data.zero_()
    moves = torch.tensor([[[1.0], [2.0], [1000.0], [3.0]]])
    nothing = torch.zeros_like(moves)
    held = Transitions(nothing, nothing, moves, torch.tensor([[0, 0, -1, 1]]))
    algorithm.replay.extend(held._asdict())
    found = {float(algorithm.loss(rng(seed))[0].detach()) for seed in range(40)}
    # Windows of four from the first, the second, and the third or fourth on.
    assert sorted(found) == pytest.approx([(1 + 4 + 9) / 3, (4 + 9) / 2, 9])


class EndsEarly(HiddenGain):
    """An episode is over where the cart has gone too far."""

    def terminal(self, state, tasks):
        return state["position"].abs() > 0.9


def losses_of_single_sequences(algorithm, num):
    """``num`` losses, each of one sampled sequence, and those sequences together."""
    sampled, sample = [], algorithm.replay.sample
    algorithm.replay.sample = lambda *args: sampled.append(sample(*args)) or sampled[-1]
    with torch.no_grad():
        losses = [algorithm.loss(rng(seed))[0] for seed in range(num)]
    algorithm.replay.sample = sample
    assert all(len(sequence.episode) == 1 for sequence in sampled)
    return torch.stack(losses), Transitions(*map(torch.cat, zip(*sampled, strict=True)))


def errors_while_acting(algorithm, sequences, past, future):
    """Errors on futures after moments ``past``, ``past + future``, ... of an adapter that was fed
    everything from step 0, 1, ... ``past - 1`` of the sequence on: (W, past)."""
    num, length = sequences.episode.shape
    flat = Transitions(*(x.repeat_interleave(past, 0) for x in sequences))  # lane: sequence, start
    start = torch.arange(past).repeat(num)
    adapter, dynamics = algorithm.adapter(num * past), algorithm.dynamics
    total, count = torch.zeros(num * past), torch.zeros(num * past)
    for t in range(length):
        if t >= past and (t - past) % future == 0:  # the present: nothing later is known
            ahead = slice(t, t + future)
            predicted = adapter.predict(flat.obs[:, ahead], flat.action[:, ahead])
            wrong = (predicted - flat.next_obs[:, ahead])[..., : dynamics.state_dim]
            error = (wrong / dynamics.delta_std).square().mean(-1)
            now = flat.episode[:, t : t + 1]
            counts = (flat.episode[:, ahead] == now) & (now >= 0)
            total, count = total + (error * counts).sum(1), count + counts.sum(1)
        last = flat.episode[:, min(t + 1, length - 1)] != flat.episode[:, t]
        # An adapter that starts later, or a step outside the data: nothing is kept.
        unseen = (t < start) | (flat.episode[:, t] < 0)
        adapter.observe(flat.obs[:, t], flat.action[:, t], flat.next_obs[:, t], last | unseen)
    return (total / count).view(num, past)


@pytest.mark.parametrize(("past", "future"), [(4, 4), (4, 2), (2, 4)])
@pytest.mark.parametrize(
    ("name", "memory"),
    [("grbal", "gru"), ("rebal", "gru"), ("rebal", "lstm"), ("grebal", "gru"), ("grebal", "lstm")],
)
def test_training_scores_what_acting_would_have_predicted(name, memory, past, future):
    """The loss of a sequence is the error of an adapter that lived through it, after an empty
    start 1 to M transitions before the first moment; episodes end, diverge, and lie at the rim."""
    futures = 1 if name == "grbal" else 3
    env = EndsEarly(HiddenGainConfig(horizon=15))
    over = {"past": past, "future": future, "memory": memory, "futures": futures}
    rollout = with_a_diverged_step(rollout_of(env, lanes=1, steps=40), 0.0)
    ended = rollout.terminated | rollout.truncated
    assert bool(rollout.terminated.any()) and bool(rollout.truncated.any())
    assert 6 <= float(ended.sum()) <= 40
    algorithm = fed(small(name, env, windows=futures, **over), rollout)
    losses, sequences = losses_of_single_sequences(algorithm, 60)
    acting = errors_while_acting(algorithm, sequences, past, future)
    scored = torch.isfinite(losses) & (acting.isfinite().all(1))
    assert float(scored.float().mean()) > 0.9  # but for sequences in which nothing counts
    apart = ((losses.unsqueeze(1) - acting).abs() / (1e-3 + acting))[scored]
    assert apart.amin(1).max() < 1e-3
    # Every number of transitions from 1 to M occurs.
    assert set(apart.argmin(1).tolist()) == set(range(past))


def test_a_window_slides_and_forgets_lane_by_lane():
    window = Window(3, 2)
    for k in range(1, 5):
        window.push(torch.full((2, 1), float(k)), torch.full((2, 2), -float(k)))
    assert window.transitions[0][:, :, 0].tolist() == [[2, 3, 4], [2, 3, 4]]
    assert window.filled.tolist() == [[1, 1, 1], [1, 1, 1]]
    window.clear(torch.tensor([True, False]))
    window.push(torch.full((2, 1), 9.0), torch.zeros(2, 2))
    assert window.filled.tolist() == [[0, 0, 1], [1, 1, 1]]


# ---- acting -----------------------------------------------------------------------------------


def transitions(env, seed):
    """Ten random steps on four lanes of an environment: obs, action, next_obs."""
    tasks = env.sample_tasks(2, "train", rng(seed))
    actor = RandomActor(env.spec, (2, 2), rng(seed))
    r = collect(env, tasks, actor, 2, 10, rng(seed))
    return [x.flatten(0, 1) for x in (r.obs, r.action.clamp(-1, 1), r.next_obs)]


@pytest.mark.parametrize("name", METHODS)
def test_adaptation_has_no_lag_knows_its_lane_and_ends_with_the_episode(name):
    env = HiddenGain()
    algorithm = trained(name, env)
    obs, action, following = transitions(env, 3)
    adapts = name != "mb-mpc"

    def predict(adapter, t=9):
        return adapter.predict(obs[:, t : t + 1], action[:, t : t + 1])

    no = torch.zeros(4, dtype=torch.bool)
    adapter = algorithm.adapter(4)
    fresh = predict(adapter)
    adapter.observe(obs[:, 0], action[:, 0], following[:, 0], no)
    once = predict(adapter)
    assert torch.equal(fresh, once) != adapts  # the newest transition counts at once

    alone = algorithm.adapter(1)
    alone.observe(obs[:1, 0], action[:1, 0], following[:1, 0], no[:1])
    own = alone.predict(obs[:1, 9:10], action[:1, 9:10])
    assert torch.allclose(own, once[:1], atol=1e-5)  # nothing of the other lanes

    ended = torch.tensor([True, False, True, False])
    adapter.observe(obs[:, 1], action[:, 1], following[:, 1], ended)
    later = predict(adapter)
    assert torch.allclose(later[ended], fresh[ended], atol=1e-6)  # back to where it began
    assert torch.equal(later[~ended], fresh[~ended]) != adapts


@pytest.mark.parametrize("name", ["grbal", "rebal", "grebal", "mb-de"])
def test_a_lane_whose_adaptation_breaks_is_started_afresh_and_counted(name):
    env = HiddenGain()
    algorithm = trained(name, env)
    obs, action, following = transitions(env, 3)
    no = torch.zeros(4, dtype=torch.bool)
    adapter = algorithm.adapter(4)
    fresh = adapter.predict(obs[:, 5:6], action[:, 5:6])
    wrong = following[:, 0].clone()
    wrong[1] = torch.nan
    adapter.observe(obs[:, 0], action[:, 0], wrong, no)
    assert adapter.resets >= 1
    after = adapter.predict(obs[:, 5:6], action[:, 5:6])
    assert torch.isfinite(after).all()
    assert torch.allclose(after[1], fresh[1], atol=1e-6)
    adapter.observe(obs[:, 1], action[:, 1], following[:, 1], no)
    assert torch.isfinite(adapter.predict(obs[:, 5:6], action[:, 5:6])).all()


@pytest.mark.parametrize("name", METHODS)
def test_a_saved_learner_goes_on_as_the_other(name):
    env = HiddenGain()
    algorithm = trained(name, env)
    tasks = env.sample_tasks(2, "test", rng(1))
    learner = algorithm.learner(2, 1, rng(7))
    obs = env.reset(tasks, 1, rng(2))
    for _ in range(6):
        action = learner.act(obs)
        step = env.step(action)
        learner.observe(action, step)
        obs = step.obs
    for value in algorithm.model.state_dict().values():
        value += 0.1  # trained on since: weights, rates, and statistics
    twin = algorithm.learner(2, 1, rng(8))
    twin.load_state_dict(learner.state_dict())
    held = learner.adapter.model.state_dict()
    for key, value in twin.adapter.model.state_dict().items():
        assert torch.equal(value, held[key]), key
    learner.rng, twin.rng = rng(9), rng(9)
    action = learner.act(obs)
    assert torch.equal(action, twin.act(obs))
    step = env.step(action)
    for one in (learner, twin):
        one.observe(torch.zeros(2, 1, 1), step)
    learner.rng, twin.rng = rng(9), rng(9)
    assert torch.equal(learner.act(step.obs), twin.act(step.obs))
    old = learner.state_dict()
    del old["model"]  # what was saved before there was one
    algorithm.learner(2, 1, rng(8)).load_state_dict(old)


def test_the_learner_plans_for_what_it_is_told():
    """With the family's true dynamics in the model's place it follows the target."""
    env = HiddenGain(HiddenGainConfig(horizon=50))
    tasks = env.sample_tasks(4, "test", rng())
    gain = tasks.params["gain"].view(4, 1)

    class Truth(Stateless):
        def predict(self, obs, action):
            velocity = (obs[..., 1] + 0.3 * gain * action[..., 0]).clamp(-4, 4)
            position = (obs[..., 0] + 0.1 * velocity).clamp(-4, 4)
            return torch.stack([position, velocity, obs[..., 2]], -1)

        def observe(self, obs, action, next_obs, ended):
            predicted = self.predict(obs.unsqueeze(1), action.unsqueeze(1))[:, 0]
            assert torch.allclose(predicted[:, :2], next_obs[:, :2], atol=1e-5)

    cfg = GrBALConfig(planner="cem", candidates=100, rounds=3)
    learner = MPCLearner(Truth(), cfg, env.spec, (4, 1), rng(1))
    rollout = collect(env, tasks, learner, 1, 50, rng(2))
    # A target of 0.67 m away on average is reached within some ten steps, twice in 50.
    assert float(rollout.reward.sum(-1).mean()) > -14


def test_a_switch_flips_the_sign_and_leaves_the_state_alone():
    at = 7
    env = HiddenGain(HiddenGainConfig(horizon=20, switch_at=at))
    tasks = env.sample_tasks(3, "test", rng())
    gain = tasks.params["gain"].view(3, 1)
    obs = env.reset(tasks, 2, rng(1))
    for t in range(20):
        step = env.step(torch.full((3, 2, 1), 0.5))
        push = (step.next_obs[..., 1] - obs[..., 1]) / 0.15
        assert torch.allclose(push, (gain if t >= at else -gain).expand(3, 2), atol=1e-4)
        assert torch.equal(step.info["switched"], torch.full((3, 2), float(t >= at)))
        if t < 19:
            assert torch.equal(step.obs[..., :2], step.next_obs[..., :2])
        obs = step.obs
        if t == 10:
            break  # before the velocity's bound


def test_hidden_gains_targets_jump_after_the_step_was_judged():
    env = HiddenGain()
    tasks = env.sample_tasks(3, "train", rng())
    obs = env.reset(tasks, 1, rng(1))
    for t in range(60):
        step = env.step(torch.zeros(3, 1, 1))
        assert torch.allclose(step.reward, -(step.next_obs[..., 0] - obs[..., 2]).abs())
        moved = (step.obs[..., 2] != obs[..., 2]).all()
        assert bool(moved) == ((t + 1) % 25 == 0)
        obs = step.obs
    assert tasks.params["gain"].abs().max() <= 2
    beyond = env.sample_tasks(100, "shifted", rng()).params["gain"].abs()
    assert beyond.min() >= 2 and beyond.max() <= 4


class Doubled(HiddenGain):
    """A policy's +-2 span the bounds; ``raw`` and ``done`` keep what came and what was done."""

    def __init__(self, cfg=None):
        super().__init__(cfg)
        self.spec = self.spec._replace(action_scale=2.0)
        self.raw, self.done = [], []

    def step(self, action):
        self.raw.append(action)
        self.done.append((action / 2).clamp(-1, 1))
        return super().step(action / 2)


def test_data_hold_what_the_environment_did_and_not_the_policys_units():
    env = Doubled(HiddenGainConfig(horizon=12))
    algorithm = trained("grbal", env, iterations=2, past=3)  # at random, then planned
    held = algorithm.replay.rows(0)["action"].unflatten(0, (2, 3))
    done = torch.stack(env.done, 2).squeeze(1).unflatten(1, (2, 12)).transpose(0, 1)
    assert torch.equal(held, done)
    assert torch.stack(env.raw).abs().max() == 2 and held.abs().max() == 1


def test_a_planner_thinks_in_bounds_and_acts_in_the_policys_units():
    env = Doubled(HiddenGainConfig(horizon=20))
    imagined, seen = [], []

    def reward_fn(obs, action, next_obs):
        imagined.append(action)
        return -(action[..., 0] - 0.8).square()

    class Adapter(Stateless):
        def predict(self, obs, action):
            return obs

        def observe(self, obs, action, next_obs, ended):
            seen.append(action)

    env.spec = env.spec._replace(reward_fn=reward_fn)
    cfg = GrBALConfig(planner="cem", candidates=100, rounds=5, plan_horizon=2)
    learner = MPCLearner(Adapter(), cfg, env.spec, (2, 1), rng(1))
    collect(env, env.sample_tasks(2, "train", rng()), learner, 1, 5, rng(2))
    assert torch.stack(imagined).abs().max() <= 1
    assert (torch.stack(env.raw) - 1.6).abs().max() < 0.1  # 0.8 of the bound
    assert torch.equal(torch.stack(seen), torch.stack(env.done).flatten(1, 2))


def test_errors_do_not_depend_on_the_policys_units():
    """Neither on those of who acted nor on those of the model that is asked."""
    plain, doubled, found = HiddenGain(), Doubled(), []
    rollout = rollout_of(HiddenGain(HiddenGainConfig(horizon=40)), steps=40)
    other = rollout._replace(action=2 * rollout.action)
    for env in (plain, doubled):
        algorithm = fed(small("grbal", env), rollout)
        found += [algorithm.diagnose(rollout, plain.spec), algorithm.diagnose(other, doubled.spec)]
    for errors in found[1:]:
        np.testing.assert_array_equal(errors.adapted, found[0].adapted)


# ---- methods ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_a_restored_run_goes_on_to_the_bit(name):
    env = HiddenGain(HiddenGainConfig(horizon=30))
    one = trained(name, env)
    other = small(name, env)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    other.replay.extend(one.replay.rows(0))
    tasks = env.sample_tasks(3, "train", rng(5))
    first = one.meta_update(env, tasks, rng(6))
    second = other.meta_update(env, tasks, rng(6))
    assert first == second
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_from_when_it_held_the_data_is_read():
    env = HiddenGain(HiddenGainConfig(horizon=30))
    one = trained("grebal", env)
    old = copy.deepcopy(one.state_dict()) | {"replay": one.replay.rows(0)}
    for name in [k for k in old["model"] if k.split(".")[-1] in ("count", "var", "delta_var")]:
        del old["model"][name]
    other = small("grebal", env)
    other.load_state_dict(old)
    tasks = env.sample_tasks(3, "train", rng(5))
    first, second = (algorithm.meta_update(env, tasks, rng(6)) for algorithm in (one, other))
    assert second == pytest.approx(first, rel=1e-3)


def test_a_checkpoint_of_a_run_whose_first_iteration_broke_is_read():
    """It held the data, and there were none."""
    env = HiddenGain(HiddenGainConfig(horizon=30))
    other = small("grbal", env)
    other.load_state_dict(copy.deepcopy(small("grbal", env).state_dict()) | {"replay": {}})
    assert len(other.replay) == 0
    trained = other.meta_update(env, env.sample_tasks(3, "train", rng(5)), rng(6))
    assert math.isfinite(trained["loss/adapted"])


@pytest.mark.parametrize("name", METHODS)
def test_permuting_tasks_permutes_model_errors(name):
    env = HiddenGain(HiddenGainConfig(horizon=40, switch_at=20))
    algorithm = trained(name, env)
    rollout = rollout_of(env, steps=40)
    errors = algorithm.diagnose(rollout, env.spec)
    assert errors.since == "switch" and errors.by_transitions.shape == (2, 33)
    flipped = type(rollout)(*(x.flip(0) for x in rollout[:-1]), {
        k: v.flip(0) for k, v in rollout.extra.items()
    })  # fmt: skip
    again = algorithm.diagnose(flipped, env.spec)
    np.testing.assert_allclose(errors.adapted[::-1], again.adapted, rtol=1e-4)
    np.testing.assert_allclose(errors.unadapted[::-1], again.unadapted, rtol=1e-4)
    if name == "mb-mpc":
        np.testing.assert_array_equal(errors.adapted, errors.unadapted)


def test_a_model_that_predicts_nothing_has_the_error_of_a_guess():
    """0 change predicted where the change has mean 0: one standard deviation."""
    env = HiddenGain(HiddenGainConfig(horizon=60))
    algorithm = small("mb-mpc", env)
    for p in algorithm.model.parameters():
        p.data.zero_()
    errors = algorithm.diagnose(rollout_of(env, steps=60), env.spec)
    assert errors.unadapted.mean() == pytest.approx(1.0, abs=0.15)


def test_a_diverged_or_reset_lane_is_counted_in_the_metrics():
    env = HiddenGain(HiddenGainConfig(horizon=30))
    algorithm = trained("grbal", env, iterations=1)

    class Wild(HiddenGain):
        def step(self, action):
            step = super().step(action)
            nan = step.next_obs.clone()
            nan[0] = torch.nan
            return Step(step.obs, nan, *step[2:])

    learner = algorithm.learner(3, 1, rng())
    wild = Wild(HiddenGainConfig(horizon=30))
    collect(wild, wild.sample_tasks(3, "train", rng()), learner, 1, 10, rng(1))
    assert learner.adapter.resets == 10  # at every step, of one lane; the others go on
    phi = learner.adapter.phi["weight_0"]
    assert torch.isfinite(phi).all() and not torch.equal(phi[1], phi[0])


def test_lanes_that_diverged_or_were_reset_are_in_the_metrics_of_their_iteration():
    class Diverges(HiddenGain):
        """In the first lane at steps 5 and 11, in the third at step 20."""

        at = ((0, 5), (0, 11), (2, 20))
        broken = None

        def step(self, action):
            lost = torch.zeros(3, 1)
            for lane, time in self.at:
                lost[lane] += self.clock == time
            self.clock += 1
            step = super().step(action)
            after = step.next_obs.clone()
            if self.broken is not None:
                after[self.broken] = torch.nan
            truncated = step.truncated | lost.bool()
            return step._replace(
                next_obs=after, truncated=truncated, info=step.info | {"diverged": lost}
            )

        def reset(self, tasks, lanes, generator):
            self.clock = 0
            return super().reset(tasks, lanes, generator)

    env = Diverges(HiddenGainConfig(horizon=30))
    algorithm, tasks = small("grbal", env), env.sample_tasks(3, "train", rng())
    metrics = algorithm.meta_update(env, tasks, rng(1))  # acts at random, adapts nothing
    assert metrics["train/lanes_diverged"] == 3 and metrics["train/lanes_reset"] == 0
    env.at, env.broken = ((1, 3),), 1
    metrics = algorithm.meta_update(env, tasks, rng(2))
    assert metrics["train/lanes_diverged"] == 1
    assert metrics["train/lanes_reset"] == 28  # at every step of one lane but its two endings
    calm = HiddenGain(HiddenGainConfig(horizon=30))
    assert "train/lanes_diverged" not in trained("grbal", calm, 1).meta_update(calm, tasks, rng(3))


class LastMove(Stateless):
    """Predicts that each lane moves as it just did; at first not at all."""

    def __init__(self, lanes):
        self.move = torch.zeros(lanes, 1)

    def predict(self, obs, action):
        return obs + self.move.unsqueeze(1)

    def observe(self, obs, action, next_obs, ended):
        self.move = next_obs - obs


def moves_and_errors(switched=None, ended=(), diverged=()):
    """Two tasks, two lanes, 60 steps, moves drawn at random; and the errors of ``LastMove``.

    ``switched`` holds (task, lane, first, last) step after the change, ``ended`` and ``diverged``
    (task, lane, step).
    """
    move = torch.randn(2, 2, 60, generator=rng(9))
    flags = torch.zeros(4, 2, 2, 60, dtype=torch.bool)
    terminated, truncated, lost, new = flags
    for place in ended:
        terminated[place] = True
    for place in diverged:
        lost[place] = truncated[place] = True
    for task, lane, first, last in switched or ():
        new[task, lane, first : last + 1] = True
    extra = {"info/diverged": lost.float()} if diverged else {}
    extra |= {"info/switched": new.float()} if switched is not None else {}
    after = move.cumsum(-1).unsqueeze(-1)
    before = after - move.unsqueeze(-1)
    rollout = Rollout(before, torch.zeros_like(after), move, after, terminated, truncated, extra)
    algorithm = build(
        dataclasses.replace(ALGOS["mb-mpc"].config, hidden=(4,), future=3),
        spec(obs=1, action=1), rng(),
    )  # fmt: skip
    algorithm.adapter = LastMove
    return move.double().numpy(), algorithm.diagnose(rollout, algorithm.spec)


def check_errors(move, errors, counted, opening):
    """``counted``: for every task (lane, first, last) step that counts. ``opening``: for every
    (task, lane) the first and the last step of what is sorted by transitions."""
    jump = np.diff(move, axis=-1, prepend=0.0)  # what predicting the last move gets wrong

    def size(parts):
        return float(np.sqrt(np.mean(np.square(np.concatenate(parts))))) / move.std()

    for task, places in enumerate(counted):
        for found, wrong in ((errors.unadapted, move), (errors.adapted, jump)):
            expected = size([wrong[task, lane, a : b + 1] for lane, a, b in places] or [[np.nan]])
            assert found[task] == pytest.approx(expected, rel=1e-4, nan_ok=True)
    for age in range(33):
        for found, wrong in zip(errors.by_transitions, (move, jump), strict=True):
            at = [[wrong[place][a + age]] for place, (a, b) in opening.items() if a + age <= b] or [
                [np.nan]
            ]
            assert found[age] == pytest.approx(size(at), rel=1e-4, nan_ok=True), age


def test_errors_after_a_change_are_those_of_settled_steps_of_the_first_episode():
    move, errors = moves_and_errors(
        # The world changes at steps 20, 18 and 30, and once more in a second episode. The last
        # lane ends before it could change.
        switched=[(0, 0, 20, 59), (0, 1, 18, 37), (0, 1, 40, 59), (1, 0, 30, 59)],
        ended=[(0, 1, 37), (1, 1, 10)],
        diverged=[(0, 0, 50)],
    )
    assert errors.since == "switch"
    check_errors(
        move, errors,
        counted=[[(0, 36, 49), (1, 34, 37)], [(0, 46, 59)]],
        opening={(0, 0): (20, 49), (0, 1): (18, 37), (1, 0): (30, 59)},
    )  # fmt: skip


def test_errors_without_a_change_count_from_the_start_of_the_episode():
    move, errors = moves_and_errors(ended=[(0, 1, 30), (1, 0, 9), (1, 1, 12)])
    assert errors.since == "start"
    check_errors(
        move, errors,
        counted=[[(0, 16, 59), (1, 16, 30)], []],
        opening={(0, 0): (0, 59), (0, 1): (0, 30), (1, 0): (0, 9), (1, 1): (0, 12)},
    )  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_what_cannot_be_planned_is_refused_in_words(name):
    config = ALGOS[name].config
    with pytest.raises(UserError, match="no reward as a function"):
        build(config, PointNav().spec, rng())
    discrete = spec()._replace(action_kind="discrete")
    with pytest.raises(UserError, match="discrete"):
        build(config, discrete, rng())
    short = spec()._replace(horizon=12)
    adapts = isinstance(config, AdaptiveConfig)
    windows = "^--past 16 and --future 16 are longer" if adapts else "^--future 16 is longer"
    with pytest.raises(UserError, match=windows):
        build(config, short, rng())
    longer = dataclasses.replace(config, plan_horizon=51)
    with pytest.raises(UserError, match="--plan-horizon is 51"):
        build(longer, spec(), rng())
    field = "past" if adapts else "future"
    with pytest.raises(UserError, match=f"--{field}"):
        dataclasses.replace(config, **{field: 0})


def test_rates_without_a_meaning_are_refused():
    for cls in (GrBALConfig, MBDEConfig, GrEBALConfig):
        for rate in (0.0, -1.0, math.nan, math.inf):
            with pytest.raises(UserError, match="--inner-lr"):
                cls(inner_lr=rate)


@pytest.mark.parametrize("name", METHODS)
def test_a_rate_may_be_a_whole_number(name):
    env, found = HiddenGain(HiddenGainConfig(horizon=20)), []
    for rate in (1, 1.0):
        algorithm = fed(small(name, env, inner_lr=rate, learn_lr=False), rollout_of(env))
        errors = algorithm.diagnose(rollout_of(env), env.spec)
        found.append((algorithm.loss(rng())[0], errors.adapted))
    assert torch.equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("name", METHODS)
def test_training_reaches_neither_weights_nor_statistics_of_the_acting_copy(name):
    """A learner acts on a frozen copy: training goes on without it."""
    env = HiddenGain(HiddenGainConfig(horizon=12))
    algorithm = trained(name, env, 1, random_iterations=2)
    adapter = algorithm.learner(4, 1, rng()).adapter
    modules = torch.nn.ModuleList(
        v for v in vars(adapter).values() if isinstance(v, torch.nn.Module)
    )
    held, twin = copy.deepcopy(modules.state_dict()), copy.deepcopy(adapter)
    ours = copy.deepcopy(algorithm.model.state_dict())
    buffers = {"mean", "std", "delta_mean", "delta_std", "low", "high"}
    assert buffers <= {k.split(".")[-1] for k in held}

    algorithm.meta_update(env, env.sample_tasks(20, "shifted", rng(7)), rng(8))  # goes farther
    for key, value in algorithm.model.state_dict().items():
        assert not torch.equal(value, ours[key]), key  # training did go on
    for key, value in modules.state_dict().items():
        assert torch.equal(value, held[key]), key
    assert not any(p.requires_grad for p in modules.parameters())
    obs, action, following = transitions(env, 3)
    for one in (adapter, twin):
        one.observe(obs[:, 0], action[:, 0], following[:, 0], torch.zeros(4, dtype=torch.bool))
    assert torch.equal(adapter.predict(obs, action), twin.predict(obs, action))


def test_generators_alone_decide_what_happens():
    env = HiddenGain(HiddenGainConfig(horizon=30))
    results = [
        trained("rebal", env).meta_update(env, env.sample_tasks(3, "train", rng(1)), rng(2))
        for _ in range(2)
    ]
    assert results[0] == results[1]
