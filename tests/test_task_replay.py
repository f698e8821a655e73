"""Replay by task: what is drawn happened, pictures are kept once, it is kept and undone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precocial.runs.parts import Parts
from precocial.task_replay import TaskReplay
from precocial.types import Rollout


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def met(steps, tasks=2, lanes=3, first=0, end=0.2, seed=0):
    """Steps whose observation tells task, lane and time, and whose successor the next time."""
    rng = seeded(seed + 1000 * first)
    time = torch.arange(first, first + steps).float()
    place = torch.stack(
        torch.broadcast_tensors(
            torch.arange(tasks).float().view(-1, 1, 1), torch.arange(lanes).float().view(1, -1, 1),
            time.view(1, 1, -1),
        ), -1
    )  # fmt: skip
    following = place.clone()
    following[..., 2] += 1
    terminated = torch.rand(tasks, lanes, steps, generator=rng) < end
    truncated = (torch.rand(tasks, lanes, steps, generator=rng) < end) & ~terminated
    reward = place[..., 2] + 1
    action = (place[..., 2] % 2).long()
    return Rollout(place, action, reward, following, terminated, truncated, {})


def filled(capacity, chunks, spare=50, **kwargs):
    replay, first, parts = TaskReplay(capacity, spare), 0, []
    for steps in chunks:
        parts.append(met(steps, first=first, **kwargs))
        replay.add(parts[-1])
        first += steps
    ends = {
        k: torch.cat([getattr(p, k) for p in parts], 2).numpy() for k in ("terminated", "truncated")
    }
    return replay, ends


chunks = st.lists(st.integers(1, 9), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(chunks=chunks, capacity=st.integers(2, 20), n=st.integers(1, 4), seed=st.integers(0, 99))
def test_a_sample_is_what_n_steps_of_one_lane_gave(chunks, capacity, n, seed):
    replay, ends = filled(capacity, chunks, seed=seed)
    total = sum(chunks)
    found = replay.sample(40, 0.9, seeded(seed), n)
    for task in range(2):
        for b in range(40):
            where = found.obs[task, b]
            own, lane, t = (int(x) for x in where)
            assert own == task and total - min(total, capacity) <= t < total
            reward, k = 0.0, 0
            while True:
                reward += 0.9**k * (t + k + 1)
                over = ends["terminated"][task, lane, t + k] or ends["truncated"][task, lane, t + k]
                k += 1
                if over or k == n or t + k == total:
                    break
            assert float(found.reward[task, b]) == pytest.approx(reward, rel=1e-5)
            assert found.next_obs[task, b].tolist() == [task, lane, t + k]
            alive = 0.0 if ends["terminated"][task, lane, t + k - 1] else 0.9**k
            assert float(found.discount[task, b]) == pytest.approx(alive, rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    moves=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 4)), min_size=1, max_size=8),
    capacity=st.integers(2, 20), seed=st.integers(0, 99),
)  # fmt: skip
def test_pictures_are_kept_once_and_come_back_as_they_came(moves, capacity, seed):
    numbers, pictures = (TaskReplay(capacity, spare=9) for _ in range(2))
    first = undone = 0
    for steps, back in moves:
        part = met(steps, first=first, seed=seed)
        # where an episode ends, it led to what no step begins with
        over = (part.terminated | part.truncated).unsqueeze(-1)
        part = part._replace(next_obs=part.next_obs + 100 * over)
        numbers.add(part)
        pictures.add(part._replace(obs=part.obs.byte(), next_obs=part.next_obs.byte()))
        first += steps
        if back < steps:  # the last ones are taken back
            first, undone = first - back, undone + back
            numbers.shrink(first)
            pictures.shrink(first)
    samples = (r.sample(40, 0.9, seeded(seed), 3) for r in (numbers, pictures))
    for one, other in zip(*samples, strict=True):
        assert torch.equal(one, other.to(one.dtype))
    rows = numbers.rows(0), pictures.rows(0)
    assert rows[0].keys() == rows[1].keys() and "next_obs" not in pictures.fields
    assert all(torch.equal(x, rows[1][k].to(x.dtype)) for k, x in rows[0].items())
    kept = numbers.fields["terminated"] | numbers.fields["truncated"]
    assert len(pictures.apart) <= int(kept.sum()) + 6 * (1 + undone)


def test_every_transition_that_is_kept_is_drawn_equally_often():
    replay, _ = filled(5, [4, 4], end=0.0)
    found = replay.sample(30_000, 0.9, seeded(3))
    for task in range(2):
        time, lane = found.obs[task, :, 2], found.obs[task, :, 1]
        count = np.histogram2d(time, lane, bins=[np.arange(2.5, 8), np.arange(-0.5, 3)])[0]
        assert count.sum() == 30_000 and abs(count / 2000 - 1).max() < 0.12  # 5 deviations


def test_a_step_that_led_nowhere_counts_for_nothing_and_ends_what_came_before():
    replay = TaskReplay(10, 10)
    one = met(3, tasks=1, lanes=1, end=0.0)
    lost = torch.tensor([[[0.0, 1.0, 0.0]]])
    replay.add(one._replace(extra={"info/diverged": lost}))
    found = replay.sample(60, 0.5, seeded(), 3)
    for b in range(60):
        t = int(found.obs[0, b, 2])
        assert float(found.weight[0, b]) == float(t != 1)
        if t == 0:
            assert float(found.reward[0, b]) == 1 and found.next_obs[0, b, 2] == 1


def test_lanes_that_began_anew_are_cut():
    replay = TaskReplay(10, 10)
    replay.add(met(3, tasks=1, lanes=2, end=0.0))
    replay.cut()
    replay.add(met(3, tasks=1, lanes=2, first=3, end=0.0))
    found = replay.sample(200, 1.0, seeded(), 4)
    for b in range(200):
        t = int(found.obs[0, b, 2])
        assert int(found.next_obs[0, b, 2]) == (3 if t < 3 else 6)
        assert float(found.discount[0, b]) == 1  # cut, not over


@settings(max_examples=30, deadline=None)
@given(before=chunks, after=chunks, capacity=st.integers(2, 15))
def test_what_was_added_last_can_be_taken_back(before, after, capacity):
    replay, _ = filled(capacity, before, spare=80)
    same, _ = filled(capacity, before, spare=80)
    first = sum(before)
    for steps in after:
        replay.add(met(steps, first=first))
        first += steps
    replay.shrink(sum(before))
    one, other = (r.sample(20, 0.9, seeded(2), 3) for r in (replay, same))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@settings(max_examples=25, deadline=None)
@given(runs=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=6))
def test_a_folder_holds_what_is_still_asked_for(runs, tmp_path_factory):
    home = tmp_path_factory.mktemp("parts")
    replay, first = TaskReplay(8, 40), 0
    store = Parts(home, replay)
    for chunks in runs:
        for steps in chunks:
            replay.add(met(steps, first=first))
            first += steps
        begin, ends = store.save()
        store.tidy()
    again = TaskReplay(8, 40)
    fresh = Parts(home, again)
    fresh.load(begin, ends, "cpu")
    assert len(again) == len(replay) == first
    one, other = (r.sample(20, 0.9, seeded(2), 3) for r in (replay, again))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert len(ends) <= 10  # parts that nobody asks for are gone
    assert len(list(home.iterdir())) == len(ends)
    assert fresh.save() == (begin, ends)


@pytest.mark.parametrize("chunk", [3, 5, 8])
def test_a_save_that_is_undone_leaves_what_the_undone_state_asks_for(chunk, tmp_path):
    # A signal that comes while an iteration is saved stops the run right after; then the iteration
    # is undone and saved again, so that steps are asked for which the first save did not need.
    replay = TaskReplay(8, 8)
    store = Parts(tmp_path, replay)
    for i in range(6):
        replay.add(met(chunk, first=i * chunk))
        store.save()
        store.tidy()
    replay.shrink(5 * chunk)
    first, ends = store.save()
    store.tidy()
    again = TaskReplay(8, 8)
    Parts(tmp_path, again).load(first, ends, "cpu")
    assert len(again) == len(replay) == 5 * chunk
    one, other = (r.rows(r.start) for r in (replay, again))
    assert all(torch.equal(one[k], other[k]) for k in one)
