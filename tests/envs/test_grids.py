"""Families on grids: GridNavi, grid world, frozen lake."""

import heapq

import gymnasium
import numpy as np
import pytest
import torch

from precocial.envs.base import RESIDUES
from precocial.envs.grid.frozen_lake import (
    FrozenLake,
    FrozenLakeConfig,
    outcomes,
    residue,
    solvable,
)
from precocial.envs.grid.grid_nav import GOALS, GridNav, GridNavConfig
from precocial.envs.grid.grid_world import (
    COMPASS,
    GridWorld,
    GridWorldConfig,
    distances,
    search_steps,
    successors,
)
from precocial.types import SPLITS, Tasks, UserError

CPU = torch.device("cpu")


def nav_tasks(goals):
    return Tasks({"goal": torch.tensor(goals)}, torch.arange(len(goals)))


def world_tasks(starts, goals):
    params = {"start": torch.as_tensor(starts), "goal": torch.as_tensor(goals)}
    return Tasks(params, torch.arange(len(goals)))


def lake_tasks(*rows):
    hole = torch.tensor([[letter == "H" for letter in row.replace(" ", "")] for row in rows])
    return Tasks({"hole": hole}, torch.arange(len(rows)))


def play(env, tasks, actions, rng):
    """Steps of one lane per task under the same actions."""
    env.reset(tasks, 1, rng)
    return [env.step(torch.full((tasks.num, 1), a)) for a in actions]


def cells(observations):
    return [int(obs.argmax()) for obs in observations]


# ---- steps computed by hand ------------------------------------------------------------------

STAY, UP, RIGHT, DOWN, LEFT = range(5)


def test_grid_nav_steps(rng):
    # Goal (2, 0). Left is a wall; right, right is on it; up leaves it; down comes back.
    env = GridNav()
    steps = play(env, nav_tasks([2]), [LEFT, RIGHT, RIGHT, STAY, UP, DOWN], rng)
    assert cells(s.next_obs for s in steps) == [0, 1, 2, 2, 7, 2]
    reward = torch.cat([s.reward.flatten() for s in steps])
    torch.testing.assert_close(reward, torch.tensor([-0.1, -0.1, 1.0, 1.0, -0.1, 1.0]))
    assert torch.cat([s.info["success"].flatten() for s in steps]).tolist() == [0, 0, 1, 1, 0, 1]
    assert not any(s.terminated.any() for s in steps)
    ends = [bool(env.step(torch.zeros(1, 1, dtype=torch.long)).truncated) for _ in range(9)]
    assert ends == [False] * 8 + [True]  # 15 steps in all
    assert env.state["cell"].item() == 0


def test_grid_world_steps(rng):
    up, right, down, left = range(4)
    env = GridWorld()
    # From the top right corner (cell 24), two walls, then left to the goal 23 and to the start.
    steps = play(env, world_tasks([24], [23]), [up, right, left, down, up], rng)
    assert cells(s.next_obs for s in steps) == [24, 24, 23, 19, 24]
    assert cells(s.obs for s in steps) == [24, 24, 24, 19, 24]
    reward = torch.cat([s.reward.flatten() for s in steps])
    torch.testing.assert_close(reward, torch.tensor([-0.05, -0.05, 0.95, -0.05, -0.05]))
    assert [bool(s.terminated) for s in steps] == [False, False, True, False, False]
    assert env.state["visited"][0, 0].nonzero().flatten().tolist() == [19, 24]


def test_lanes_of_a_grid_world_task_start_elsewhere_but_for_good(rng):
    env = GridWorld()
    tasks = env.sample_tasks(600, "test", rng)
    start, goal = env.reset(tasks, 30, rng).argmax(-1), tasks.params["goal"].unsqueeze(-1)
    assert torch.equal(start[:, 0], tasks.params["start"])
    assert not (start == goal).any()
    assert torch.equal(start[:, 0], start[:, 24])  # 24 starts, and around again
    for _ in range(45):
        step = env.step(torch.randint(4, (600, 30), generator=rng))
        ended = step.terminated | step.truncated
        assert torch.equal(step.obs.argmax(-1)[ended], start[ended])
    # Over all pairs each lane meets every pair once.
    for lane in start.unbind(1):
        assert len((lane * 25 + goal.squeeze(-1)).unique()) == 600


def test_frozen_lake_steps(rng):
    left, down, right, up = range(4)
    env = FrozenLake(FrozenLakeConfig(size=4))
    tasks = lake_tasks("SFFF HHHF FFFF FFFG")
    way = [up, right, right, right, down, down, down, left, right]
    steps = play(env, tasks, way, rng)
    assert cells(s.next_obs for s in steps) == [0, 1, 2, 3, 7, 11, 15, 0, 1]
    assert [float(s.reward) for s in steps] == [0, 0, 0, 0, 0, 0, 1, 0, 0]
    assert [bool(s.terminated) for s in steps] == [False] * 6 + [True] + [False] * 2
    step = env.step(torch.full((1, 1), down))  # from cell 1 into a hole
    assert cells([step.next_obs, step.obs]) == [5, 0]
    assert bool(step.terminated) and step.reward == 0 and step.info["success"] == 0


# ---- GridNavi's known figures -----------------------------------------------------------------


@pytest.fixture(scope="module")
def nav_references():
    rng = torch.Generator().manual_seed(0)
    env = GridNav()
    tasks = env.sample_tasks(21, "test", rng)
    assert sorted(tasks.params["goal"].tolist()) == list(GOALS)
    return {k: v.mean(0) for k, v in env.references(tasks, 4, rng).items()}


def test_grid_nav_references_are_the_known_ones(nav_references):
    # 2, 4, 5, 4, 3, 2 and 1 goals lie 2 to 8 steps away, 96 / 21 on average, and who is told earns
    # 1.1 x (16 - 96 / 21) - 1.5 = 11.07. A tour that meets a new goal at every step from the
    # second on earns 0.9 x (1 + ... + 14) and seven times -1.5 over 21 goals: 4.00. No search is
    # better, since the first step can meet none.
    torch.testing.assert_close(
        nav_references["best known search"], torch.tensor([4.0, 11.07, 11.07, 11.07]),
        atol=0.005, rtol=0,
    )  # fmt: skip
    torch.testing.assert_close(
        nav_references["known goal"], torch.full((4,), 11.07), atol=0.005, rtol=0
    )


def test_grid_nav_references_are_ordered(nav_references):
    names = ("random", "posterior sampling", "best known search", "known goal")
    assert list(nav_references) == list(names)
    table = torch.stack([nav_references[n] for n in names])
    assert table.shape == (4, 4)
    assert (table.diff(dim=0) > -0.01).all()
    assert (table[1].diff() > 0).all()


def test_random_references_equal_simulation(rng):
    lake = FrozenLake(FrozenLakeConfig(map="4x4", slippery=True))
    for env, task in (
        (GridNav(), nav_tasks([2])), (GridWorld(), world_tasks([7], [18])),
        (lake, lake.sample_tasks(1, "train", rng)),
    ):  # fmt: skip
        obs = env.reset(task, 20_000, rng)
        alive = (obs == obs[:, :1]).all(-1)  # further lanes of the grid world start elsewhere
        total, num = torch.zeros(alive.shape), alive.sum()
        for _ in range(env.spec.horizon):
            step = env.step(torch.randint(env.spec.action_dim, alive.shape, generator=rng))
            total, alive = total + alive * step.reward, alive & ~step.terminated
        expected = env.references(task, 2, rng)["random"]
        assert expected.shape == (1, 2) and expected[0, 0] == expected[0, 1]
        assert abs(total.sum() / num - expected[0, 0]) < 4 * total.std() / num.sqrt() + 1e-4


def test_search_goes_on_in_the_next_episode():
    # 3 steps an episode: from the corner of 3 x 3 no walk meets more than 3 cells.
    steps = search_steps(3, 0, tuple(range(1, 9)), 3, 6)
    away = distances(3, CPU)[0]
    met = (steps[:, 1:] <= 3).sum(1)
    assert met[0] == 3 and met[-1] == 7 and (met.diff() >= 0).all()
    assert (steps[:, 8] == 4).all()  # the far corner is beyond reach
    first = (steps <= 3).long().argmax(0)
    for cell in range(1, 8):  # once found, the shortest way
        assert (steps[: first[cell], cell] == 4).all()
        assert steps[first[cell], cell] >= away[cell]
        assert (steps[first[cell] + 1 :, cell] == away[cell]).all()


def least_latency(size, start):
    """Exact minimum, over all walks, of the summed first visits: Dijkstra on (visited, cell)."""
    table = successors(size, COMPASS, CPU).tolist()
    everything = 2 ** (size * size) - 1
    queue, best = [(0, 1 << start, start)], {}
    while queue:
        cost, seen, cell = heapq.heappop(queue)
        if seen == everything:
            return cost
        if best.get((seen, cell), cost + 1) <= cost:
            continue
        best[seen, cell] = cost
        ahead = size * size - bin(seen).count("1")
        for following in table[cell]:
            heapq.heappush(queue, (cost + ahead, seen | 1 << following, following))
    raise AssertionError


@pytest.mark.parametrize("start", [0, 1, 4])
def test_search_is_optimal_on_a_small_grid(start):
    others = tuple(c for c in range(9) if c != start)
    steps = search_steps(3, start, others, 50, 1)[0]
    assert steps[list(others)].sum() == least_latency(3, start)


def test_grid_world_references():
    start, goal = (~torch.eye(25, dtype=torch.bool)).nonzero().unbind(1)
    table = GridWorld().references(world_tasks(start, goal), 3, torch.Generator())
    assert list(table) == ["random", "best known search", "shortest path"]
    assert all(v.shape == (600, 3) for v in table.values())
    search, told = table["best known search"], table["shortest path"]
    # The mean distance of two different cells is 10/3.
    torch.testing.assert_close(told.mean(0), torch.full((3,), 1 - 0.05 * 10 / 3))
    assert torch.equal(search[:, 1:], told[:, 1:])
    assert (table["random"] < told).all() and (search <= told).all()
    assert table["random"].mean() < search[:, 0].mean()
    # A tour that meets a new cell at every step: 24 x 25 / 2 steps over the goals. From the twelve
    # cells of the colour that has fewer, the last new cell takes two steps.
    total = search[:, 0].view(25, 24).sum(1)
    fewer = torch.tensor([(c % 5 + c // 5) % 2 for c in range(25)])
    torch.testing.assert_close(total, 24 - 0.05 * (300 + fewer))


# ---- beliefs ----------------------------------------------------------------------------------


def brute_force(env, goals, starts, history):
    """Posterior over goals of each lane: those under which every observed step comes out so."""
    possible = starts.unsqueeze(-1) != torch.tensor(goals)
    for obs, action, reward, next_obs in history:
        for j, goal in enumerate(goals):
            tasks = {"goal": torch.tensor([[goal]]), "start": torch.tensor([[0]])}
            state = {"cell": obs.argmax(-1), "visited": obs}
            following = env.transition(state, action, tasks, torch.Generator())
            same = (env.observation(following, tasks) == next_obs).all(-1)
            same &= env.reward(state, action, following, tasks, torch.Generator()) == reward
            possible[:, j] &= same[0]
    return possible / possible.sum(-1, keepdim=True)


@pytest.mark.parametrize("env", [GridNav(), GridWorld()], ids=lambda env: env.name)
def test_beliefs_are_exact(env, rng):
    lanes, goals = 40, list(GOALS) if isinstance(env, GridNav) else list(range(25))
    tasks = env.sample_tasks(1, "train", rng)
    obs = env.reset(tasks, lanes, rng)
    starts = obs[0].argmax(-1)
    rule = env.spec.belief
    belief = rule.prior(obs)
    expected = torch.zeros(lanes, 25)
    expected[:, goals] = brute_force(env, goals, starts, [])  # no goal is at the lane's own start
    torch.testing.assert_close(rule.features(belief, obs)[0], expected)
    history, sure = [], 0
    for t in range(60):
        action = torch.randint(env.spec.action_dim, (1, lanes), generator=rng)
        step = env.step(action)
        belief = rule.update(belief, obs, action, step.reward, step.next_obs)
        history.append((obs, action, step.reward, step.next_obs))
        obs = step.obs
        if t % 10 in (0, 9):
            features = rule.features(belief, obs)
            assert features.shape == (1, lanes, rule.dim)
            expected = torch.zeros(lanes, 25)
            expected[:, goals] = brute_force(env, goals, starts, history)
            torch.testing.assert_close(features[0], expected)
            sure = int((features == 1).any(-1).sum())
    assert 0 < sure < lanes


# ---- splits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 5])
def test_grid_world_tasks_are_all_pairs(size, rng):
    env = GridWorld(GridWorldConfig(size=size))
    cells = size**2
    assert env.spec.num_tasks == cells * (cells - 1)
    for split in SPLITS:
        tasks = env.sample_tasks(env.spec.num_tasks, split, rng)
        start, goal = tasks.params["start"], tasks.params["goal"]
        assert len(tasks.id.unique()) == len((start * cells + goal).unique()) == cells * (cells - 1)
        assert not (start == goal).any() and int(start.max()) == int(goal.max()) == cells - 1


def test_frozen_lake_splits(rng):
    env = FrozenLake()
    share = {}
    for split in SPLITS:
        hole = env.sample_tasks(500, split, rng).params["hole"]
        assert torch.isin(residue(hole), torch.tensor(RESIDUES[split])).all()
        assert solvable(hole).all()
        assert not hole[:, [0, -1]].any()
        share[split] = float(hole.float().mean())
    assert share["train"] + 0.02 < share["shifted"]
    # The digits of all maps are about equally common.
    digits = residue(torch.rand(20_000, 25, generator=rng) < 0.2).bincount(minlength=10)
    assert (digits / 20_000 - 0.1).abs().max() < 0.02


def test_solvable():
    maps = lake_tasks("SFFF HHHF FFFF FFFG", "SFFF HHHH FFFF FFFG", "SHFF HFFF FFFF FFFG",
                      "SFHF HFHF HFFH HHFG").params["hole"]  # fmt: skip
    assert solvable(maps).tolist() == [True, False, False, True]


def test_grid_nav_is_balanced(rng):
    goals = GridNav().sample_tasks(50, "train", rng).params["goal"]
    counts = goals.bincount(minlength=25)[list(GOALS)]
    assert counts.sum() == 50 and counts.min() == 2


# ---- frozen lake and Gymnasium ------------------------------------------------------------------


def expected_transitions(name, slippery):
    """Gymnasium's own table: chance of (next cell), reward and end, (C, A, C) each."""
    table = gymnasium.make("FrozenLake-v1", map_name=name, is_slippery=slippery).unwrapped.P
    chance, reward, end = (torch.zeros(len(table), 4, len(table)) for _ in range(3))
    for cell, actions in table.items():
        for action, results in actions.items():
            for p, following, r, ended in results:
                chance[cell, action, following] += p
                reward[cell, action, following] = r
                end[cell, action, following] = ended
    return chance, reward, end


@pytest.mark.parametrize("slippery", [False, True])
def test_frozen_lake_steps_as_gymnasium(slippery, rng):
    chance, reward, end = expected_transitions("4x4", slippery)
    env = FrozenLake(FrozenLakeConfig(map="4x4", slippery=slippery))
    task = env.sample_tasks(1, "train", rng)
    inside = (~task.params["hole"][0]).nonzero().flatten()[:-1]
    ours = torch.nn.functional.one_hot(outcomes(4, slippery, CPU), 16).float().mean(2)
    torch.testing.assert_close(ours[inside], chance[inside])
    # And as it is stepped: every cell and action, 3000 times where it slips.
    repeats = 3000 if slippery else 1
    cell, action = (x.flatten().repeat(repeats)[None] for x in torch.meshgrid(
        inside, torch.arange(4), indexing="ij"))  # fmt: skip
    env.reset(task, cell.shape[1], rng)
    env.state = env.state | {"cell": cell}
    step = env.step(action)
    following = step.next_obs.argmax(-1)
    torch.testing.assert_close(step.reward, reward[cell, action, following])
    torch.testing.assert_close(step.terminated.float(), end[cell, action, following])
    counts = torch.zeros_like(chance).index_put(
        (cell, action, following), torch.tensor(1.0 / repeats), accumulate=True
    )
    torch.testing.assert_close(counts[inside], chance[inside], atol=0.05 * slippery, rtol=0)


def test_known_map_is_value_iteration_on_gymnasium(rng):
    for name, horizon in (("4x4", 100), ("8x8", 200)):
        chance, reward, end = expected_transitions(name, True)
        value = torch.zeros(len(chance))
        for _ in range(horizon):
            value = (chance * (reward + (1 - end) * value)).sum(-1).amax(-1)
        env = FrozenLake(FrozenLakeConfig(map=name, slippery=True, horizon=horizon))
        known = env.references(env.sample_tasks(2, "test", rng), 3, rng)["known map"]
        torch.testing.assert_close(known, value[0].expand(2, 3))


def test_a_planner_of_lakes_learns_from_each_fall(rng):
    """On firm ice it avoids what it met, so it fails at most once a hole and then no more."""
    lake = FrozenLake(FrozenLakeConfig(size=4, hole_chance=0.3))
    tasks = lake.sample_tasks(60, "test", rng)
    holes = tasks.params["hole"]
    done = lake.plan(holes, 16, rng)
    assert (done[:, 1:] >= done[:, :-1]).all() and done[:, -1].all()
    assert ((1 - done).sum(1) <= holes.sum(1)).all()
    assert (done[~holes.any(1)] == 1).all()
    slippery = FrozenLake(FrozenLakeConfig(size=4, slippery=True))
    tasks = slippery.sample_tasks(400, "test", rng)
    late = slippery.plan(tasks.params["hole"], 30, rng)[:, 20:].mean()
    known = slippery.references(tasks, 1, rng)["known map"].mean()
    assert late == pytest.approx(float(known), abs=0.04)


def test_frozen_lake_references(rng):
    dry, wet = FrozenLake(), FrozenLake(FrozenLakeConfig(slippery=True))
    tasks = dry.sample_tasks(100, "test", rng)
    a, b = dry.references(tasks, 15, rng), wet.references(tasks, 15, rng)
    assert a["known map"].shape == a["random"].shape == (100, 15)
    assert (a["known map"] == 1).all()
    assert (a["random"] < b["known map"]).all() and (b["known map"] < 1.0001).all()
    assert a["random"].max() > a["random"].min() > 0
    unlucky = lake_tasks("SFFF HHHF FFFF FFFG")
    short = FrozenLake(FrozenLakeConfig(size=4, horizon=5))
    assert short.references(unlucky, 1, rng)["known map"].item() == 0  # six steps are needed


# ---- pictures and options -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "env", [GridNav(), GridWorld(), FrozenLake(), FrozenLake(FrozenLakeConfig(map="8x8"))]
)
def test_pictures_show_the_walk(env, rng):
    env.reset(env.sample_tasks(2, "train", rng), 3, rng)
    before = env.render(1, 2)
    assert before.shape == (320, 320, 3) and before.dtype == np.uint8
    assert before.std() > 0
    state = env.state
    walked = state["visited"].clone()
    walked[..., 1] = 1
    env.state = state | {"visited": walked}
    assert (env.render(1, 2) != before).any()


@pytest.mark.parametrize(("cls", "option", "value", "flag"), [
    (GridNavConfig, "episodes", 0, "--env-episodes is 0"),
    (GridWorldConfig, "size", 1, "--env-size is 1"),
    (GridWorldConfig, "size", 9, "--env-size is 9"),
    (GridWorldConfig, "episodes", 0, "--env-episodes is 0"),
    (GridWorldConfig, "step_penalty", 1.0, "--env-step-penalty is 1.0"),
    (GridWorldConfig, "step_penalty", float("nan"), "--env-step-penalty is nan"),
    (FrozenLakeConfig, "size", 3, "--env-size is 3"),
    (FrozenLakeConfig, "hole_chance", 0.0, "--env-hole-chance is 0.0"),
    (FrozenLakeConfig, "attempts", 0, "--env-attempts is 0"),
    (FrozenLakeConfig, "train_tasks", -1, "--env-train-tasks is -1"),
])  # fmt: skip
def test_options_without_a_meaning_are_refused(cls, option, value, flag):
    with pytest.raises(UserError, match=flag) as error:
        cls(**{option: value})
    assert "expected" in str(error.value) and "\n" not in str(error.value)


def test_horizon_without_a_step_is_refused():
    for cls, config in ((GridNav, GridNavConfig), (GridWorld, GridWorldConfig),
                        (FrozenLake, FrozenLakeConfig)):  # fmt: skip
        with pytest.raises(UserError, match="--env-horizon is 0"):
            cls(config(horizon=0))


def test_options_reach_the_family(rng):
    assert GridNav(GridNavConfig(episodes=2, horizon=9)).spec.trial_episodes == 2
    world = GridWorld(GridWorldConfig(size=4, episodes=5, step_penalty=0.2))
    assert world.spec.obs_dim == 16 and world.spec.trial_episodes == 5
    assert world.references(world.sample_tasks(3, "test", rng), 2, rng)["random"].shape == (3, 2)
    lake = FrozenLake(FrozenLakeConfig(size=6, attempts=3, hole_chance=0.4))
    assert lake.spec.obs_dim == 36 and lake.spec.trial_episodes == 3
    assert FrozenLake(FrozenLakeConfig(map="8x8")).spec.num_tasks == 1


# ---- what can be seen around -----------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 6])
def test_a_local_view_is_the_same_on_lakes_of_every_size(size):
    env = FrozenLake(FrozenLakeConfig(size=size, view="local"))
    tasks = env.sample_tasks(3, "train", torch.Generator().manual_seed(0))
    env.reset(tasks, 1, torch.Generator().manual_seed(1))
    assert env.spec.obs_dim == 20
    for cell in range(size**2):
        env.state["cell"][:] = cell
        seen = env.observation(env.state, env.tasks)
        for task in range(3):
            holes, outside, way = seen[task, 0].split([9, 9, 2])
            for k in range(9):
                row, column = cell // size + k // 3 - 1, cell % size + k % 3 - 1
                off = not (0 <= row < size and 0 <= column < size)
                hole = not off and bool(tasks.params["hole"][task, row * size + column])
                assert (bool(outside[k]), bool(holes[k])) == (off, hole)
            assert way.tolist() == [
                float(cell // size < size - 1), float(cell % size < size - 1)
            ]  # fmt: skip
