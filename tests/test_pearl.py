"""PEARL: inference of the task, what contexts are drawn, and that nothing is lost."""

import copy
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import precocial
from precocial.algos.inference.encoder import Gaussian, encode, initial
from precocial.algos.inference.pearl import (
    PEARL,
    PEARLConfig,
    Training,
    changes,
    context_rows,
    guess,
)
from precocial.cli import main
from precocial.envs.control.cart_pole import CartPole
from precocial.envs.control.point_robot import PointRobot, PointRobotSparse, PointRobotSparseConfig
from precocial.envs.control.wind import Wind
from precocial.envs.grid.grid_nav import GridNav
from precocial.evaluation.curve import adaptation_curve
from precocial.rollout import collect
from precocial.runs import checkpoint
from precocial.runs.folder import create_folder
from precocial.runs.plan import plan
from precocial.runs.rows import read_rows
from precocial.training import run

SMALL = {
    "train_tasks": 6, "num_tasks": 3, "updates": 4, "meta_batch": 4, "batch_size": 8,
    "context_size": 12, "hidden": (16,), "encoder_hidden": (16,), "latent_dim": 3,
}  # fmt: skip
KINDS = ("product", "attention", "gru")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def agent(env=None, seed=0, **options):
    env = env or PointRobot()
    return PEARL(PEARLConfig(**SMALL | options), env.spec, seeded(seed)), env


def trained(iterations=3, env=None, **options):
    algorithm, env = agent(env, **options)
    for i in range(iterations):
        algorithm.meta_update(env, env.sample_tasks(1, "train", seeded(i)), seeded(100 + i))
    return algorithm, env


# ---- the posterior ------------------------------------------------------------------------


def test_the_product_is_that_of_the_factors_and_the_prior():
    # N(0, 1) N(2, 1/4) N(-1, 1): precision 1 + 4 + 1, mean (2 * 4 - 1) / 6
    q = Gaussian(torch.tensor([[5.0]]), torch.tensor([[7.0]]))
    assert float(q.mean) == pytest.approx(7 / 6) and float(q.var) == pytest.approx(1 / 6)
    expected = 0.5 * (1 / 6 + (7 / 6) ** 2 - 1 + math.log(6))
    assert float(q.kl()) == pytest.approx(expected)
    normal = torch.distributions.Normal(q.mean, q.var.sqrt())
    prior = torch.distributions.Normal(0.0, 1.0)
    assert float(q.kl()) == pytest.approx(float(torch.distributions.kl_divergence(normal, prior)))


def test_each_transition_is_a_factor():
    params = initial("product", 4, (8,), 2, seeded())
    rows, weight = torch.randn(1, 3, 4, generator=seeded(1)), torch.tensor([[1.0, 2.0, 0.0]])
    one, two, _ = (encode("product", params, r.view(1, 1, 4), torch.ones(1, 1)) for r in rows[0])
    q = encode("product", params, rows, weight)
    torch.testing.assert_close(q.precision, one.precision + 2 * two.precision)
    torch.testing.assert_close(q.weighted, one.weighted + 2 * two.weighted)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_seen_is_the_prior(kind):
    params = initial(kind, 4, (8,), 2, seeded())
    for rows in (torch.zeros(2, 0, 4), torch.randn(2, 5, 4, generator=seeded(1))):
        q = encode(kind, params, rows, torch.zeros(rows.shape[:2]))
        assert q.mean.eq(0).all() and q.var.eq(1).all() and q.kl().eq(0).all()


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(6)), st.sampled_from(["product", "attention"]))
def test_the_order_of_a_context_says_nothing(order, kind):
    params = initial(kind, 4, (8, 8), 2, seeded())
    rows, weight = torch.randn(2, 6, 4, generator=seeded(1)), torch.rand(2, 6, generator=seeded(2))
    one, other = (
        encode(kind, params, r, w) for r, w in ((rows, weight), (rows[:, order], weight[:, order]))
    )
    torch.testing.assert_close(one.mean, other.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.var, other.var, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_weight_0_say_nothing_and_all_others_something(kind):
    params = initial(kind, 4, (8,), 2, seeded())
    rows, weight = torch.randn(1, 5, 4, generator=seeded(1)), torch.tensor([[1.0, 1, 1, 0, 0]])
    if kind == "attention":
        params |= {name: 10 * params[name] for name in ("query", "key")}  # sure of itself
    junk = rows.clone()
    junk[:, 3:] = 7.0
    q, same = encode(kind, params, rows, weight), encode(kind, params, junk, weight)
    torch.testing.assert_close(q.mean, same.mean)
    for k in range(3):
        moved = rows.clone()
        moved[:, k] += 1.0
        assert not torch.allclose(encode(kind, params, moved, weight).mean, q.mean)


def test_what_is_known_of_the_task_is_ignored_or_averaged_where_asked():
    params = initial("product", 4, (8,), 2, seeded())
    rows, weight = torch.randn(400, 5, 4, generator=seeded(1)), torch.ones(400, 5)
    q = encode("product", params, rows, weight)
    z, kl = guess(params, rows, weight, PEARLConfig(context="deterministic"), seeded())
    torch.testing.assert_close(z, q.mean)
    z, kl = guess(params, rows, weight, PEARLConfig(context="none"), seeded())
    assert kl.eq(0).all() and abs(float(z.mean())) < 0.1 and abs(float(z.std()) - 1) < 0.1


# ---- the data -----------------------------------------------------------------------------


def test_changes_of_reward_do_not_reach_over_an_end():
    reward = torch.tensor([[1.0, 4.0, 2.0, 5.0, 5.5]])
    ended = torch.tensor([[False, False, True, False, False]])
    assert changes(reward, ended).tolist() == [[0.0, 3.0, -2.0, 0.0, 0.5]]


@pytest.mark.parametrize("env", [PointRobot(), CartPole()], ids=["20 steps", "ends early"])
def test_a_learner_reads_what_contexts_in_training_read(env):
    algorithm, _ = agent(env, context_size=10**6)
    learner = algorithm.learner(2, 1, seeded())
    tasks = env.sample_tasks(2, "train", seeded(1))
    rollout = collect(env, tasks, learner, 1, 25, seeded(2))
    kept = {k: v.movedim(0, 2) for k, v in algorithm.rows_of(rollout).items()}
    kept["change"] = changes(kept["reward"], kept["ended"])
    rows = context_rows(kept, algorithm.cfg, env.spec)
    torch.testing.assert_close(learner.known()[0], rows.flatten(0, 1))


def marked(algorithm, env, turns):
    """Data whose observation says which task, turn and step they are of; the first turn is -1."""
    m, length = algorithm.at_once, algorithm.length

    def block(group, turn):
        task = torch.tensor([(group * m + k) % algorithm.num_train for k in range(m)]).float()
        obs = torch.zeros(length, m, 1, env.spec.obs_dim)
        obs[..., 0], obs[..., 1] = task.view(1, m, 1), turn / 10
        reward = torch.arange(length).float().view(-1, 1, 1).expand(length, m, 1)
        ended = (reward + 1) % env.spec.horizon == 0
        none = torch.zeros_like(ended)
        return {
            "obs": obs, "next_obs": obs, "action": torch.zeros(length, m, 1, env.spec.action_dim),
            "reward": reward / 10, "dense": -reward, "ended": ended,
            "terminated": none, "lost": none,
        }  # fmt: skip

    first = [block(g, -1) for g in range(algorithm.groups)]
    algorithm.first = {k: torch.stack([b[k] for b in first]) for k in first[0]}
    for turn in range(turns):
        algorithm.replay.extend(block(turn % algorithm.groups, turn))


def test_turns_are_of_equal_size_with_as_few_tasks_twice_as_can_be():
    for tasks, most, groups, at_once in ((80, 20, 4, 20), (21, 20, 2, 11), (5, 9, 1, 5)):
        algorithm, env = agent(train_tasks=tasks, num_tasks=most)
        assert (algorithm.groups, algorithm.at_once) == (groups, at_once)
        drawn = torch.cat([algorithm.tasks_of(env, g).id for g in range(groups)]).tolist()
        assert len(drawn) - len(set(drawn)) == groups * at_once - tasks


@pytest.mark.parametrize("turns", [0, 1, 5, 40])
def test_every_task_gets_its_own_data_the_latest_for_its_context(turns):
    algorithm, env = agent(
        train_tasks=7, num_tasks=3, buffer_size=120, context_trials=2, context_size=9,
        batch_size=60,
    )  # fmt: skip
    assert algorithm.groups == 3
    marked(algorithm, env, turns)
    cells = torch.arange(9)
    group, slot = cells // 3, cells % 3
    task = (group * 3 + slot) % 7
    batch = algorithm.transitions(group, slot, seeded())
    assert batch.obs[..., 0].eq(task.unsqueeze(1)).all()
    assert batch.reward.le(0).all()  # critics learn from the dense reward
    met = {
        int(g): set(batch.obs[group == g][..., 1].flatten().mul(10).round().int().tolist())
        for g in range(3)
    }
    per_task = 120 // algorithm.length
    for g in range(3):
        all_turns = [t for t in range(turns) if t % 3 == g]
        # The ring holds as many turns of all groups together as three times a task's share.
        latest = [t for t in all_turns if t >= turns - 3 * per_task]
        assert met[g] == {-1, *latest}
    contexts = set()
    for k in range(60):
        rows, weight = algorithm.context(group, slot, seeded(k))
        there = weight > 0
        assert rows[..., 0][there].eq(task.unsqueeze(1).expand_as(weight)[there]).all()
        contexts |= {
            (int(g), round(10 * float(t))) for g, t in zip(group, rows[:, 0, 1], strict=True)
        }
        # The first k episodes of a trial, thinned out evenly, the rows standing for all.
        size = weight.sum(1)
        assert all(any(abs(x - n) < 1e-3 for n in (20, 40)) for x in size.tolist())
        step = 10 * rows[..., 4]
        assert (step.diff(dim=1) > 0).all() and (step.max(1).values < size).all()
    expected = {
        (g, t) for g in range(3) for t in [-1, *[t for t in range(turns) if t % 3 == g][-2:]]
    }
    assert contexts == expected


def test_the_weight_of_the_divergence_does_not_depend_on_the_number_of_tasks():
    found = []
    for tasks in (2, 4):
        algorithm, _ = trained(1, meta_batch=tasks, updates=1, kl_weight=1.0)
        training = Training(algorithm, seeded(5))
        training.run(1)
        found.append(training.means()["loss/kl"])
    assert found[0] == pytest.approx(found[1], rel=0.5)  # a mean, not a sum


# ---- the loop -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "env", [PointRobot(), GridNav(), CartPole()], ids=["box", "discrete", "ends early"]
)
def test_it_runs_before_and_after_training_and_evaluation_writes_nothing(kind, env):
    algorithm, _ = agent(env, encoder=kind, informed=0.5, first_data="sticky", warm_updates=1)
    for _ in range(2):
        before = copy.deepcopy(algorithm.state_dict())
        kept = algorithm.replay.total
        tasks = env.sample_tasks(3, "test", seeded(1))
        curve = adaptation_curve(algorithm, env, tasks, stages=3, lanes=2, seed=0)
        assert curve.returns.shape == (3, 3)
        leaves = torch.utils._pytree.tree_leaves
        same = zip(leaves(before), leaves(algorithm.state_dict()), strict=True)
        assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in same)
        assert algorithm.replay.total == kept
        metrics = algorithm.meta_update(env, tasks, seeded(2))
        assert all(math.isfinite(v) for v in metrics.values())
        assert metrics["loss/kl"] > 0


def test_as_many_trials_are_informed_as_asked_for_also_where_episodes_end_early():
    algorithm, env = trained(1, CartPole(), informed=1e-6, lanes=2)
    *_, since = algorithm.informed(0, seeded())
    # A trial of so many steps can have as many episodes, more than a trial's in number.
    assert since.eq(2 * env.spec.horizon).all()


class Breaking(PointRobot):
    """Reports a simulation that diverged, of every lane in its fifth step."""

    def info(self, state):
        return {"diverged": (self.time == 4).float()}


def test_lost_steps_are_counted_and_nothing_is_learned_from_them():
    algorithm, env = agent(Breaking(), context_size=10**6, batch_size=400)
    metrics = algorithm.meta_update(env, env.sample_tasks(1, "train", seeded()), seeded())
    assert metrics["train/lanes_diverged"] == 3 * 2
    cells = torch.arange(3)
    _, weight = algorithm.context(cells * 0, cells, seeded(), whole=True)
    assert weight[:, 4].eq(0).all() and weight[:, 24].eq(0).all() and weight.sum() == 3 * 38
    kept = algorithm.transitions(cells * 0, cells, seeded()).weight.mean()
    assert float(kept) == pytest.approx(0.95, abs=0.03)


def test_z_is_drawn_once_an_episode():
    algorithm, env = trained(1)
    learner = algorithm.learner(2, 3, seeded())
    seen = []
    act = learner.act

    def watched(obs, *, explore=True):
        seen.append(learner.z.clone())
        return act(obs, explore=explore)

    learner.act = watched
    collect(env, env.sample_tasks(2, "test", seeded(1)), learner, 3, 60, seeded(2))
    z = torch.stack(seen)
    assert z[:20].eq(z[0]).all() and z[20:40].eq(z[20]).all() and not torch.equal(z[0], z[20])


def test_a_learner_goes_on_where_it_was_saved():
    algorithm, env = trained(1)
    tasks = env.sample_tasks(2, "test", seeded(1))
    one = algorithm.learner(2, 1, seeded())
    collect(env, tasks, one, 1, 20, seeded(2))
    other = algorithm.learner(2, 1, seeded(3))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    one.rng, other.rng = seeded(4), seeded(4)
    torch.testing.assert_close(one.draw(), other.draw())


def test_a_learner_is_frozen_and_what_it_saves_is_whole():
    algorithm, env = agent()
    tasks = env.sample_tasks(2, "test", seeded(1))
    one, other = algorithm.learner(2, 1, seeded()), algorithm.learner(2, 1, seeded())
    collect(env, tasks, one, 1, 20, seeded(2))
    algorithm.meta_update(env, tasks, seeded(3))
    collect(env, tasks, other, 1, 20, seeded(2))
    torch.testing.assert_close(one.known()[0], other.known()[0])
    later = algorithm.learner(2, 1, seeded())
    later.load_state_dict(copy.deepcopy(one.state_dict()))
    for learner in (one, later):
        learner.rng = seeded(4)
        collect(env, tasks, learner, 1, 5, seeded(5))
    torch.testing.assert_close(one.known()[0], later.known()[0])


def test_stopping_loses_nothing(tmp_path):
    options = {**SMALL, "eval_every": 2, "eval_tasks": 3, "save_every": 1, "informed": 0.5}
    for name, ends in (("whole", [5]), ("parts", [2, 3, 5])):
        p = plan("pearl", "point-robot", iterations=5, **options)
        create_folder(p, tmp_path / name, overwrite=False)
        for end in ends:
            run(tmp_path / name, end, quiet=True)
    one, other = (
        checkpoint.load(tmp_path / name / "checkpoint" / "last.safetensors")["algorithm"]
        for name in ("whole", "parts")
    )
    leaves = torch.utils._pytree.tree_leaves
    assert all(
        torch.equal(torch.as_tensor(a), torch.as_tensor(b))
        for a, b in zip(leaves(one), leaves(other), strict=True)
    )


def test_train_eval_watch_and_load(tmp_path, capsys):
    folder = tmp_path / "r"
    words = ["--iterations", "2", "--updates", "2", "--train-tasks", "4", "--num-tasks", "2"]
    assert main(["train", "pearl", "--env", "point-robot-sparse", *words, "--warm-updates", "1",
                 "--eval-tasks", "2", "--out", str(folder)]) == 0  # fmt: skip
    words = ["eval", str(folder), "--tasks", "3", "--lanes", "2"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "solved by then" in shown and "known goal" in shown
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    solved = [stage["solved_by"] for stage in found["stages"]]
    assert len(solved) == 11 and solved == sorted(solved)
    known = [stage["return_mean"] for stage in found["reference_curves"]["known goal"]]
    assert found["references"]["known goal"] == pytest.approx(sum(known))  # of the whole trial
    assert main(["watch", str(folder), "--out", str(tmp_path / "film.gif"), "--episodes", "2"]) == 0
    assert main(["report", str(folder), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()  # the last episode counts, and comes first
    assert page.index("Return of single episodes") < page.index("Whole trial")
    agent = precocial.load(folder)
    assert agent is not None
    row = read_rows(folder / "metrics.jsonl")[-1]
    assert row["env_steps"] == (2 + 2) * 2 * 200  # two groups of two tasks at first


def test_no_more_training_tasks_than_a_family_has():
    spec = PointRobot().spec._replace(split_sizes=(("train", 4), ("test", 2)))
    algorithm = PEARL(PEARLConfig(**SMALL), spec, seeded())
    assert algorithm.num_train == 4 and algorithm.groups == 2


# ---- families -----------------------------------------------------------------------------


def test_goals_of_the_sparse_robot_are_on_the_half_circle_and_its_best_return_is_exact():
    env = PointRobotSparse()
    tasks = env.sample_tasks(50, "test", seeded())
    goal = tasks.params["goal"]
    torch.testing.assert_close(goal.norm(dim=-1), torch.ones(50))
    assert (goal[:, 1] >= 0).all()
    best = env.references(tasks, 2, seeded(1))["known goal"]
    assert (best[:, 0] == best[:, 1]).all() and 12.6 < float(best.min()) < float(best.max()) < 14.9
    # Along an axis: 0.1 m a step, inside from step 8 on (0.8 m), at the goal from step 10.
    east = type(tasks)({"goal": torch.tensor([[1.0, 0.0]])}, torch.zeros(1, dtype=torch.long))
    by_hand = 0.8 + 0.9 + 1.0 * 11
    assert float(env.references(east, 1, seeded())["known goal"]) == pytest.approx(
        by_hand, abs=1e-4
    )


def test_the_dense_reward_travels_beside_the_sparse_one():
    env = PointRobotSparse(PointRobotSparseConfig(radius=0.5))
    tasks = type(env.sample_tasks(1, "train", seeded()))(
        {"goal": torch.tensor([[0.0, 1.0]])}, torch.zeros(1, dtype=torch.long)
    )
    env.reset(tasks, 1, seeded())
    up = torch.tensor([[[0.0, 1.0]]])
    steps = [env.step(up) for _ in range(6)]
    dense = [float(s.info["dense_reward"]) for s in steps]
    assert dense == pytest.approx([-0.9, -0.8, -0.7, -0.6, -0.5, -0.4], abs=1e-5)
    assert [float(s.reward) > 0 for s in steps][:4] == [False] * 4
    assert float(steps[5].reward) == pytest.approx(0.6, abs=1e-5)


def test_a_run_that_kept_its_only_reward_twice_goes_on_learning_from_it():
    algorithm, _ = trained()
    first = algorithm.first | {"dense": algorithm.first["reward"]}
    algorithm.load_state_dict(algorithm.state_dict() | {"first": first})
    cells = torch.arange(6)
    group, slot = cells // algorithm.at_once, cells % algorithm.at_once
    kept = algorithm.replay.fields
    kept["dense"] = torch.zeros_like(kept["reward"])  # what was not written since
    assert (algorithm.transitions(group, slot, seeded()).reward < 0).all()


def test_walks_of_the_robot_are_the_published_ones():
    env = PointRobot()
    found = env.references(env.sample_tasks(4000, "test", seeded()), 1, seeded(1))
    assert float(found["known goal"].mean()) == pytest.approx(-5.2, abs=0.4)
    assert float(found["to the centre"].mean()) == pytest.approx(-15.9, abs=0.4)


def test_the_wind_carries_the_point_and_who_knows_it_can_stay_at_the_goal():
    env, rng = Wind(), seeded()
    tasks = env.sample_tasks(300, "test", rng)
    wind = tasks.params["wind"]
    assert wind.abs().max() < 0.08
    assert env.sample_tasks(300, "shifted", rng).params["wind"].abs().amax(-1).min() >= 0.08
    env.reset(tasks, 1, rng)
    step = env.step(torch.tensor([0.5, -1.0]).expand(300, 1, 2))
    torch.testing.assert_close(step.next_obs[:, 0], wind + torch.tensor([0.05, -0.1]))
    away = (step.next_obs[:, 0] - torch.tensor([0.0, 1.0])).norm(dim=-1)
    torch.testing.assert_close(step.info["dense_reward"][:, 0], (away < 0.03).float() - away)
    found = env.references(tasks, 1, rng)
    # By hand: the slower of both axes decides when it is there; x is held from the first step on.
    steps = ((1 - 0.03) / (0.1 + wind[:, 1])).ceil()
    torch.testing.assert_close(found["known wind"][:, 0], 76 - steps, atol=1.0, rtol=0)
    assert found["as if there was none"].mean() < 10
    assert env.render(0, 0).shape == (320, 320, 3)  # with the wind as a line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--meta-batch", "0"], "meta-batch is 0"),
        (["--informed", "1.5"], "informed is 1.5"),
        (["--kl-weight", "-1"], "kl-weight is -1"),
        (["--alpha", "0"], "alpha is 0"),
        (["--alpha", "1e-4"], "expected --min-alpha, 0.001, or more"),
        (["--encoder", "mlp"], "encoder"),
        (["--env-radius", "2"], "env-radius is 2"),
        (["--one-task", "test"], "one-task is test"),
    ],
)
def test_bad_input_is_one_line(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "pearl", "--env", "point-robot-sparse", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error
    assert not list(tmp_path.iterdir())
