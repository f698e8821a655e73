"""Cores shared with other programs, and numbers that do not depend on it."""

import dataclasses
import subprocess
import sys

import pytest
import torch

from precocial import threads
from precocial.algos import ALGOS, build
from precocial.algos.gradient.online_maml import OnlineMAMLConfig
from precocial.envs.classic.bandit import Bandit, BanditConfig
from precocial.envs.control.cart_pole_v1 import CartPoleV1
from precocial.envs.control.hidden_gain import HiddenGain, HiddenGainConfig
from precocial.envs.control.point_nav import PointNav, PointNavConfig
from precocial.envs.grid.frozen_lake import FrozenLakeV1
from precocial.nets import products
from precocial.nets.baseline import fit
from precocial.nets.mlp import orthogonal_layers as layers
from precocial.nets.mlp import perceptron_once
from precocial.nets.products import linear
from precocial.ops import sums
from precocial.ops.planning import Plan, PlannerConfig, mppi_refine


class Neighbours:
    """So many cores in use by others, of so many."""

    def __init__(self, cores, used):
        self.mine, self.used = {f"cpu{i}" for i in range(cores)}, used

    def look(self):
        return self.used


@pytest.fixture
def of_threads(monkeypatch):
    """Calls something with 1, 2 and perhaps 3 threads; gives all results."""
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "_others", Neighbours(16, 0.0))

    def call(function):
        results = []
        for number in (1, 2, 3) if threads.MANY_ALIKE else (1, 2):
            torch.set_num_threads(number)
            results.append(function())
        return results

    yield call
    torch.set_num_threads(before)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def equal(one, other):
    leaves, same = (torch.utils._pytree.tree_leaves(x) for x in (one, other))
    return len(leaves) == len(same) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(leaves, same, strict=True)
    )


# ---- the same numbers ---------------------------------------------------------------------

BANDIT = Bandit(BanditConfig(arms=5, pulls=40))
POLE = CartPoleV1()
GAIN = HiddenGain(HiddenGainConfig())
TRIALS = {"num_tasks": 900, "minibatches": 1, "outer_epochs": 2}
TURNS = {"lanes": 40, "batch_size": 600, "rounds": 4, "updates": 3, "learning_starts": 0}
INFERENCE = {"updates": 3, "batch_size": 300, "informed": 0.5, "train_tasks": 40}
PLANNING = {"num_tasks": 4, "model_updates": 3, "candidates": 64, "plan_horizon": 3}
MANY = [  # more than 2 ** 15 steps an iteration, where sums are cut and products are large
    ("ppo", POLE, {"lanes": 80, "rollout_steps": 500, "minibatch_size": 40_000, "epochs": 2}),
    ("ppo", POLE, {"lanes": 80, "rollout_steps": 40, "rounds": 2, "normalize_obs": True}),
    ("dqn", POLE, TURNS | {"n_step": 3, "normalize_obs": True}),
    ("sac", PointNav(PointNavConfig()), TURNS | {"num_tasks": 2}),
    ("q-learning", FrozenLakeV1(), {"lanes": 400, "steps": 100}),
    ("maml", PointNav(PointNavConfig()), {"num_tasks": 10, "episodes_per_task": 40}),
    ("maml", PointNav(PointNavConfig()), {"num_tasks": 1, "episodes_per_task": 400}),
    ("maml", PointNav(PointNavConfig()), {"num_tasks": 4, "episodes_per_task": 90, "outer": "ppo"}),
    ("promp", PointNav(PointNavConfig()), {"num_tasks": 10, "episodes_per_task": 40}),
    ("reptile", PointNav(PointNavConfig()), {"num_tasks": 10, "episodes_per_task": 40}),
    (OnlineMAMLConfig(), BANDIT, {"num_tasks": 40, "episodes_per_task": 30}),
    (OnlineMAMLConfig(), BANDIT, {"num_tasks": 2000}),
    ("rl2", BANDIT, TRIALS),
    ("rl2", BANDIT, TRIALS | {"embed": 32, "max_seq_len": 16, "previous_obs": True}),
    ("rl2", BANDIT, TRIALS | {"memory": "lstm"}),
    ("rl2", BANDIT, TRIALS | {"memory": "fast-weights"}),
    ("rl2", BANDIT, TRIALS | {"memory": "transformer", "layers": 1, "memory_size": 32}),
    ("domain-randomization", BANDIT, TRIALS),
    ("varibad", BANDIT, TRIALS | {"vae_updates": 2}),
    ("belief-oracle", BANDIT, TRIALS),
    ("pearl", PointNav(PointNavConfig()), INFERENCE),
    ("pearl", PointNav(PointNavConfig()), INFERENCE | {"encoder": "attention"}),
    ("pearl", PointNav(PointNavConfig()), INFERENCE | {"encoder": "gru"}),
    ("grbal", GAIN, PLANNING),
    ("rebal", GAIN, PLANNING),
    ("mb-de", GAIN, PLANNING),
]  # fmt: skip


@pytest.mark.parametrize(
    ("algo", "env", "settings"), MANY,
    ids=[f"{getattr(a, 'lower', lambda: 'online')()}-{i}" for i, (a, _, _) in enumerate(MANY)],
)  # fmt: skip
def test_an_iteration_has_the_same_bits_on_any_number_of_threads(algo, env, settings, of_threads):
    cfg = dataclasses.replace(ALGOS[algo].config if isinstance(algo, str) else algo, **settings)

    def iteration():
        algorithm = build(cfg, env.spec, seeded())
        tasks = env.sample_tasks(cfg.num_tasks, "train", seeded(1))
        metrics = [algorithm.meta_update(env, tasks, seeded(2)) for _ in range(2)]
        return algorithm.state_dict(), metrics

    one, *others = of_threads(iteration)
    assert all(equal(one, other) for other in others)


@pytest.mark.parametrize("rows", [100, 256, 300, 6250, 30_000])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 64), (64, 1), (5, 64), (64, 55), (64, 192)])
@pytest.mark.parametrize("onednn", [False, products._ONEDNN])
def test_products_have_the_same_bits_and_are_right(
    rows, inputs, outputs, onednn, of_threads, monkeypatch
):
    monkeypatch.setattr(products, "_ONEDNN", onednn)
    x, g = (torch.randn(rows, k, generator=seeded(k)) for k in (inputs, outputs))
    w, plus = (
        torch.randn(inputs, outputs, generator=seeded(3)),
        torch.randn(outputs, generator=seeded(4)),
    )
    one, *others = of_threads(
        lambda: (products.affine(plus, x, w), products.outer(torch.ones_like(w), x, g))
    )
    assert all(equal(one, other) for other in others)
    exact = plus.double() + x.double() @ w.double(), 1 + x.T.double() @ g.double()
    for found, expected in zip(one, exact, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [(1, 512, 512), (5, 384, 600), (33, 512, 64), (20, 5000, 64), (300, 1000, 64), (200, 64, 1)],
)
@pytest.mark.parametrize("onednn", [False, products._ONEDNN])
def test_long_sums_and_few_rows_have_the_same_bits(
    rows, inputs, outputs, onednn, of_threads, monkeypatch
):
    monkeypatch.setattr(products, "_ONEDNN", onednn)
    x, w = (torch.randn(n, inputs, generator=seeded(n)) for n in (rows, outputs))
    w, plus = w.T, torch.randn(outputs, generator=seeded(3))
    one, *others = of_threads(
        lambda: (
            products.affine(plus, x, w), products.dense(x, w, plus, relu=False),
            linear(x, w, plus), linear(x[None], w[None], plus[None]).squeeze(0),
        )
    )  # fmt: skip
    assert all(equal(one, other) for other in others)
    exact = plus.double() + x.double() @ w.double()
    for found in one:
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 64), (20, 20)])
def test_rates_of_single_weights_have_gradients_with_the_same_bits(inputs, outputs, of_threads):
    x, h, d = (torch.randn(800, 8, k, generator=seeded(k)) for k in (inputs, inputs, outputs))
    w, rate = (torch.rand(inputs, outputs, generator=seeded(k)) for k in (0, 1))
    rate.requires_grad_()

    def gradient():
        return torch.autograd.grad(products.stepped(x, w, rate, h, d).sum(), rate)

    one, *others = of_threads(gradient)
    assert all(equal(one, other) for other in others)


@pytest.mark.parametrize("sizes", [(5, 64, 64, 1), (20, 300, 300, 12)])
@pytest.mark.parametrize("rows", [100, 1024])
def test_gradients_of_a_perceptron_in_one_node_have_the_same_bits(sizes, rows, of_threads):
    params = {k: p.unsqueeze(0).requires_grad_() for k, p in layers(sizes, 1.0, seeded()).items()}
    x = torch.randn(1, rows, sizes[0], generator=seeded(1), requires_grad=True)

    def gradients():
        y = perceptron_once(params, x, torch.relu)
        return torch.autograd.grad(y.square().sum(), [x, *params.values()])

    one, *others = of_threads(gradients)
    assert all(equal(one, other) for other in others)


@pytest.mark.parametrize("candidates", [500, 2000])
def test_plans_of_one_lane_have_the_same_bits(candidates, of_threads):
    tried = torch.randn(1, candidates, 15, 6, generator=seeded())
    plan, cfg = Plan(tried[:, 0], tried[:, 1].abs()), PlannerConfig()
    one, *others = of_threads(lambda: mppi_refine(plan, tried, tried[:, :, 0, 0], cfg))
    assert all(equal(one, other) for other in others)


@pytest.mark.parametrize("numel", [1, 2**15 - 1, 2**15, 100_003, 2_000_000])
def test_sums_have_the_same_bits_and_are_right(numel, of_threads):
    x = torch.randn(numel, generator=seeded())
    one, *others = of_threads(lambda: (sums.total(x), sums.dot(x, x), sums.mean_of_each(x[None])))
    assert all(equal(one, other) for other in others)
    torch.testing.assert_close(one[0].double(), x.double().sum(), rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(one[1].double(), x.double().square().sum(), rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(one[2][0].double(), x.double().mean(), rtol=1e-4, atol=1e-5)


def test_a_number_that_is_used_everywhere_has_the_gradient_of_a_product(of_threads):
    y = torch.randn(50_001, generator=seeded())
    x = torch.tensor(0.5, requires_grad=True)

    def derivatives():
        (first,) = torch.autograd.grad((sums.spread(x, y).square() * y).sum(), x, create_graph=True)
        return first.detach(), *torch.autograd.grad(first, x)

    one, *others = of_threads(derivatives)
    assert all(equal(one, other) for other in others)
    exact = y.double().sum()
    for found, expected in zip(one, (exact, 2 * exact), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("rows", "features"), [(400, 300), (300, 2500)])
def test_a_baseline_of_one_task_has_the_same_bits(rows, features, of_threads):
    x = torch.randn(1, rows, features, generator=seeded()).double()
    y = x[..., :3].sum(-1).tanh()
    one, *others = of_threads(lambda: fit(x, y, y > -1))
    assert all(equal(one, other) for other in others)


def test_baselines_of_many_features_are_fitted_on_several_threads():
    words = (
        "import torch; from precocial.nets.baseline import fit; torch.set_num_threads(2); "
        "x = torch.rand(2, 400, 300); assert fit(x, x[..., 0], x[..., 0] > 0).isfinite().all()"
    )
    subprocess.run([sys.executable, "-c", words], check=True, timeout=60)  # MKL's own hangs


# ---- how many ---------------------------------------------------------------------------------


@pytest.fixture
def beside(monkeypatch):
    """Pretend that others use some cores, and that torch had so many threads before."""
    before = torch.get_num_threads()

    def pretend(used, *, cores=2, most=2):
        torch.set_num_threads(most)
        monkeypatch.setattr(threads, "_others", Neighbours(cores, used))

    yield pretend
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cores", "used", "most", "expected"),
    [
        (2, 0.0, 2, 2), (2, 0.2, 2, 2), (2, 0.5, 2, 1), (2, 1.0, 2, 1), (2, 1.9, 2, 1),
        (2, 0.0, 1, 1), (16, 0.2, 16, 16), (16, 0.5, 16, 15), (16, 4.1, 16, 12), (16, 4.1, 8, 8),
        (16, 16.0, 16, 1), (8, 0.0, 4, 4), (1, 0.0, 1, 1),
    ],
)  # fmt: skip
def test_threads_leave_others_their_cores(cores, used, most, expected, beside, monkeypatch):
    beside(used, cores=cores, most=most)
    monkeypatch.setattr(threads, "MANY_ALIKE", True)
    assert threads.fitting() == expected
    monkeypatch.setattr(threads, "MANY_ALIKE", False)  # three are as they were
    assert threads.fitting() == (expected if most <= 2 else most)


def test_shared_cores_are_given_back(beside):
    beside(1.0)
    threads.adjust()
    assert torch.get_num_threads() == 2  # outside it is the caller's own matter
    with pytest.raises(KeyError), threads.shared():
        assert torch.get_num_threads() == 1
        with threads.shared():
            threads._others.used = 0.0
            threads.adjust()
            assert torch.get_num_threads() == 2
            threads._others.used = 1.0
            threads.adjust()
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == 2


def test_what_others_use_is_all_work_less_our_own(monkeypatch, tmp_path):
    def line(name, user, idle, steal):
        return f"{name} {user} 10 20 {idle} 5 1 2 {steal} 0 0\n"

    def state(user, idle, steal):
        rest = line("cpu7", 90_000, 1, 0) + "intr 5 0 0\nctxt 77\n"  # a core that is not ours
        stat.write_text(
            line("cpu", 1, 2, 3) + line("cpu0", user, idle, steal) + line("cpu1", 0, 0, 0) + rest
        )

    stat, clock, own = tmp_path / "stat", [50.0], [7.0]
    state(100, 500, 0)
    monkeypatch.setattr(threads, "STAT", stat)
    monkeypatch.setattr(threads.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(threads.time, "process_time", lambda: own[0])
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr(threads.os, "sysconf", lambda name: 100)
    others = threads.Others()
    clock[0], own[0] = 50.1, 7.1
    state(900, 500, 0)
    assert others.look() == 0.0  # too soon to tell
    clock[0], own[0] = 52.0, 8.0  # in 2 s the cores worked 3.5 s, 0.5 of them for another machine
    state(400, 600, 50)
    assert abs(others.look() - 1.25) < 1e-9
    clock[0], own[0] = 53.0, 9.5  # clocks of different grain may say that we did more than all
    state(450, 600, 50)
    assert others.look() == 0.0


def test_where_the_kernel_does_not_tell_all_threads_stay(monkeypatch, tmp_path):
    monkeypatch.setattr(threads, "STAT", tmp_path / "none")
    silent = threads.Others()
    monkeypatch.setattr(threads, "_others", silent)
    assert silent.look() == 0.0
    assert threads.fitting() == torch.get_num_threads()
