"""State that only grows: written once, undone by its length, whole or not at all."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import precocial
from precocial.errors import UserError
from precocial.replay import Replay, Transitions
from precocial.runs import checkpoint
from precocial.runs.folder import load_algorithm, read_plan
from precocial.runs.parts import Parts
from precocial.runs.rows import read_rows
from precocial.training import Loop, run

TINY = {
    "hidden": (8,), "model_updates": 2, "candidates": 4, "plan_horizon": 2, "num_tasks": 2,
    "past": 3, "future": 3, "env_horizon": 20, "eval_every": 0, "save_every": 1, "quiet": True,
}  # fmt: skip


def lanes(first, num, steps=5):
    """Rows that say which they are."""
    number = torch.arange(first, first + num)
    column = number.float().reshape(-1, 1, 1) + torch.arange(steps).reshape(1, -1, 1) / 100
    return Transitions(column, -column, column + 1, number.unsqueeze(1).expand(-1, steps))._asdict()


def train(out, iterations, **settings):
    options = TINY | settings
    return precocial.train("grbal", "hidden-gain", out=out, iterations=iterations, **options)


def metrics(folder):
    rows = read_rows(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def parts(folder):
    return sorted(path.name for path in (folder / "checkpoint" / "parts").glob("*"))


@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=9),
    undone=st.lists(st.integers(0, 5), min_size=9, max_size=9),
    seed=st.integers(0, 99),
)
def test_blocks_are_as_one_table(sizes, undone, seed):
    replay, total = Replay(), 0
    for size, back in zip(sizes, undone, strict=False):
        replay.extend(lanes(total, size))
        total = max(1, total + size - back)
        replay.shrink(total)
    assert len(replay) == total
    rows = replay.rows(0)
    for name, value in lanes(0, total).items():
        assert torch.equal(rows[name], value)
    late = replay.rows(total // 2)["obs"]
    assert torch.equal(late, rows["obs"][total // 2 :])
    plain = Replay()
    plain.extend(rows)
    assert len(plain.blocks) == 1
    windows = [r.sample(20, 2, 3, torch.Generator().manual_seed(seed)) for r in (replay, plain)]
    for one, other in zip(*windows, strict=True):
        assert torch.equal(one, other)


def test_nothing_stored_is_copied_when_more_comes():
    replay = Replay()
    replay.extend(lanes(0, 4))
    places = []
    for first in range(4, 64, 4):
        places.append([block.lanes.obs.data_ptr() for block in replay.blocks])
        replay.extend(lanes(first, 4))
    for before, after in zip(places, places[1:], strict=False):
        assert after[: len(before)] == before
    assert len(replay.blocks) == 1 + math.log2(64 / 4)


def test_every_row_is_written_once_and_best_carries_none(tmp_path):
    folder = train(tmp_path / "r", 4)
    assert parts(folder) == ["0-2.safetensors", "2-4.safetensors", "4-6.safetensors",
                             "6-8.safetensors"]  # fmt: skip
    best = checkpoint.load(folder / "checkpoint" / "best.safetensors")
    assert "parts" not in best and "replay" not in best["algorithm"]
    stored = folder / "checkpoint" / "parts" / "0-2.safetensors"
    before = stored.stat().st_mtime_ns
    run(folder, 6, quiet=True)
    assert stored.stat().st_mtime_ns == before and len(parts(folder)) == 6
    whole = train(tmp_path / "whole", 6)
    assert metrics(folder) == metrics(whole)


def test_evaluation_reads_no_data(tmp_path):
    folder = train(tmp_path / "r", 2)
    for name in parts(folder):
        (folder / "checkpoint" / "parts" / name).unlink()
    assert len(load_algorithm(folder)[2].replay) == 0


def test_an_iteration_that_broke_is_undone_by_its_length(tmp_path):
    folder = train(tmp_path / "r", 3)
    loop = Loop(read_plan(folder), folder, quiet=True)
    loop.iterate()
    assert len(loop.algorithm.replay) == 8
    loop.restore()
    assert len(loop.algorithm.replay) == 6 and loop.iteration == 3
    found = [loop.iterate(), loop.restore(), loop.iterate()]
    assert found[0]["loss/adapted"] == found[2]["loss/adapted"]


def test_data_that_are_not_finite_are_not_kept(tmp_path, monkeypatch):
    folder = train(tmp_path / "r", 2)
    loop = Loop(read_plan(folder), folder, quiet=True)
    learn = loop.algorithm.meta_update

    def spoiled(*args):
        found = learn(*args)
        replay = loop.algorithm.replay
        first, lanes = replay.blocks[-1]
        lanes.obs[len(replay) - first - 1, 0, 0] = torch.nan
        return found

    monkeypatch.setattr(loop.algorithm, "meta_update", spoiled)
    assert loop.iterate()["loss/skipped"] == 1.0
    assert len(loop.algorithm.replay) == 4


def test_saving_after_rows_were_undone_leaves_the_checkpoint_before_readable(tmp_path):
    replay, home = Replay(), tmp_path
    store = Parts(home, replay)
    replay.extend(lanes(0, 3))
    assert store.save() == (0, [3])
    replay.extend(lanes(3, 3))
    _, first = store.save()
    replay.shrink(5)
    assert store.save() == (0, [3, 5])
    assert {path.name for path in home.iterdir()} >= {"0-3.safetensors", "3-6.safetensors"}
    for ends, length in ((first, 6), ([3, 5], 5)):
        again = Replay()
        Parts(home, again).load(0, ends, "cpu")
        assert torch.equal(again.rows(0)["obs"], lanes(0, length)["obs"])
    store.tidy()
    assert {path.name for path in home.iterdir()} == {"0-3.safetensors", "3-5.safetensors"}


def test_a_kill_between_data_and_checkpoint_loses_nothing(tmp_path, monkeypatch):
    folder = train(tmp_path / "r", 2)
    save = checkpoint.save

    def killed(path, state):
        if path.name == "last.safetensors":
            raise SystemExit
        save(path, state)

    monkeypatch.setattr("precocial.runs.checkpoint.save", killed)
    with pytest.raises(SystemExit):
        run(folder, 4, quiet=True)
    monkeypatch.undo()
    run(folder, 4, quiet=True)
    assert metrics(folder) == metrics(train(tmp_path / "whole", 4))
    assert len(parts(folder)) == 4


@pytest.mark.parametrize("damage", ["missing", "truncated", "edited"])
def test_a_damaged_part_gives_one_clear_line(damage, tmp_path):
    folder = train(tmp_path / "r", 2)
    path = folder / "checkpoint" / "parts" / "0-2.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[:-8])
    else:
        data[-5] ^= 1
        path.write_bytes(data)
    with pytest.raises(UserError, match=r"0-2\.safetensors"):
        run(folder, 3, quiet=True)


def test_a_full_disk_leaves_data_and_checkpoint_of_before(tmp_path, monkeypatch):
    folder = train(tmp_path / "r", 2)
    loop = Loop(read_plan(folder), folder, quiet=True)
    loop.iterate()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(UserError, match="disk full"):
        loop.save("last")
    monkeypatch.undo()
    again = Loop(read_plan(folder), folder, quiet=True)
    assert again.iteration == 2 and len(again.algorithm.replay) == 4
    loop.iteration += 1
    loop.save("last")
    assert len(Loop(read_plan(folder), folder, quiet=True).algorithm.replay) == 6
