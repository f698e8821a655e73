"""Transfer: surgery that changes nothing, what is frozen, teachers, measures, bad input."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import precocial
from precocial.algos.plain.dqn import DQNConfig, q_values
from precocial.algos.plain.ppo import PPOConfig
from precocial.algos.plain.q_learning import QLearningConfig
from precocial.algos.plain.sac import SACConfig
from precocial.algos.transfer.begin import begin, columns_of
from precocial.algos.transfer.config import TransferConfig
from precocial.algos.transfer.guide import Guide, Guides
from precocial.algos.transfer.surgery import operate
from precocial.cli import main
from precocial.envs.control.cart_pole_v1 import CartPoleV1, CartPoleV1Config
from precocial.envs.control.pendulum_v1 import PendulumV1
from precocial.envs.grid.frozen_lake import FrozenLakeV1
from precocial.nets.mlp import action_dist, orthogonal_layers, perceptron
from precocial.runs import checkpoint
from precocial.runs.folder import load_algorithm, read_plan
from precocial.runs.rows import read_rows
from precocial.training import run
from precocial.transferring.measure import Curve, area, asymptote, curve_of, measure, time_to
from precocial.transferring.run import judge, transfer
from precocial.transferring.source import from_callable, from_file, read_sources
from precocial.types import UserError

SMALL = {"lanes": 4, "rollout_steps": 16, "minibatch_size": 32, "eval_tasks": 2, "eval_every": 1}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A source that was trained for a moment."""
    place = tmp_path_factory.mktemp("source")
    precocial.train(
        "ppo", "CartPole-v1", iterations=3, out=place / "r", quiet=True, **SMALL, hidden=(8, 8)
    )
    return place / "r"


def nets(sizes=(4, 8, 8, 2), seed=0):
    return {"actor": orthogonal_layers(sizes, 1.0, seeded(seed))}


def put(source, sizes, *, columns=None, relu=False, **ways):
    """The source's policy in another shape: parameters and plan."""
    fresh = {"actor": orthogonal_layers(sizes, 1.0, seeded(9))}
    old = source["actor"]["weight_0"].shape[0]
    columns = columns or [k if k < old else None for k in range(sizes[0])]
    found = operate(
        source, fresh, TransferConfig(**ways), columns, relu=relu, box=ways.pop("box", False)
    )
    return found.nets["actor"], found


def logits(params, x, relu=False):
    return perceptron(params, x, torch.relu if relu else torch.tanh)


# ---- surgery --------------------------------------------------------------------------------


def test_what_has_the_same_shape_is_copied_to_the_bit():
    source = nets()
    new, found = put(source, (4, 8, 8, 2))
    assert all(torch.equal(new[k], source["actor"][k]) for k in new)
    assert {row.fate for row in found.plan} == {"kept"}


@pytest.mark.parametrize("sizes", [(6, 8, 8, 2), (4, 16, 8, 2), (4, 8, 32, 2), (7, 20, 30, 2)])
def test_a_wider_net_computes_the_same_on_what_the_source_knew(sizes):
    source = nets()
    new, found = put(source, sizes)
    x = torch.randn(50, sizes[0], generator=seeded(1))
    torch.testing.assert_close(
        logits(new, x), logits(source["actor"], x[:, :4]), rtol=1e-5, atol=1e-6
    )
    assert "resized" in {row.fate for row in found.plan}
    # and what is new can learn: every parameter that is read has a gradient somewhere
    leaves = {k: v.clone().requires_grad_() for k, v in new.items()}
    logits(leaves, x).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in leaves.values())


def test_a_new_action_is_never_the_best_at_first_and_is_explored():
    source = nets()
    new, _ = put(source, (4, 8, 8, 4))
    x = 3 * torch.randn(500, 4, generator=seeded(1))
    dist, old = action_dist(new, x, torch.tanh), action_dist(source["actor"], x, torch.tanh)
    assert torch.equal(dist["logits"].argmax(-1), old["logits"].argmax(-1))
    mean = logits(source["actor"], x).mean(-1)
    for k in (2, 3):
        torch.testing.assert_close(logits(new, x)[:, k], mean, rtol=1e-4, atol=1e-5)


def test_layers_are_inserted_as_the_identity_where_that_is_exact():
    source = nets((4, 8, 2))
    new, found = put(source, (4, 8, 8, 8, 2), relu=True)
    x = torch.randn(50, 4, generator=seeded(1))
    torch.testing.assert_close(logits(new, x, True), logits(source["actor"], x, True))
    assert [row.note for row in found.plan][1:3] == ["inserted as the identity"] * 2
    _, found = put(source, (4, 8, 8, 2), relu=False)
    assert [row.fate for row in found.plan] == ["kept", "new", "new"]


def test_layers_that_the_target_lacks_are_skipped_from_the_top():
    source = nets((4, 8, 8, 8, 2))
    new, found = put(source, (4, 8, 2))
    assert torch.equal(new["weight_0"], source["actor"]["weight_0"])
    fates = {row.layer: row.fate for row in found.plan if row.fate == "skipped"}
    assert set(fates) == {"actor.1", "actor.2", "actor.3"}
    assert [row.fate for row in found.plan][:2] == ["kept", "new"]


def test_columns_can_change_places():
    source = nets()
    columns = columns_of(
        TransferConfig(map_obs=("3=0", "1-2=1-2", "5=3")), 4, 6, None, CartPoleV1().spec
    )
    assert columns == [None, 1, 2, 0, None, 3]
    new, _ = put(source, (6, 8, 8, 2), columns=columns)
    x = torch.randn(20, 6, generator=seeded(1))
    torch.testing.assert_close(
        logits(new, x), logits(source["actor"], x[:, [3, 1, 2, 5]]), rtol=1e-5, atol=1e-6
    )
    names = {"camera": (0, 3), "arm": (3, 4)}
    spec = CartPoleV1().spec._replace(obs_names=(("arm", (0, 1)), ("eye", (1, 4))))
    named = columns_of(TransferConfig(map_obs=("eye=camera", "arm=arm")), 4, 4, names, spec)
    assert named == [3, 0, 1, 2]


def test_a_temperature_flattens_the_policy_and_a_new_head_is_new():
    source = nets()
    new, _ = put(source, (4, 8, 8, 2), head_temperature=4.0)
    x = torch.randn(9, 4, generator=seeded(1))
    torch.testing.assert_close(logits(new, x) * 4, logits(source["actor"], x))
    new, found = put(source, (4, 8, 8, 2), reinit=("actor.2",))
    assert not torch.equal(new["weight_2"], source["actor"]["weight_2"])
    assert [row.fate for row in found.plan] == ["kept", "kept", "new"]
    new, found = put(source, (4, 8, 8, 2), only_layers=(0,))
    assert [row.fate for row in found.plan] == ["kept", "new", "new"]
    _, found = put(source, (4, 8, 8, 2), features_from=1)
    assert [(row.fate, row.frozen) for row in found.plan] == [
        ("kept", True), ("kept", True), ("new", False)
    ]  # fmt: skip


def agent(algo, spec, seed, **settings):
    config = {"sac": SACConfig, "dqn": DQNConfig, "q-learning": QLearningConfig}[algo]
    return precocial.algos.build(config(hidden=(8, 8), **settings), spec, seeded(seed))


def source_of(trained, spec, **more):
    own = {"obs_dim": spec.obs_dim, "action_kind": spec.action_kind, "activation": "relu"}
    return {"nets": trained.networks(), "action_dim": spec.action_dim} | own | more


def test_a_critic_of_continuous_actions_still_reads_them():
    spec = PendulumV1().spec
    old, new = (agent("sac", spec, seed) for seed in (1, 2))
    rows = begin(new, TransferConfig(), source_of(old, spec))
    assert {row.fate for row in rows} == {"kept"}
    assert torch.equal(new.nets["q"]["weight_0"], old.nets["q"]["weight_0"])
    # another observation: the action is still the action
    wide = spec._replace(obs_dim=5, action_dim=2)
    new = agent("sac", wide, 3)
    begin(new, TransferConfig(), source_of(old, spec))
    for name in ("q", "q_twin"):
        ours, theirs = new.nets[name]["weight_0"], old.nets[name]["weight_0"]
        assert torch.equal(ours[[0, 1, 2, 5]], theirs) and not ours[[3, 4, 6]].any()


@pytest.mark.parametrize("actions", [(1, 2), (2, 1)])
def test_means_stay_means_and_deviations_deviations(actions):
    before, after = (PendulumV1().spec._replace(action_dim=k) for k in actions)
    old, new = agent("sac", before, 1), agent("sac", after, 2)
    begin(new, TransferConfig(), source_of(old, before))
    x = torch.randn(20, 3, generator=seeded(3))
    parts = [logits(a.nets["actor"], x, relu=True).chunk(2, -1) for a in (old, new)]
    for theirs, ours in zip(*parts, strict=True):
        torch.testing.assert_close(ours[:, :1], theirs[:, :1])
        assert not ours[:, 1:].any()  # the new action's mean is 0


def test_a_dueling_value_stays_a_value_and_only_a_dueling_net_starts_one():
    before, after = (CartPoleV1(CartPoleV1Config(extra_actions=k)).spec for k in (0, 1))
    old, new = (agent("dqn", s, k, dueling=True) for k, s in enumerate((before, after)))
    begin(new, TransferConfig(), source_of(old, before))
    x = torch.randn(1, 50, 4, generator=seeded(3))
    theirs, ours = (
        q_values({k: p.unsqueeze(0) for k, p in a.nets["q"].items()}, x, a.cfg) for a in (old, new)
    )
    torch.testing.assert_close(ours[..., :2], theirs)
    torch.testing.assert_close(ours[..., 2], theirs.mean(-1))
    for dueling in (True, False):
        old = agent("dqn", before, 1, dueling=dueling)
        new = agent("dqn", before, 2, dueling=not dueling)
        with pytest.raises(UserError, match="alone is dueling"):
            begin(new, TransferConfig(), source_of(old, before))
        begin(new, TransferConfig(reinit=("q.2",)), source_of(old, before))


# ---- training on ----------------------------------------------------------------------------


def trained(home, ways, iterations=3, env=None, **settings):
    """An agent that began from the source, trained for a few iterations; and how it began."""
    env = env or CartPoleV1()
    small = {k: v for k, v in SMALL.items() if not k.startswith("eval")}
    cfg = dataclasses.replace(PPOConfig(), hidden=(8, 8), **small, **settings)
    agent = precocial.algos.build(cfg, env.spec, seeded(1))
    plan = begin(agent, TransferConfig(**ways), read_sources(str(home), "best")[0])
    before = {n: {k: p.clone() for k, p in v.items()} for n, v in agent.networks().items()}
    tasks = env.sample_tasks(1, "train", seeded())
    for i in range(iterations):
        metrics = agent.meta_update(env, tasks, seeded(i))
    return agent, before, plan, metrics


@pytest.mark.parametrize("leash", [0.0, 0.1])
def test_frozen_layers_stay_to_the_bit_with_normaliser_and_leash(home, leash):
    ways = {"freeze": ("actor.0", "critic.[01]"), "l2_source": leash, "kickstart": 1.0}
    agent, before, plan, _ = trained(home, ways, normalize_obs=True)
    frozen = {row.layer for row in plan if row.frozen}
    assert {"actor.0", "critic.0", "critic.1"} <= frozen
    for net, params in agent.nets.items():
        for k, p in params.items():
            same = torch.equal(p, before[net][k])
            assert same == (f"{net}.{k[-1]}" in frozen), (net, k)
    assert float(agent.normaliser["count"]) == float(before["normaliser"]["count"])
    free, *_ = trained(home, {"freeze": ("critic.2",)}, normalize_obs=True)
    assert float(free.normaliser["count"]) > 0


def test_what_was_frozen_is_trained_after_so_many_steps(home):
    ways = {"freeze": ("actor.*",), "unfreeze_at": 2 * 64}
    agent, before, _, _ = trained(home, ways, iterations=2)
    assert torch.equal(agent.nets["actor"]["weight_1"], before["actor"]["weight_1"])
    agent, before, _, _ = trained(home, ways, iterations=3)
    assert not torch.equal(agent.nets["actor"]["weight_1"], before["actor"]["weight_1"])


def test_only_the_critic_learns_while_it_warms_up(home):
    agent, before, _, _ = trained(home, {"critic_warmup": 999}, iterations=2)
    assert torch.equal(agent.nets["actor"]["weight_1"], before["actor"]["weight_1"])
    assert not torch.equal(agent.nets["critic"]["weight_1"], before["critic"]["weight_1"])


def test_kickstart_0_is_fine_tuning_to_the_bit_and_1_is_not(home):
    plain, zero, one = (
        trained(home, ways)[0] for ways in ({}, {"kickstart": 0.0}, {"kickstart": 1.0})
    )
    for k, p in plain.nets["actor"].items():
        assert torch.equal(p, zero.nets["actor"][k])
    assert any(not torch.equal(p, one.nets["actor"][k]) for k, p in plain.nets["actor"].items())


def test_the_teacher_pulls_less_and_less_and_is_the_source_before_it_moved(home):
    agent, _, _, metrics = trained(home, {"kickstart": 2.0, "kickstart_steps": 128}, iterations=1)
    assert metrics["loss/teacher"] < 0.1  # it has hardly moved
    assert [agent.guide.pull(n) for n in (0, 64, 128, 999)] == [2.0, 1.0, 0.0, 0.0]
    head = {"kickstart": 1.0, "reinit": ("actor.2",)}
    agent, before, _, _ = trained(home, head)
    source = read_sources(str(home), "best")[0]["nets"]["actor"]
    assert torch.equal(agent.guide.teacher["weight_2"], source["weight_2"])
    assert not torch.equal(before["actor"]["weight_2"], source["weight_2"])


def test_what_holds_a_run_is_where_the_run_is():
    _, found = put(nets(), (4, 8, 8, 2))
    ways = TransferConfig(freeze=("actor.0",), l2_source=1.0, kickstart=1.0)
    guides = Guides([Guide(ways, found, found.nets["actor"], "meta"), None], [0, 0])
    parts = [guides.trainable, guides.leash, guides.source, guides.known, guides.pull]
    assert {x.device.type for x in [*parts, *guides.teachers.values()]} == {"meta"}


def test_a_leash_keeps_what_was_taken_near_the_source_and_leaves_the_rest(home):
    env = CartPoleV1(CartPoleV1Config(extra_inputs=2))
    far, near = (
        trained(home, {"l2_source": w}, iterations=8, env=env, lr=0.01)[0] for w in (0.0, 10.0)
    )
    source = read_sources(str(home), "best")[0]["nets"]["actor"]["weight_0"]

    def away(agent, rows):
        w = agent.nets["actor"]["weight_0"][rows]
        return float((w - (source if rows == slice(0, 4) else 0)).square().mean().sqrt())

    assert away(near, slice(0, 4)) < 0.5 * away(far, slice(0, 4))
    assert away(near, slice(4, 6)) > 0.5 * away(far, slice(4, 6))


# ---- measures -------------------------------------------------------------------------------


def curve(*returns, every=100.0):
    return Curve(np.arange(len(returns)) * every, np.array(returns, float))


def test_a_threshold_needs_two_evaluations_in_a_row_after_training_began():
    assert time_to(curve(0, 5, 9, 9, 1), 9) == 200
    assert time_to(curve(9, 9, 5, 9, 5, 9), 9) is None  # the untrained one does not count
    assert time_to(curve(9, 9, 9, 0), 9) == 100
    assert time_to(curve(0, 1, 2), 9) is None


def test_measures_by_hand():
    ours = [curve(10, 20, 20), curve(0, 10, 30)]
    theirs = [curve(0, 0, 10), curve(0, 20, 20)]
    assert area(ours[0], 200) == 17.5 and area(ours[0], 100) == 15
    assert asymptote(curve(*range(20))) == 18.5
    found = measure(ours, theirs, [1000, 1000], threshold=20)
    assert found["budget"] == 200
    assert found["jump_start"]["mean"] == 5
    assert found["transfer"]["times"] == [100, None] and found["scratch"]["times"] == [None, 100]
    assert found["transfer"]["time"]["mean"] == 150  # 100, and 200 where censored
    assert found["transfer"]["time_with_source"]["mean"] == 1150
    assert found["transfer"]["censored"] == 1
    assert found["at_most_half_the_time"] == 1
    areas = (17.5 + 12.5) / 2, (2.5 + 15) / 2
    assert found["transfer_ratio"] == pytest.approx((areas[0] - areas[1]) / areas[1])
    assert found["asymptote_gain"]["mean"] == 10
    low, high = found["jump_start"]["ci95"]
    assert low == 0 and high == 10
    assert measure(ours[:1], [], [0], None)["transfer"]["area"]["ci95"] is None


def test_who_gets_there_after_the_budget_is_censored():
    short, long = curve(0, 9, 9), curve(0, 0, 0, 9, 9)  # the budget is that of the shortest
    found = measure([long], [short], [0], threshold=9)
    assert found["budget"] == 200
    assert found["transfer"]["times"] == [None] and found["transfer"]["censored"] == 1
    assert found["transfer"]["time"]["mean"] == 200
    assert found["at_most_half_the_time"] == 0 and found["scratch"]["censored"] == 0
    assert measure([curve(0, 0, 0, 9, 9)], [curve(*[0] * 4)], [0], 9)["transfer"]["times"] == [300]


def test_the_last_stage_of_adaptation_is_what_counts():
    rows = [
        {"env_steps": s, "valid/episode_reward_mean": 0.0, "valid/episode_reward_mean_adapt_1": s}
        for s in (0, 5, 10)
    ]
    assert curve_of([*rows, {"env_steps": 11}]).returns.tolist() == [0, 5, 10]


# ---- the command ----------------------------------------------------------------------------

WORDS = ["--lanes", "4", "--rollout-steps", "16", "--minibatch-size", "32", "--eval-tasks", "1"]


def test_a_transfer_is_two_groups_of_ordinary_runs_that_outlive_the_source(home, tmp_path, capsys):
    import shutil

    source = tmp_path / "source"
    shutil.copytree(home, source)
    words = ["transfer", str(source), "--env", "CartPole-v1", "--env-half-length", "2", *WORDS]
    words += ["--seeds", "2", "--iterations", "4", "--out", str(tmp_path / "o")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == str(tmp_path / "o") and "before training" in out
    result = json.loads((tmp_path / "o" / "transfer.json").read_text())
    assert result["seeds"] == 2 and result["threshold"] == 475.0 and result["forgetting"]
    for side in ("transfer", "scratch"):
        for seed in (0, 1):
            folder = tmp_path / "o" / side / f"seed-{seed}"
            rows = read_rows(folder / "metrics.jsonl")
            assert [r["iteration"] for r in rows] == [-1, 0, 1, 2, 3]
            assert rows[0]["env_steps"] == 0
            best = max(r["valid/episode_reward_mean"] for r in rows)
            kept = checkpoint.load(folder / "checkpoint" / "best.safetensors")
            assert kept["best"] <= best
    page = tmp_path / "page.html"
    sides = [str(tmp_path / "o" / side) for side in ("transfer", "scratch")]
    assert main(["report", *sides, "--out", str(page)]) == 0
    text = page.read_text()
    assert "What the source brought" in text and "ppo from a source" in text
    begun = read_rows(tmp_path / "o" / "transfer" / "seed-0" / "metrics.jsonl")
    shutil.rmtree(source)
    folder = tmp_path / "o" / "transfer" / "seed-0"
    run(folder, 6, quiet=True)
    rows = read_rows(folder / "metrics.jsonl")
    assert len(rows) == 7 and rows[:5] == begun
    _, env, algorithm, _ = load_algorithm(folder)
    env.close()
    assert algorithm.env_steps == 6 * 2 * 64


def test_resuming_is_to_the_bit_and_the_same_command_goes_on(home, tmp_path):
    ways = {"seeds": 2, "quiet": True, **SMALL}
    whole = transfer(home, "CartPole-v1", out=tmp_path / "w", iterations=4, **ways)
    transfer(home, "CartPole-v1", out=tmp_path / "p", iterations=4, **ways)
    for side in ("transfer", "scratch"):
        folder = tmp_path / "p" / side / "seed-1"
        for name in ("metrics.jsonl", "checkpoint"):
            path = folder / name
            path.unlink() if path.is_file() else __import__("shutil").rmtree(path)
    again = transfer(home, "CartPole-v1", out=tmp_path / "p", iterations=4, **ways)
    for side in ("transfer", "scratch"):
        assert again[side]["area"]["mean"] == pytest.approx(whole[side]["area"]["mean"], rel=0.02)
    with pytest.raises(UserError, match="other settings or another source"):
        transfer(home, "CartPole-v1", out=tmp_path / "p", iterations=4, lr=0.5, **ways)


def test_extra_inputs_and_actions_change_nothing_at_first(home, tmp_path):
    base = transfer(home, "CartPole-v1", out=tmp_path / "a", iterations=1, quiet=True, **SMALL)
    for name, options in (("b", {"env_extra_inputs": 2}), ("c", {"env_extra_actions": 1})):
        found = transfer(
            home, "CartPole-v1", out=tmp_path / name, iterations=1, quiet=True, scratch=False,
            **SMALL, **options,
        )  # fmt: skip
        if name == "c":
            assert found["transfer"]["start"] == base["transfer"]["start"]
        assert found["transfer"]["start"]["mean"] > 8


def test_a_worse_source_is_no_teacher(home, tmp_path, capsys):
    words = ["transfer", str(home), "--env", "CartPole-v1", "--env-force", "-10", *WORDS]
    words += ["--iterations", "1", "--out", str(tmp_path / "o"), "--no-scratch"]
    source = read_sources(str(home), "best")[0]
    assert source["env_steps"] > 0
    assert main(words) == 0
    said = capsys.readouterr().err
    result = json.loads((tmp_path / "o" / "transfer.json").read_text())
    assert ("no teacher" in said) == (result["teachers"] == 0)
    assert "before training the source scores" in said and "scratch" not in result


def test_a_dry_run_prints_the_plan_and_writes_nothing(home, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["transfer", str(home), "--env", "CartPole-v1", "--env-extra-inputs", "2"]
    assert main([*words, "--freeze", "actor.0", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "actor.0" in out and "resized, frozen" in out and "2 new inputs" in out
    assert list(tmp_path.iterdir()) == []


class TwoLayers(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))


def test_files_and_modules_are_sources(tmp_path, monkeypatch):
    torch.manual_seed(0)
    module = TwoLayers()
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_file(dict(module.state_dict()), path)
    x = torch.randn(5, 4, generator=seeded(2))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "made_here.py").write_text(
        "import torch\nfrom torch import nn\n\ndef net():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), "
        "nn.Linear(8, 2))\n\ndef wrong():\n    return 3\n"
    )
    for source in (from_file(path), from_callable("made_here:net")):
        torch.testing.assert_close(logits(source["nets"]["actor"], x), module(x).detach())
    assert from_callable("made_here:net")["activation"] == "tanh"
    found = transfer(
        str(path), "CartPole-v1", "ppo", out=tmp_path / "o", iterations=1, quiet=True, **SMALL
    )
    assert found["forgetting"] is None and found["source_env_steps"] == [0]
    with pytest.raises(UserError, match="returned a int"):
        from_callable("made_here:wrong")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--freeze", "actor.9"], "--freeze actor.9 matches no layer"),
        (["--reinit", "actors.*"], "--reinit actors.* matches no layer"),
        (["--reinit", "*"], "nothing of the source is taken"),
        (["--hidden", "4", "4"], "actor.0 has 8 units in the source and 4 in the target"),
        (["--hidden", "4", "8", "--reinit", "*.0"], "actor.1 has 8 inputs in the source and 4"),
        (["--features-from", "2"], "--features-from is 2; expected layers on top of it"),
        (["--activation", "relu"], "use --activation tanh"),
        (["--map-obs", "9=0"], "there is no '9'"),
        (["--map-obs", "0-1=0"], "2 columns in the target, 1 in the source"),
        (["--env", "Pendulum-v1"], "use --reinit actor.2"),
        (["--env", "Pendulum-v1", "--kickstart", "1"], "so it cannot teach"),
        (["--env-extra-actions", "1", "--kickstart", "1"], "so it cannot teach"),
        (["--env", "hidden-gain", "--algo", "mb-mpc"], "nothing of the source is taken"),
        (["--env", "bandit", "--algo", "rl2"], "nothing of the source is taken"),
        (["--algo", "maml", "--freeze", "actor.0", "--env", "CartPole-v1"], "--freeze: only plain"),
        (["--unfreeze-at", "5"], "nothing is frozen"),
        (["--head-temperature", "0"], "--head-temperature is 0"),
        (["--only-layers", "0", "--features-from", "1"], "expected one"),
        (["--seeds", "0"], "--seeds is 0"),
        (["--threshold", "nan"], "--threshold is nan"),
        (["--stop-at", "400"], "--stop-at is 400.0"),
        (["--checkpoint", "beast"], "--checkpoint is 'beast'"),
        (["--frieze", "actor.0"], "did you mean --freeze"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(words, said, home, tmp_path, capsys):
    first = [] if "--env" in words else ["--env", "CartPole-v1"]
    words = ["transfer", str(home), *first, *words, "--out", str(tmp_path / "o")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("precocial: ") and error.count("\n") == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "damaged"), (b"no tensors here", "damaged"), (None, "there is no such")],
)
def test_damaged_sources_are_one_line(content, said, tmp_path, capsys):
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)
    assert main(["transfer", str(path), "--env", "CartPole-v1", "--algo", "ppo"]) == 2
    assert said in capsys.readouterr().err
    assert main(["transfer", str(tmp_path / "none"), "--env", "CartPole-v1"]) == 2
    assert main(["transfer", "no.module:thing", "--env", "CartPole-v1"]) == 2


def test_every_source_must_fit_before_anything_is_written(home, tmp_path, capsys):
    import shutil

    shutil.copytree(home, tmp_path / "sources" / "seed-0")
    precocial.train(
        "ppo", "CartPole-v1", iterations=1, out=tmp_path / "sources" / "seed-1", quiet=True,
        hidden=(16, 16), **SMALL,
    )  # fmt: skip
    words = ["transfer", str(tmp_path / "sources"), "--env", "CartPole-v1", *WORDS, "--seeds", "2"]
    words += ["--kickstart", "0", "--iterations", "1", "--out", str(tmp_path / "o")]
    assert main(words) == 2
    assert "actor.0 has 16 units in the source and 8" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_forgetting_is_of_the_very_source(home, tmp_path):
    import shutil

    source = tmp_path / "source"
    shutil.copytree(home, source)
    last = TransferConfig(checkpoint="last")
    ways = {"iterations": 1, "quiet": True, "scratch": False, **SMALL}
    (source / "checkpoint" / "best.safetensors").unlink()
    found = transfer(source, "CartPole-v1", out=tmp_path / "o", ways=last, **ways)
    assert found["forgetting"] is not None
    shutil.copy(home / "checkpoint" / "best.safetensors", source / "checkpoint")
    (source / "checkpoint" / "last.safetensors").write_bytes(b"another by now")
    assert judge(tmp_path / "o", None)["forgetting"] is None


def test_a_dueling_source_starts_a_dueling_net(tmp_path):
    tiny = {
        "lanes": 2, "rounds": 2, "train_every": 3, "updates": 1, "learning_starts": 0,
        "iterations": 1, "eval_tasks": 1, "eval_every": 1, "quiet": True,
    }  # fmt: skip
    home = precocial.train("dqn", "CartPole-v1", out=tmp_path / "d", dueling=True, **tiny)
    transfer(home, "CartPole-v1", out=tmp_path / "o", scratch=False, **tiny)
    assert read_plan(tmp_path / "o" / "transfer" / "seed-0").algo_config.dueling


def test_every_kind_of_network_starts_its_own_kind(tmp_path):
    tiny = {"num_tasks": 2, "episodes_per_task": 2, "iterations": 1, "eval_every": 0, "quiet": True}
    maml = precocial.train("maml", "CartPole-v1", out=tmp_path / "m", env_horizon=20, **tiny)
    found = transfer(
        maml, "CartPole-v1", "ppo", out=tmp_path / "mp", iterations=1, quiet=True, **SMALL
    )  # a meta-learned initialisation starts plain fine-tuning
    assert found["algorithm"] == "ppo"
    again = transfer(
        maml, "cart-pole", "maml", out=tmp_path / "mm", env_horizon=20, scratch=False,
        **tiny | {"eval_every": 1, "eval_tasks": 2},
    )  # fmt: skip
    assert again["algorithm"] == "maml"
    trials = {"num_tasks": 8, "iterations": 1, "eval_every": 1, "eval_tasks": 2, "quiet": True}
    rl2 = precocial.train("rl2", "bandit", out=tmp_path / "r", minibatches=1, **trials)
    memory = transfer(rl2, "bandit", out=tmp_path / "rr", minibatches=1, **trials)
    before = read_sources(str(rl2), "best")[0]["nets"]["memory"]
    assert memory["algorithm"] == "rl2" and "weight" in " ".join(before)
    with pytest.raises(UserError, match="only layers of a perceptron can be resized"):
        transfer(rl2, "bandit", out=tmp_path / "x", minibatches=1, memory_size=32, **trials)


def layers(**tensors):
    return {k.replace("__", "."): torch.full(v, 0.1) for k, v in tensors.items()}


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (layers(weight_1=(4, 8), bias_1=(8,)), "actor has layers 1; expected 0, 1, ..."),
        (layers(weight_0=(4, 8)), "actor.0 has no bias"),
        (layers(weight_0=(4, 8), bias_0=(7,)), "actor.0 has a bias of sizes (7,)"),
        (layers(weight_0=(4,), bias_0=(8,)), "actor.0 has weights of sizes (4,)"),
        (
            layers(weight_0=(4, 8), bias_0=(8,), weight_1=(9, 2), bias_1=(2,)),
            "actor.1 reads 9 numbers, the layer below it gives 8",
        ),
        (layers(_0__weight=(8, 4), _0__bias=(7,)), "actor.0 has a bias of sizes (7,)"),
        (
            layers(actor__weight_0=(4, 2), actor__bias_0=(2,), critic__weight_0=(3, 1),
                   critic__bias_0=(1,)),
            "critic.0 reads 3 numbers, actor.0 4",
        ),
        (layers(weight_0=(4, 2), bias_0=(2,), log_std=(1, 2)), "log_std has sizes (1, 2)"),
        ({"0.weight": torch.full((2, 4), torch.nan)}, "numbers that are not finite"),
        ({"0.weight": torch.zeros(0, 4)}, "actor.0 has weights of sizes (4, 0)"),
    ],
)  # fmt: skip
def test_layers_that_do_not_fit_together_are_one_line(tensors, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({k.lstrip("_"): v for k, v in tensors.items()}, path)
    assert main(["transfer", str(path), "--env", "CartPole-v1", "--algo", "ppo"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["json:loads", ":", "broken_here:net", "json:"])
def test_a_callable_that_fails_is_one_line(text, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_here.py").write_text("def net(:\n")
    assert main(["transfer", text, "--env", "CartPole-v1", "--algo", "ppo"]) == 2
    error = capsys.readouterr().err
    assert f"source {text}: " in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("algo", "ways", "said"),
    [
        ("dqn", {"kickstart": 1.0}, "--kickstart: this algorithm has no such way"),
        ("dqn", {"critic_warmup": 99}, "--critic-warmup: this algorithm has no such way"),
        ("sac", {"kickstart": 1.0}, "--kickstart: this algorithm has no such way"),
        ("q-learning", {"freeze": ("q.table",)}, "--freeze: this algorithm has no such way"),
        ("q-learning", {"l2_source": 1.0}, "--l2-source: this algorithm has no such way"),
    ],
)
def test_a_way_that_an_algorithm_does_not_have_is_refused(algo, ways, said):
    spec = (FrozenLakeV1() if algo == "q-learning" else CartPoleV1()).spec
    one, other = (agent(algo, spec, seed) for seed in (1, 2))
    with pytest.raises(UserError, match=said):
        begin(one, TransferConfig(**ways), source_of(other, spec))
    begin(one, TransferConfig(), source_of(other, spec))


def test_who_has_no_policy_cannot_teach_and_activations_of_values_count_too(home):
    spec = CartPoleV1().spec
    source = read_sources(str(home), "best")[0]
    del source["nets"]["actor"]
    new = precocial.algos.build(PPOConfig(hidden=(8, 8)), spec, seeded())
    with pytest.raises(UserError, match="--kickstart: the source has no policy"):
        begin(new, TransferConfig(kickstart=1.0), source)
    old, new = agent("dqn", spec, 1), agent("dqn", spec, 2, activation="tanh")
    with pytest.raises(UserError, match="use --activation relu"):
        begin(new, TransferConfig(), source_of(old, spec))


def test_a_pattern_names_a_new_head_for_other_actions(home):
    new = precocial.algos.build(PPOConfig(hidden=(8, 8)), PendulumV1().spec, seeded())
    source = read_sources(str(home), "best")[0]
    rows = begin(new, TransferConfig(reinit=("*.2",), map_obs=("0-2=0-2",)), source)
    assert {row.layer for row in rows if row.fate == "new"} >= {"actor.2", "critic.2"}


@pytest.mark.parametrize(
    ("algo", "env", "flag", "value"),
    [
        ("dqn", "CartPole-v1", "--kickstart", "1"),
        ("dqn", "CartPole-v1", "--critic-warmup", "9"),
        ("sac", "Pendulum-v1", "--kickstart", "1"),
        ("q-learning", "FrozenLake-v1", "--freeze", "q.table"),
    ],
)
def test_a_way_that_a_method_does_not_know_is_refused(algo, env, flag, value, tmp_path, capsys):
    quick = {"eval_every": 0, "iterations": 1, "quiet": True}
    source = precocial.train(algo, env, out=tmp_path / "s", **quick)
    words = ["transfer", str(source), "--env", env, flag, value, "--out", str(tmp_path / "o")]
    assert main(words) == 2
    assert f"{flag}: " in capsys.readouterr().err and not (tmp_path / "o").exists()


@pytest.mark.parametrize(("algo", "env"), [("dqn", "CartPole-v1"), ("sac", "Pendulum-v1")])
def test_off_policy_runs_begin_from_all_their_networks_and_freeze(algo, env, tmp_path):
    small = {
        "lanes": 2, "rounds": 4, "train_every": 3, "updates": 2, "batch_size": 8, "hidden": (8,),
        "learning_starts": 6, "eval_every": 1, "eval_tasks": 1, "iterations": 2, "quiet": True,
    }  # fmt: skip
    source = precocial.train(algo, env, out=tmp_path / "s", **small)
    found = transfer(
        source, env, out=tmp_path / "o", ways=TransferConfig(freeze=("*.0",), checkpoint="last"),
        **small,
    )  # fmt: skip
    assert found["algorithm"] == algo
    before, after = (
        checkpoint.load(f / "checkpoint" / "last.safetensors")["algorithm"]["nets"]
        for f in (source, tmp_path / "o" / "transfer" / "seed-0")
    )
    for net in before:
        for k, p in before[net].items():
            if net != "temperature":
                assert torch.equal(p, after[net][k]) == k.endswith("_0"), (net, k)


def test_a_table_starts_a_table(tmp_path):
    quick = {"eval_every": 1, "iterations": 2, "quiet": True}
    source = precocial.train("q-learning", "FrozenLake-v1", out=tmp_path / "s", **quick)
    found = transfer(source, "FrozenLake-v1", out=tmp_path / "o", **quick)
    assert found["transfer"]["start"]["mean"] >= 0 and found["forgetting"]
