"""Families whose robot or ground changes: the physics, the tasks and the moment of change."""

from dataclasses import replace

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

from precocial.envs import ENVS
from precocial.envs.base import split_of
from precocial.envs.mujoco.arm_7dof import FINGERTIP, HAND, Arm7Dof
from precocial.envs.mujoco.half_cheetah_disabled import HalfCheetahDisabled
from precocial.envs.mujoco.half_cheetah_pier import HalfCheetahPier
from precocial.envs.mujoco.half_cheetah_slope import COLUMNS, REACH, HalfCheetahSlope, profile
from precocial.envs.mujoco.state import FULL, quiet
from precocial.flags import flat, parse
from precocial.types import UserError

PEERS = {
    "half-cheetah-disabled": "HalfCheetah-v5", "half-cheetah-slope": "HalfCheetah-v5",
    "half-cheetah-pier": "HalfCheetah-v5", "ant-crippled": "Ant-v5", "arm-7dof": "Pusher-v5",
}  # fmt: skip
every_family = pytest.mark.parametrize("name", PEERS)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def build(name, **options):
    return ENVS[name].cls(ENVS[name].config(threads=1, **options))


def started(env, n=3, lanes=2, seed=0, split="train"):
    tasks = env.sample_tasks(n, split, rng(seed))
    return tasks, env.reset(tasks, lanes, rng(seed + 1))


def actions(env, n=3, lanes=2, seed=0):
    """Raw policy samples, some beyond the bounds."""
    return 0.7 * torch.randn(n, lanes, env.spec.action_dim, generator=rng(seed))


# ---- the intact robot ----


@every_family
def test_a_step_of_the_intact_robot_equals_gymnasium(name):
    env = build(name, switch_at=100, horizon=101)
    with quiet():
        peer = gymnasium.make(PEERS[name]).unwrapped
    peer.reset(seed=0)
    nq, nv = peer.model.nq, peer.model.nv
    started(env)
    for t in range(30):
        before, act = env._physics(env.state), actions(env, seed=t)
        mujoco.mj_resetData(peer.model, peer.data)
        peer.set_state(before.qpos[1, 0, :nq].copy(), before.qvel[1, 0, :nv].copy())
        env.step(act)
        clipped = act[1, 0].clamp(-1, 1).double().numpy()
        peer.do_simulation(peer.action_space.high * clipped, peer.frame_skip)
        after = env._physics(env.state)
        np.testing.assert_allclose(after.qpos[1, 0, :nq], peer.data.qpos, rtol=0, atol=1e-9)
        np.testing.assert_allclose(after.qvel[1, 0, :nv], peer.data.qvel, rtol=0, atol=1e-9)
    assert np.abs(after.qpos[1, 0, nq:]).max(initial=0) == 0  # blocks lie still
    peer.close()
    env.close()


# ---- rewards and endings ----


@every_family
@pytest.mark.parametrize("double", [False, True])
def test_rewards_and_endings_are_functions_of_what_is_seen(name, double):
    if double:
        torch.set_default_dtype(torch.float64)
    try:
        env = build(name, horizon=20, action_scale=2.0)
        assert env.spec.action_scale == 2.0
        assert env.spec.reward_fn is not None
        _, obs = started(env)
        for t in range(25):
            act = actions(env, seed=t).to(obs.dtype)
            step = env.step(act)
            seen = env.spec.reward_fn(obs, (act / 2).clamp(-1, 1), step.next_obs)
            torch.testing.assert_close(step.reward, seen, rtol=1e-6, atol=1e-6)
            if env.spec.terminal_fn is None:
                assert not step.terminated.any()
            else:
                assert torch.equal(step.terminated, env.spec.terminal_fn(step.next_obs))
            obs = step.obs
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_a_runner_sees_and_earns():
    env = build("half-cheetah-disabled", horizon=2)
    _, obs = started(env)
    assert (obs[..., 17] == 0).all()  # nobody has run yet
    for _ in range(2):
        step = env.step(torch.full((3, 2, 6), 5.0))
    assert step.truncated.all()
    assert (step.obs[..., 17] == 0).all()  # the next episode
    torch.testing.assert_close(step.reward, step.next_obs[..., 17] - 0.3)
    torch.testing.assert_close(step.info["forward_velocity"], step.next_obs[..., 17])


def test_velocity_is_the_distance_run_in_a_step():
    env = build("half-cheetah-disabled")
    started(env)
    x = env._physics(env.state).qpos[..., 0]
    step = env.step(actions(env))
    run = (env._physics(env.state).qpos[..., 0] - x) / 0.05
    np.testing.assert_allclose(step.next_obs[..., 17], run, rtol=1e-6)


def test_an_ant_that_falls_or_flies_is_done():
    env = build("ant-crippled")
    started(env)
    nq = env.model.nq
    env.state[3, 3], env.state[3, 1 + nq :] = 2.0, 0.0  # torso height, m; velocities
    step = env.step(torch.zeros(3, 2, 8))
    assert step.terminated.tolist() == [[False, False], [False, True], [False, False]]
    assert not step.truncated.any()
    assert ((step.obs[..., 0] > 0.6) & (step.obs[..., 0] < 0.9)).all()  # stands again
    nothing = torch.full((28,), 0.5)
    assert not env.spec.terminal_fn(nothing)
    for height in (0.19, 1.01):
        assert env.spec.terminal_fn(torch.full((28,), height))
    nothing[9] = float("nan")
    assert env.spec.terminal_fn(nothing)


def test_an_ant_may_go_on_after_a_fall():
    env = build("ant-crippled", terminate_when_unhealthy=False, horizon=2)
    started(env)
    nq = env.model.nq
    env.state[3, 3], env.state[3, 1 + nq :] = 2.0, 0.0
    step = env.step(torch.zeros(3, 2, 8))
    assert env.spec.terminal_fn is None
    assert not (step.terminated | step.truncated).any() and step.obs[1, 1, 0] > 1.5
    step = env.step(torch.zeros(3, 2, 8))
    assert step.truncated.all() and not step.terminated.any()


def test_the_fingertip_is_where_mujoco_has_it():
    env = build("arm-7dof", horizon=5)
    _, obs = started(env)
    targets = obs[..., 17:]
    for t in range(4):
        step = env.step(actions(env, seed=t))
        assert torch.equal(step.next_obs[..., 17:], targets)  # commands stay
    data = mujoco.MjData(env.model)
    mujoco.mj_setState(env.model, data, env.state[3], FULL)
    mujoco.mj_kinematics(env.model, data)
    hand = env.model.body(HAND).id
    tip = data.xpos[hand] + data.xmat[hand].reshape(3, 3) @ np.array(FINGERTIP)
    np.testing.assert_allclose(step.next_obs[1, 1, 14:17], tip, atol=1e-6)
    step = env.step(torch.zeros(3, 2, 7))
    assert torch.equal(step.next_obs[..., 17:], targets)
    assert (step.obs[..., 17:] != targets).all()  # a new episode, a new target
    assert env.spec.command_dim == 3


def test_targets_are_within_reach():
    env = build("arm-7dof")
    _, obs = started(env, 10, 100)
    x, y, z = obs[..., 17:].unbind(-1)
    out = (x**2 + (y + 0.6) ** 2).sqrt() - 0.1
    distance = (out**2 + z**2).sqrt()
    assert 0.45 <= distance.min() < 0.46
    assert 0.69 < distance.max() <= 0.7001
    assert z.min() > -0.325  # the table


# ---- the perturbations ----


def test_a_dead_joint_has_no_torque():
    env = HalfCheetahDisabled()
    tasks = env.sample_tasks(1, "test", rng(0))
    assert tasks.params["alive"].tolist() == [[0, 1, 1, 1, 1, 1]]
    assert tasks.id.tolist() == [0]
    env.reset(tasks, 3, rng(1))
    env.state[:] = env.state[0]
    act = torch.zeros(1, 3, 6)
    act[0, 1, 0] = 1.0  # the dead joint
    act[0, 2, 1] = 1.0  # one that obeys
    step = env.step(act)
    assert torch.equal(step.next_obs[0, 0], step.next_obs[0, 1])
    assert (step.next_obs[0, 0] - step.next_obs[0, 2]).abs().max() > 1
    assert step.reward[0, 1].item() == pytest.approx(step.reward[0, 0].item() - 0.05)  # yet costs


def test_a_crippled_leg_is_short_and_does_not_obey():
    env = build("ant-crippled")
    tasks = env.sample_tasks(1, "test", rng(0))
    env.reset(tasks, 2, rng(1))
    env.state[:] = env.state[0]
    act = torch.zeros(1, 2, 8)
    act[0, 1, :2] = 1.0  # hip and ankle 4
    step = env.step(act)
    assert torch.equal(step.next_obs[0, 0], step.next_obs[0, 1])
    lame = env.models[0]
    assert lame.geom("fourth_ankle_geom").size[1] == env.model.geom("fourth_ankle_geom").size[1] / 2
    data = mujoco.MjData(lame)
    mujoco.mj_forward(lame, data)
    knee = data.xpos[lame.geom("fourth_ankle_geom").bodyid[0]]
    ankle = data.geom("fourth_ankle_geom")
    half = ankle.xmat.reshape(3, 3)[:, 2] * lame.geom("fourth_ankle_geom").size[1]
    ends = np.linalg.norm([ankle.xpos - half - knee, ankle.xpos + half - knee], axis=1)
    assert ends.min() == pytest.approx(0)  # still hangs on its joint


def test_a_load_pulls_the_hand_down_and_nothing_else():
    env = Arm7Dof()
    tasks = env.sample_tasks(3, "shifted", rng(0))
    params = {k: v.clone() for k, v in tasks.params.items()}
    params["pull"] = torch.tensor([0.0, 1.0, 2.0])
    params["mass"] = torch.ones(3)
    env.reset(tasks._replace(params=params), 1, rng(1))
    env.state[:] = env.state[0]
    hand = env.model.body(HAND).id
    for model, pull in zip(env.models, (0, 1, 2), strict=True):
        data = mujoco.MjData(model)
        mujoco.mj_setState(model, data, env.state[0], FULL)
        mujoco.mj_forward(model, data)
        jacobian = np.zeros((3, model.nv))
        mujoco.mj_jac(model, data, jacobian, None, data.xipos[hand], hand)
        torque = data.qfrc_gravcomp - data.qfrc_bias  # the arm hardly moves: gravity alone
        np.testing.assert_allclose(torque[:7], -pull * jacobian[2, :7], atol=1e-3)
    height = env.step(torch.zeros(3, 1, 7)).next_obs[:, 0, 16]
    assert height[0] > height[1] > height[2]


def test_slopes_are_what_the_task_says():
    env = HalfCheetahSlope()
    tasks, _ = started(env, 50, 1)
    for i in range(50):
        task = env._task(i)
        heights = profile(task)
        assert np.ptp(heights) == pytest.approx(task["height"], rel=1e-9)
        assert (heights[:255] == 0).all()
        rise = np.diff(heights[[254, *(264 + 10 * np.arange(6))]])
        np.testing.assert_allclose(rise / rise[0], task["slopes"] / task["slopes"][0], rtol=1e-6)
        field = env.models[i].hfield_data[:COLUMNS] * 4.0 + env.models[i].body("field").pos[2]
        np.testing.assert_allclose(field, heights, atol=1e-6)
    slopes = tasks.params["slopes"]
    assert (slopes[:, :2] > 0).all()
    assert 0.3 < (slopes[:, 2:] > 0).float().mean() < 0.7
    steep = env.sample_tasks(1, "shifted", rng(0)).params
    grade = np.diff(profile({k: v[0].double().numpy() for k, v in steep.items()})).max() / (
        2 * REACH / (COLUMNS - 1)
    )
    assert 0.2 < grade < 0.4  # less than the friction of the feet


@pytest.mark.parametrize("cls", [HalfCheetahSlope, HalfCheetahPier])
def test_the_other_ground_carries_the_robot(cls):
    env = cls()
    started(env)
    for x in (0.0, 30.0, 80.0, -80.0):
        env.state[:, 1:] = env.rest[1:]
        env.state[:, 1] = x
        heights = np.array([profile(env._task(i))[-1] for i in range(3) if cls is HalfCheetahSlope])
        env.state[:, 2] += np.repeat(heights, 2) if x > 20 and len(heights) else 0.0
        before = env._physics(env.state).qpos[..., 1].copy()
        for _ in range(30):
            env.step(torch.zeros(3, 2, 6))
        sunk = before - env._physics(env.state).qpos[..., 1]
        assert (sunk > 0.0).all()
        assert (sunk < 0.4).all()
    assert env.diverged == 0


def test_blocks_sink_below_the_robot_and_damping_slows_them():
    env = HalfCheetahPier()
    tasks = env.sample_tasks(2, "train", rng(0))
    damping = torch.stack([torch.zeros(8), torch.full((8,), 10.0)])
    env.reset(tasks._replace(params={"damping": damping}), 1, rng(1))
    env.state[:] = env.state[0]
    for _ in range(4):
        env.step(torch.zeros(2, 1, 6))
    block = env._physics(env.state).qpos[:, 0, 10]
    assert block[0] < block[1] < 0
    np.testing.assert_allclose(env.model.body_mass[1:8].sum(), 14.0)
    np.testing.assert_allclose(env.model.body_mass[8:], 10.0)


# ---- tasks ----


@every_family
def test_splits_are_disjoint(name):
    env = build(name)
    drawn = {}
    for split in ("train", "valid", "test", "shifted"):
        params = env.sample_tasks(300, split, rng(0)).params
        flat_rows = torch.cat([v.reshape(300, -1) for v in params.values()], 1)
        drawn[split] = {tuple(row) for row in flat_rows.tolist()}
    splits = list(drawn)
    for i, one in enumerate(splits):
        for other in splits[i + 1 :]:
            assert not drawn[one] & drawn[other]
    assert env.spec.num_tasks is None


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("half-cheetah-disabled", ({1, 2, 4, 5}, {3}, {0}, {6})),
        ("ant-crippled", ({0, 1}, {2}, {3}, {4})),
        ("half-cheetah-slope", (set(range(60)), set(range(60)), {0, 1, 2}, {3})),
    ],
)
def test_ids_name_the_tasks(name, ids):
    env = build(name)
    for split, expected in zip(("train", "valid", "test", "shifted"), ids, strict=True):
        assert set(env.sample_tasks(60, split, rng(0)).id.tolist()) == expected


def test_continuous_splits_by_construction():
    slope, pier, arm = (build(n) for n in ("half-cheetah-slope", "half-cheetah-pier", "arm-7dof"))
    for split, residues in (("train", set(range(8))), ("valid", {8})):
        height = slope.sample_tasks(500, split, rng(0)).params["height"]
        assert set(split_of(height, 0.2, 1.0).tolist()) == residues
        damping = pier.sample_tasks(500, split, rng(0)).params["damping"]
        assert set(split_of(damping[:, 1], 0, 10).tolist()) == residues
        assert damping.min() >= 0
        assert damping.max() <= 10
        load = arm.sample_tasks(900, split, rng(0)).params
        loaded = load["pull"] > 0
        assert set(split_of(load["pull"][loaded], 0.1, 2.0).tolist()) == residues
        kinds = torch.stack([loaded, (load["damping"] != 1).any(1), (load["alive"] == 0).any(1)])
        assert (kinds.sum(0) == 1).all()
        assert (kinds.sum(1) > 200).all()
    assert pier.sample_tasks(50, "shifted", rng(0)).params["damping"].min() >= 10
    assert arm.sample_tasks(50, "shifted", rng(0)).params["pull"].min() >= 2


@every_family
def test_the_first_observation_hides_the_task(name):
    env = build(name)
    first = [
        env.reset(env.sample_tasks(3, split, rng(5)), 4, rng(1)) for split in ("train", "shifted")
    ]
    assert torch.equal(*first)
    assert first[0].shape == (3, 4, env.spec.obs_dim)


@every_family
def test_permuted_tasks_give_permuted_results(name):
    env = build(name)
    tasks, _ = started(env)
    order = torch.tensor([2, 0, 1])
    start = env.state.reshape(3, 2, -1).copy()
    act = actions(env)
    plain = env.step(act)
    env.reset(tasks._replace(params={k: v[order] for k, v in tasks.params.items()}), 2, rng(1))
    env.state[:] = start[order].reshape(6, -1)
    permuted = env.step(act[order])
    assert torch.equal(permuted.next_obs[..., :14], plain.next_obs[order][..., :14])


# ---- the moment of change ----


@every_family
def test_a_perturbation_comes_at_its_step_and_the_state_goes_on(name):
    never, late, later = (
        build(name, horizon=40, exact=True, switch_at=at) for at in ("never", 6, 7)
    )
    for env in (never, late, later):
        started(env, split="shifted")
    assert "switched" not in never.step(actions(never)).info
    for t in range(12):
        act = actions(late, seed=t)
        before = late.state.copy()
        a, b = late.step(act), later.step(act)
        same = torch.equal(a.next_obs, b.next_obs)
        if t < 6:
            assert same  # up to and including the state in which it comes
            assert (a.info["switched"] == 0).all()
            assert all(m is late.model for m in late.models)
            assert late.lane_caption(0, 0) == late.intact
        else:
            assert (a.info["switched"] == 1).all()
            assert all(m is not late.model for m in late.models)
            assert late.lane_caption(0, 0) != late.intact
        if t == 6:
            assert not np.array_equal(late.state, before)
            if name != "half-cheetah-slope":  # whose first ramp is still ahead
                assert not same
            assert (b.info["switched"] == 0).all()


@every_family
def test_neither_kind_of_change_touches_the_state(name):
    env = build(name, horizon=40, switch_at=3)
    tasks, _ = started(env)
    for t in range(3):
        env.step(actions(env, seed=t))
    before = env.state.copy()
    for i in range(6):
        env.models[i] = env._present_model(i)
    assert np.array_equal(env.state, before)
    assert np.array_equal(env.time, np.full((3, 2), 3))
    env.step(actions(env, seed=9))
    before = env.state.copy()
    env.switch(env.sample_tasks(3, "shifted", rng(7)))
    assert np.array_equal(env.state, before)
    assert env.step(actions(env, seed=10)).next_obs.isfinite().all()
    assert env.diverged == 0
    with pytest.raises(ValueError, match="1 tasks for 3 rows"):
        env.switch(tasks.select(slice(0, 1)))


def test_switch_before_the_moment_leaves_the_robot_intact():
    env = build("half-cheetah-disabled", switch_at=5, horizon=10)
    started(env)
    env.step(actions(env))
    env.switch(env.sample_tasks(3, "test", rng(3)))
    assert all(m is env.model for m in env.models)
    for t in range(5):
        env.step(actions(env, seed=t))
    assert {m.actuator_gear[0, 0] for m in env.models} == {0.0}
    for t in range(4):
        env.step(actions(env, seed=t))
    assert all(m is env.model for m in env.models)  # the next episode


def test_a_dead_joint_of_the_new_episode_waits_again():
    env = build("half-cheetah-disabled", switch_at=3, horizon=5)
    started(env)
    seen = [env.step(actions(env, seed=t)).info["switched"][0, 0].item() for t in range(10)]
    assert seen == [0, 0, 0, 1, 1] * 2


def test_random_steps_are_reproducible_and_in_the_middle_half():
    def steps(seed, horizon=20):
        env = build("half-cheetah-disabled", switch_at="random", horizon=horizon)
        started(env, 4, 25, seed)
        return env.switch_step.copy()

    assert np.array_equal(steps(0), steps(0))
    assert not np.array_equal(steps(0), steps(1))
    assert steps(0).min() >= 5
    assert steps(0).max() <= 15
    assert len(set(steps(0).tolist())) >= 9

    env = build("half-cheetah-disabled", switch_at="random", horizon=20)
    started(env)
    first = env.switch_step.copy()
    infos = torch.stack([env.step(actions(env, seed=t)).info["switched"] for t in range(20)], -1)
    assert infos.sum(-1).flatten().tolist() == (20 - first).tolist()
    assert not np.array_equal(env.switch_step, first)  # the next episode draws anew


def test_a_ground_that_comes_lies_ahead_and_below():
    env = build("half-cheetah-slope", switch_at=2, horizon=60)
    tasks, _ = started(env)
    env.state[:, 1] += np.linspace(-20, 20, 6)
    env.step(actions(env))
    env.step(actions(env))
    x = env.state[:, 1].copy()
    env.step(actions(env))
    np.testing.assert_allclose([m.body("field").pos[0] for m in env.models], x)
    # Another field, while the robot stands on a slope of the first: nowhere above it.
    env.state[:, 1] = x + 3
    env.switch(tasks._replace(params={k: v.flip(0) for k, v in tasks.params.items()}))
    for i, model in enumerate(env.models):
        known = profile(env._task(2 - i // 2))
        columns = np.linspace(-REACH, REACH, COLUMNS)
        around = np.linspace(1.9, 4.1, 50)
        assert model.body("field").pos[0] == pytest.approx(x[i] + 3)
        start = model.hfield_data[0] * 4.0 + model.body("field").pos[2]
        assert start <= np.interp(around, columns, known).min() + 1e-6


def test_a_pier_that_changes_stays_where_it_is():
    env = build("half-cheetah-pier", switch_at=2, horizon=60)
    tasks, _ = started(env)
    for t in range(5):
        env.step(actions(env, seed=t))
    before = [m.body_pos.copy() for m in env.models]
    env.switch(tasks._replace(params={k: v.flip(0) for k, v in tasks.params.items()}))
    for model, place in zip(env.models, before, strict=True):
        assert np.array_equal(model.body_pos, place)
    assert env.models[0].dof_damping[9] == pytest.approx(tasks.params["damping"][2, 0].item())


def test_few_models_are_built_for_many_lanes():
    env = build("half-cheetah-disabled")
    started(env, 40, 20)
    assert len({id(m) for m in env.models}) <= 4
    models = set(map(id, env.models))
    started(env, 40, 20, seed=1)
    assert set(map(id, env.models)) <= models
    slope = build("half-cheetah-slope")
    for seed in range(3):
        started(slope, 20, 2, seed)
        assert len({id(m) for m in slope.models}) == 20
    assert len(slope.built) <= 32


# ---- options and faults ----


@pytest.mark.parametrize("at", [0, -3, 500, 501])
def test_a_step_outside_the_episode_is_refused(at):
    with pytest.raises(UserError, match="expected never, random"):
        ENVS["half-cheetah-disabled"].config(switch_at=at)


def test_the_flag_takes_steps_and_words():
    cls = flat("Options", "Options.", [("env_", ENVS["half-cheetah-pier"].config())])
    for given, value in (("250", 250), ("random", "random"), ("never", "never")):
        assert parse(cls, ["--env-switch-at", given], "p").env_switch_at == value
    with pytest.raises(UserError, match="--env-switch-at is soon; expected never, random"):
        ENVS["half-cheetah-pier"].config(switch_at="soon")


@every_family
def test_a_diverged_lane_is_counted_and_restarted(name, capfd):
    env = build(name, switch_at=2, horizon=30)
    started(env)
    for t in range(3):
        env.step(actions(env, seed=t))
    act = actions(env, seed=3)
    act[1, 1, 0] = float("nan")
    last = env.obs.clone()
    step = env.step(act)
    assert step.truncated.nonzero().tolist() == [[1, 1]]
    assert env.diverged == 1
    assert step.reward[1, 1] == 0
    assert torch.equal(step.next_obs[1, 1], last[1, 1])
    assert step.obs.isfinite().all()
    assert env.models[3] is env.model  # mended
    assert env.models[2] is not env.model
    switched = env.step(actions(env, seed=4)).info["switched"]
    assert (switched == 0).nonzero().tolist() == [[1, 1]]
    assert capfd.readouterr() == ("", "")


# ---- pictures ----


@every_family
def test_pictures_show_what_changed(name, monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    env = build(name, switch_at=1, horizon=9)
    started(env)
    before = env.render(0, 0)
    assert before.shape in ((320, 480, 3), (320, 640, 3))
    env.step(actions(env))
    env.step(actions(env))
    after = env.render(0, 0)
    assert not np.array_equal(before[:40], after[:40])  # the caption
    assert not np.array_equal(before[60:], after[60:])
    env.close()


def test_every_option_reaches_the_family():
    config = ENVS["ant-crippled"].config()
    assert replace(config, horizon=7).horizon == 7
    assert build("ant-crippled", horizon=7).spec.horizon == 7
    assert build("arm-7dof").spec.horizon == 100
    assert build("half-cheetah-pier").spec.horizon == 500


@pytest.mark.parametrize("name", ["half-cheetah-disabled", "ant-crippled", "half-cheetah-slope"])
def test_a_split_has_as_many_tasks_as_it_says(name):
    env = build(name)
    for split in ("train", "valid", "test", "shifted"):
        found = len(env.sample_tasks(200, split, rng()).id.unique())
        assert found == (env.spec.tasks_of(split) or 200)
    env.close()
