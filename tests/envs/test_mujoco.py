"""Batched physics against Gymnasium's own, and the half-cheetah families."""

import copy
import os
from dataclasses import replace

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

from precocial.envs.base import split_of
from precocial.envs.mujoco.half_cheetah import (
    HalfCheetahDir,
    HalfCheetahDirConfig,
    HalfCheetahVel,
    HalfCheetahVelConfig,
)
from precocial.envs.mujoco.state import FULL, quiet
from precocial.types import UserError


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def started(env, n=2, lanes=3, seed=0, split="train"):
    tasks = env.sample_tasks(n, split, rng(seed))
    return tasks, env.reset(tasks, lanes, rng(seed + 1))


def actions(n, lanes, seed=0):
    """Raw policy samples, some beyond the bounds."""
    return 0.7 * torch.randn(n, lanes, 6, generator=rng(seed))


@pytest.fixture
def peer():
    """Gymnasium's own HalfCheetah, made to start from a lane's state."""
    with quiet():
        env = gymnasium.make("HalfCheetah-v5").unwrapped
    env.reset(seed=0)

    def start_from(ours, task, lane):
        physics = ours._physics(ours.state)
        mujoco.mj_resetData(env.model, env.data)
        env.set_state(physics.qpos[task, lane], physics.qvel[task, lane])
        return env

    yield start_from
    env.close()


class Gravity(HalfCheetahVel):
    """Each task has a gravity of its own, in m/s^2."""

    def draw_tasks(self, n, split, rng):
        return {"velocity": torch.ones(n), "gravity": torch.linspace(-4.0, -20.0, n)}

    def task_model(self, task):
        model = copy.copy(self.model)
        model.opt.gravity[2] = task["gravity"]
        return model


# ---- against Gymnasium ----


@pytest.mark.parametrize("exact", [False, True])
def test_one_step_equals_gymnasium(peer, exact):
    env = HalfCheetahDir(HalfCheetahDirConfig(exact=exact))
    tasks, _ = started(env, 3, 4)
    for seed in range(3):  # robots already in motion
        env.step(actions(3, 4, seed))
    if exact:  # the peer starts without a warm start
        env.simulator.place(env.models, env.state, np.arange(12))
    theirs, act = peer(env, 1, 2), actions(3, 4, 9)
    step = env.step(act)
    clipped = act[1, 2].clamp(-1, 1).double().numpy()
    obs, _, _, _, info = theirs.step(clipped)
    physics = env._physics(env.state)
    np.testing.assert_allclose(physics.qpos[1, 2], theirs.data.qpos, rtol=0, atol=1e-9)
    np.testing.assert_allclose(physics.qvel[1, 2], theirs.data.qvel, rtol=0, atol=1e-9)
    torch.testing.assert_close(step.next_obs[1, 2], torch.tensor(obs).float())
    direction = tasks.params["direction"][1].item()
    reward = direction * info["x_velocity"] - 0.05 * np.square(clipped).sum()
    assert step.reward[1, 2].item() == pytest.approx(reward, abs=1e-6)
    env.close()


def test_whole_episode_of_the_exact_stepper_equals_gymnasium_to_the_bit(peer):
    env = HalfCheetahVel(HalfCheetahVelConfig(exact=True, horizon=101))
    for episode in range(2):  # the second follows a restart, the first's warm start forgotten
        if episode == 0:
            started(env, 2, 2)
        theirs = peer(env, 1, 0)
        for t in range(100):
            act = actions(2, 2, 1000 * episode + t)
            env.step(act)
            theirs.step(act[1, 0].clamp(-1, 1).double().numpy())
            state = np.concatenate([theirs.data.qpos, theirs.data.qvel])
            assert np.array_equal(env._physics(env.state).qpos[1, 0], state[:9])
            assert np.array_equal(env._physics(env.state).qvel[1, 0], state[9:])
        assert env.step(act).truncated.all()
    env.close()


# ---- tasks and models ----


@pytest.mark.parametrize("exact", [False, True])
def test_each_task_has_its_own_model(exact):
    env = Gravity(HalfCheetahVelConfig(exact=exact))
    started(env, 3, 2)
    env.state[:] = env.state[0]  # the same start everywhere
    env.simulator.place(env.models, env.state, np.arange(6))
    for t in range(5):
        env.step(actions(1, 1, t).expand(3, 2, 6))
    fall = env._physics(env.state).qpos[..., 1]
    assert np.array_equal(fall[:, 0], fall[:, 1])
    assert fall[0, 0] > fall[1, 0] > fall[2, 0]  # heavier falls further

    heaviest = copy.copy(env.model)
    heaviest.opt.gravity[2] = -20.0
    data = mujoco.MjData(heaviest)
    mujoco.mj_setState(heaviest, data, env.state[4], FULL)
    env.step(torch.zeros(3, 2, 6))
    mujoco.mj_step(heaviest, data, nstep=5)
    np.testing.assert_allclose(env._physics(env.state).qpos[2, 0], data.qpos, rtol=0, atol=1e-9)
    env.close()


def test_switch_changes_the_world_and_keeps_the_state():
    env = HalfCheetahDir()
    tasks, _ = started(env, 2, 2)
    before = env.state.copy()
    env.switch(tasks._replace(params={"direction": -tasks.params["direction"]}))
    assert np.array_equal(env.state, before)
    swapped = env.step(torch.ones(2, 2, 6))
    expected = -tasks.params["direction"][:, None] * swapped.info["forward_velocity"] - 0.3
    torch.testing.assert_close(swapped.reward, expected)
    with pytest.raises(ValueError, match="1 tasks for 2 rows"):
        env.switch(tasks.select(slice(0, 1)))
    env.close()


def test_a_task_model_of_another_robot_is_refused():
    class Wrong(HalfCheetahDir):
        def task_model(self, task):
            return mujoco.MjModel.from_xml_string("<mujoco/>")

    with pytest.raises(ValueError, match="structure"):
        started(Wrong())


def test_directions_are_balanced_and_numbered():
    env = HalfCheetahDir()
    assert env.spec.num_tasks == 2
    for n, seed in ((2, 0), (40, 1), (41, 2)):
        tasks = env.sample_tasks(n, "test", rng(seed))
        assert abs(tasks.params["direction"].sum().item()) == n % 2
        assert torch.equal(tasks.params["direction"], 2.0 * tasks.id - 1)
        assert env.task_features(tasks).shape == (n, env.spec.task_dim)
    alone = {env.sample_tasks(1, "train", rng(s)).id.item() for s in range(20)}
    assert alone == {0, 1}


def test_velocity_splits_are_disjoint():
    env = HalfCheetahVel(HalfCheetahVelConfig(velocity_max=3.0))
    drawn = {s: env.sample_tasks(2000, s, rng(1)) for s in ("train", "valid", "test", "shifted")}
    velocity = {s: t.params["velocity"] for s, t in drawn.items()}
    assert set(split_of(velocity["train"], 0, 3).tolist()) == set(range(8))
    assert set(split_of(velocity["valid"], 0, 3).tolist()) == {8}
    assert set(split_of(velocity["test"], 0, 3).tolist()) == {9}
    assert velocity["shifted"].min() >= 3.0
    assert velocity["shifted"].max() <= 4.5
    assert velocity["test"].min() < 0.1
    assert velocity["test"].max() > 2.9


def test_a_fixed_pool_of_training_tasks():
    env = HalfCheetahVel(HalfCheetahVelConfig(train_tasks=3))
    first, second = (env.sample_tasks(50, "train", rng(s)) for s in (0, 1))
    assert set(first.id.tolist()) == {0, 1, 2}
    value = dict(zip(first.id.tolist(), first.params["velocity"].tolist(), strict=True))
    again = dict(zip(second.id.tolist(), second.params["velocity"].tolist(), strict=True))
    assert value == again


# ---- rewards and actions ----


def test_reward_favours_the_tasks_direction():
    env = HalfCheetahDir(HalfCheetahDirConfig(ctrl_cost=0.0))
    tasks, _ = started(env, 2, 4)
    step = env.step(actions(2, 4))
    velocity = step.info["forward_velocity"]
    assert velocity.abs().max() > 0.01
    torch.testing.assert_close(step.reward, tasks.params["direction"][:, None] * velocity)
    env.close()


def test_velocity_reward_is_the_distance_to_the_target_less_the_control_cost():
    env = HalfCheetahVel()
    tasks, _ = started(env, 3, 2)
    step = env.step(torch.full((3, 2, 6), 5.0))  # clipped to 1, so the cost is 0.05 * 6
    away = (step.info["forward_velocity"] - tasks.params["velocity"][:, None]).abs()
    torch.testing.assert_close(step.reward, -away - 0.3)
    env.close()


def test_action_scale_divides_the_policys_output():
    one, ten = HalfCheetahDir(), HalfCheetahDir(HalfCheetahDirConfig(action_scale=10.0))
    for env in (one, ten):
        started(env)
    raw = actions(2, 3).double()
    a, b = one.step(raw), ten.step(10 * raw)
    torch.testing.assert_close(a.next_obs, b.next_obs)
    torch.testing.assert_close(a.reward, b.reward)
    assert not torch.equal(one.step(raw).next_obs, ten.step(raw).next_obs)


@pytest.mark.parametrize(
    "wrong", [{"horizon": 0}, {"action_scale": 0.0}, {"ctrl_cost": -1.0}, {"threads": -1}]
)
def test_options_without_a_meaning_are_refused(wrong):
    with pytest.raises(UserError, match="expected"):
        HalfCheetahDirConfig(**wrong)


# ---- seeds and restarts ----


@pytest.mark.parametrize("exact", [False, True])
def test_same_seed_same_rollout_whatever_the_threads(exact):
    def rollout(threads, seed=0):
        env = HalfCheetahVel(HalfCheetahVelConfig(exact=exact, threads=threads, horizon=15))
        _, obs = started(env, 4, 5, seed)
        seen = [obs]
        for t in range(20):
            step = env.step(actions(4, 5, t))
            seen += [step.obs, step.reward[..., None].expand(-1, -1, 17)]
        env.close()
        return torch.stack(seen)

    assert torch.equal(rollout(1), rollout(2))
    assert torch.equal(rollout(3), rollout(2))
    assert not torch.equal(rollout(1), rollout(1, seed=1))


def test_a_used_environment_gives_the_same_rollout_as_a_new_one():
    env = HalfCheetahDir()
    first = [started(env)[1], *(env.step(actions(2, 3, t)).obs for t in range(5))]
    started(env, 5, 7, seed=4)
    env.step(actions(5, 7))
    again = [started(env)[1], *(env.step(actions(2, 3, t)).obs for t in range(5))]
    assert torch.equal(torch.stack(first), torch.stack(again))
    env.close()
    assert torch.equal(started(env)[1], first[0])  # also after close
    env.close()


def test_episodes_restart_in_place_and_next_obs_is_the_true_successor():
    config = HalfCheetahDirConfig(horizon=4)
    env, longer = HalfCheetahDir(config), HalfCheetahDir(replace(config, horizon=5))
    _, obs = started(env)
    started(longer)
    for t in range(4):
        step, reference = env.step(actions(2, 3, t)), longer.step(actions(2, 3, t))
        assert torch.equal(step.next_obs, reference.next_obs)
        assert not step.terminated.any()
        assert step.truncated.all() == (t == 3)
        assert torch.equal(step.obs, step.next_obs) == (t < 3)
    assert step.obs[..., :8].abs().max() <= 0.1 + 1e-6  # a fresh start
    assert not torch.equal(step.obs, obs)
    assert env.steps_taken == 4 * 6
    assert not env.step(actions(2, 3)).truncated.any()


def test_start_states_are_gymnasiums():
    env = HalfCheetahDir()
    _, obs = started(env, 2, 1000)
    assert obs.dtype == torch.float32
    assert obs.shape == (2, 1000, 17)
    position, velocity = obs[..., :8], obs[..., 8:]
    assert 0.099 < position.abs().max() <= 0.1
    assert velocity.std().item() == pytest.approx(0.1, rel=0.03)
    env.close()


# ---- faults ----


@pytest.mark.parametrize("exact", [False, True])
def test_a_diverged_lane_is_counted_and_restarted(exact, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)  # where MuJoCo would leave its log
    env = HalfCheetahDir(HalfCheetahDirConfig(exact=exact))
    reference = HalfCheetahDir(HalfCheetahDirConfig(exact=exact))
    for e in (env, reference):
        started(e)
        e.step(actions(2, 3))
    env.models[4] = copy.copy(env.model)
    env.models[4].opt.gravity[2] = -1e14  # lane 1 of task 1
    step, expected = env.step(actions(2, 3, 1)), reference.step(actions(2, 3, 1))
    lost = torch.zeros(2, 3, dtype=torch.bool)
    lost[1, 1] = True
    assert torch.equal(step.truncated, lost)
    assert not step.terminated.any()
    assert step.reward[1, 1] == 0
    assert env.diverged == 1
    assert step.obs.isfinite().all()
    assert step.next_obs.isfinite().all()
    assert step.obs[1, 1, :8].abs().max() <= 0.1 + 1e-6
    assert torch.equal(step.next_obs[~lost], expected.next_obs[~lost])
    assert torch.equal(step.reward[~lost], expected.reward[~lost])

    env.models[4] = env.model
    assert not env.step(actions(2, 3, 2)).truncated.any()  # all well again
    act = actions(2, 3, 3)
    act[0, 2, 5] = float("nan")
    step = env.step(act)
    assert step.truncated.nonzero().tolist() == [[0, 2]]
    assert step.reward.isfinite().all()
    assert env.diverged == 2
    env.close()
    assert capfd.readouterr() == ("", "")
    assert os.listdir(tmp_path) == []


# ---- pictures ----


@pytest.fixture
def no_gl(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)


def test_pictures_show_motion(no_gl):
    env = HalfCheetahVel()
    started(env)
    before, other = env.render(0, 1), env.render(1, 1)
    assert before.shape == (320, 480, 3)
    assert before.dtype == np.uint8
    assert not np.array_equal(before, other)
    assert np.array_equal(before, env.render(0, 1))
    for t in range(5):
        env.step(actions(2, 3, t))
    assert not np.array_equal(before, env.render(0, 1))
    env.close()


def test_a_display_without_opengl_falls_back_to_drawing(no_gl, monkeypatch):
    def broken(*args):
        raise RuntimeError("no driver")

    env = HalfCheetahDir()
    started(env)
    drawn = env.render(0, 0)
    env.close()
    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.setattr(mujoco, "Renderer", broken)
    started(env)
    assert np.array_equal(env.render(0, 0), drawn)
    env.close()


def test_memory_stays_flat():
    def resident_kib():
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024

    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs /proc")
    env, act = Gravity(), actions(4, 10)

    def work():
        started(env, 4, 10)
        for _ in range(20):
            env.step(act)

    for _ in range(10):
        work()
    before = resident_kib()
    for _ in range(30):
        work()
    assert resident_kib() - before < 4096
    env.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_outputs_live_where_the_generator_does():
    env = HalfCheetahDir()
    generator = torch.Generator("cuda").manual_seed(0)
    obs = env.reset(env.sample_tasks(2, "train", generator), 3, generator)
    step = env.step(torch.zeros(2, 3, 6, device="cuda"))
    tensors = [obs, step.obs, step.reward, step.truncated, step.info["forward_velocity"]]
    assert {t.device.type for t in tensors} == {"cuda"}
    env.close()
