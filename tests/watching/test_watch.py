"""Drawings, and animations made of them."""

import subprocess

import numpy as np
import pytest
import torch
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

import precocial
from precocial.cli import main
from precocial.envs.grid.grid_world import GridWorld
from precocial.envs.picture import PALETTE, Picture, as_pixels
from precocial.errors import UserError
from precocial.types import Tasks
from precocial.watching.camera import film
from precocial.watching.show import check_output, show, side_by_side, stage_label, write


def rgb(name):
    return [int(PALETTE[name][k : k + 2], 16) for k in (1, 3, 5)]


def clip(num, size=64):
    """A disc that moves right."""
    frames = []
    for k in range(num):
        picture = Picture(size, half_width=1.0)
        picture.square(0.8)
        picture.disc((0.1 * k - 0.5, 0.0), 0.2, "blue")
        frames.append(picture.pixels)
    return frames


@pytest.mark.parametrize("kind", [tuple, np.array, torch.tensor])
def test_positions_are_metres_with_y_up(kind):
    picture = Picture(100, half_width=1.0)
    picture.disc(kind((0.5, 0.5)), 0.1, "green")
    assert picture.pixels.shape == (100, 100, 3) and picture.pixels.dtype == np.uint8
    assert picture.pixels[25, 75].tolist() == rgb("green")
    assert picture.pixels[75, 25].tolist() == rgb("paper")


def test_a_disc_has_its_area_and_a_smooth_edge():
    picture = Picture(200, half_width=1.0)
    picture.disc((0, 0), 0.5, "blue")
    far = np.abs(picture.pixels.astype(float) - rgb("paper")).sum(-1)
    share = (far / far.max()).sum() / 200**2
    assert share == pytest.approx(np.pi * 0.5**2 / 4, rel=0.02)
    assert len(np.unique(picture.pixels.reshape(-1, 3), axis=0)) > 5


def test_lines_have_their_width():
    picture = Picture(100, half_width=1.0)
    picture.line([(-0.5, 0.0), (0.5, 0.0)], "orange", 0.2)
    assert picture.pixels[46:54, 50].tolist() == [rgb("orange")] * 8  # 0.2 m are 10 pixels
    assert picture.pixels[43, 50].tolist() == picture.pixels[57, 50].tolist() == rgb("paper")
    assert picture.pixels[50, 22].tolist() == rgb("orange")  # the round end


def test_the_other_strokes_leave_their_marks():
    picture = Picture(100, half_width=1.0)
    blank = picture.pixels
    for draw in (
        lambda: picture.grid(0.25),
        lambda: picture.polygon([(0, 0), (0.5, 0), (0.5, 0.5)], "red"),
        lambda: picture.text((-0.5, -0.5), "x = 0.3 m", height=0.2),
        lambda: picture.square(0.9),
    ):
        before = picture.pixels
        draw()
        assert (picture.pixels != before).any()
    assert (blank == rgb("paper")).all()


def colours(*shape):
    """Every brightness, in whole numbers."""
    return np.resize(np.arange(256), shape)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (colours(9, 7, 3).astype(np.uint8), colours(9, 7, 3)),
        (colours(9, 7, 3), colours(9, 7, 3)),
        (colours(9, 7, 3).tolist(), colours(9, 7, 3)),
        (torch.tensor(colours(9, 7, 3)), colours(9, 7, 3)),
        (colours(9, 31, 3) / 255, colours(9, 31, 3)),
        (colours(9, 31, 3).astype(np.float32), colours(9, 31, 3)),
        ((colours(9, 31, 3) / 255).astype(np.float16), colours(9, 31, 3)),
        (np.array([[[1.05, 0.5, -0.01]]]), [[[255, 128, 0]]]),  # 127.5 goes to the even one
        (colours(17, 16), colours(17, 16)[..., None].repeat(3, 2)),
        (colours(17, 16, 1) / 255, colours(17, 16)[..., None].repeat(3, 2)),
        (np.eye(3, dtype=bool), 255 * np.eye(3)[..., None].repeat(3, 2)),
        # Over white: opaque; 2/5 of 100 and 3/5 of 255, which is 193; nothing.
        (np.array([[[10, 20, 30, 255], [100, 100, 100, 102], [1, 2, 3, 0]]]),
         [[[10, 20, 30], [193, 193, 193], [255, 255, 255]]]),
        (np.array([[[1.0, 0.0, 0.0, 0.5]]]), [[[255, 128, 128]]]),
    ],
)  # fmt: skip
def test_pictures_of_every_kind_are_colours_from_0_to_255(given, expected):
    pixels = as_pixels(given, "Mine.render()")
    assert pixels.dtype == np.uint8
    assert (pixels == np.array(expected)).all()


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (None, r"Mine.render\(\) gave NoneType of shape \(\)"),
        (colours(9), r"an array of shape \(9,\)"),
        (colours(3, 9, 7), r"an array of shape \(3, 9, 7\)"),
        (np.zeros((0, 7, 3)), r"an array of shape \(0, 7, 3\)"),
        (colours(9, 7, 3) * 2, "colours from 0 to 376"),
        (colours(9, 7, 3) - 1, "colours from -1 to 187"),
        (np.linspace(-1, 1, 12).reshape(2, 2, 3), "colours from -1 to 1"),
        (np.full((2, 2, 3), np.nan), "colours from nan to nan"),
    ],
)
def test_what_is_no_picture_is_said(given, fault):
    with pytest.raises(UserError, match=fault):
        as_pixels(given, "Mine.render()")


@pytest.mark.parametrize("suffix", ["gif", "mp4", "png"])
def test_frames_of_odd_sizes_make_every_kind_of_file(suffix, tmp_path):
    frames = [as_pixels(colours(h, w, 3), "") for h, w in ((97, 63), (31, 77), (1, 1))]
    out = write([frames, frames[:2]], ["a", "b"], tmp_path / f"film.{suffix}")
    stages = [frames, frames[:2]] if suffix != "png" else [frames[-1:], frames[1:2]]
    shown = side_by_side(stages, ["a", "b"])
    if suffix == "mp4":
        raw = [get_ffmpeg_exe(), "-i", str(out), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        video = subprocess.run(raw, capture_output=True, check=True).stdout
        film = np.frombuffer(video, np.uint8).reshape(-1, *shown[0].shape)
        assert abs(film[0].astype(int) - shown[0]).mean() < 10
    else:
        with Image.open(out) as image:
            assert image.size == shown[0].shape[1::-1]


def test_panels_hold_their_last_frame():
    short, long = clip(2), clip(5)
    frames = side_by_side([short, long], ["before", "after"])
    assert len(frames) == 5
    height, width = frames[0].shape[:2]
    assert height % 2 == width % 2 == 0
    left = [frame[:, : width // 2] for frame in frames]
    assert (left[1] != left[0]).any()
    assert all((part == left[1]).all() for part in left[2:])


def test_titles_wrap_rather_than_overlap():
    one, *_ = side_by_side([clip(1, 96)], ["after"])
    two, *_ = side_by_side([clip(1, 96)], ["after 1 update: return"])
    assert two.shape[1] == one.shape[1] and two.shape[0] > one.shape[0]


def test_small_frames_are_enlarged_below_titles_that_fit():
    frame = np.zeros((4, 3, 3), np.uint8)
    frame[0, 0] = rgb("blue")
    shown, *_ = side_by_side([[frame], [frame]], ["adapting:", "updates:"])
    rows, columns = (np.unique(x) for x in np.nonzero((shown == rgb("blue")).all(-1)))
    assert len(rows) == 16  # 4 x 16 = 64
    assert len(columns) == 32
    # The titles are 87 and 80 wide; a panel is as wide, and its frame, 48, in its middle.
    assert shown.shape[1] == 14 + 87 + 14 + 80 + 14 + 1
    assert columns[0] == 14 + (87 - 48) // 2 and columns[16] == 14 + 87 + 14 + (80 - 48) // 2


def test_frames_of_different_sizes_fit():
    frames = side_by_side([clip(1, 64), clip(1, 96)], ["a", "b"])
    assert frames[0].shape[1] >= 64 + 96


def test_labels():
    assert stage_label(0, "update", -41.23) == "before adapting: return -41.2"
    assert stage_label(1, "update", -10.9) == "after 1 update: return -10.9"
    assert stage_label(0, "episode", 0.5) == "episode 1: return 0.5"
    assert stage_label(2, "episode", 3.0) == "episode 3: return 3.0"


def test_gif_loops_and_keeps_its_colours(tmp_path):
    out = write([clip(3), clip(6)], ["a", "b"], tmp_path / "new" / "film.gif", fps=20)
    with Image.open(out) as image:
        assert image.n_frames == 6 and image.info["loop"] == 0
        assert image.info["duration"] == 50
        image.seek(5)
        assert image.info["duration"] == 1200
        colours = np.array(image.convert("RGB")).reshape(-1, 3).astype(int)
    for name in ("blue", "paper"):
        assert (colours == rgb(name)).all(-1).any()


def test_png_shows_the_last_frame_of_every_panel(tmp_path):
    out = write([clip(3), clip(6)], ["a", "b"], tmp_path / "paths.png", about="a – b")  # noqa: RUF001
    with Image.open(out) as image:
        assert image.info["Description"] == "a – b"  # noqa: RUF001
        pixels = np.array(image)
    assert (pixels == side_by_side([clip(3)[-1:], clip(6)[-1:]], ["a", "b"])[0]).all()
    assert (pixels != side_by_side([clip(3), clip(6)], ["a", "b"])[0]).any()


def test_a_gif_says_what_it_shows(tmp_path):
    out = write([clip(2)], ["a"], tmp_path / "film.gif", about="rl2, episode 1")
    with Image.open(out) as image:
        assert image.info["comment"] == b"rl2, episode 1"


def test_mp4_plays(tmp_path):
    out = write([clip(3), clip(6)], ["a", "b"], tmp_path / "film.MP4", fps=10)
    raw = [get_ffmpeg_exe(), "-i", str(out), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    video = subprocess.run(raw, capture_output=True, check=True).stdout
    shape = side_by_side([clip(1), clip(1)], ["a", "b"])[0].shape
    frames = np.frombuffer(video, np.uint8).reshape(-1, *shape)
    assert len(frames) == 6 + 12  # and the last held for 1.2 s
    assert (frames[0] != frames[-1]).any()


@pytest.mark.parametrize("name", ["film.webm", "film", "gif"])
def test_other_files_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"expected a file ending in \.gif, \.mp4 or \.png"):
        check_output(tmp_path / name)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write([clip(1)], ["a"], tmp_path / "file" / "film.gif")


def test_no_display_is_one_line(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(UserError, match=r"try --out FILE\.gif"):
        show([clip(1)], ["a"])


@pytest.mark.parametrize("stages", [[], [[]], [clip(1), clip(1)]])
def test_wrong_stages_are_refused(stages):
    with pytest.raises(ValueError, match="as many labels"):
        side_by_side(stages, ["a"])


# ---- films of runs ------------------------------------------------------------------------

SMALL = {"num_tasks": 4, "iterations": 1, "eval_every": 0, "quiet": True}


@pytest.fixture(scope="module")
def remembers(tmp_path_factory):
    """A run whose trials are 4 episodes of 15 steps."""
    out = tmp_path_factory.mktemp("rl2") / "run"
    return precocial.train("rl2", "grid-nav", out=out, memory_size=8, **SMALL)


@pytest.fixture(scope="module")
def updates(tmp_path_factory):
    """A run of a method that updates, on episodes of 6 steps."""
    out = tmp_path_factory.mktemp("maml") / "run"
    few = {"episodes_per_task": 2, "hidden": (8,), "env_horizon": 6}
    return precocial.train("maml", "point-nav", out=out, **few, **SMALL)


def blue(frame):
    """Where the agent stands: the middle of the blue pixels, (row, column) from 0 to 1."""
    return np.argwhere((frame == rgb("blue")).all(-1)).mean(0) / frame.shape[0]


def test_the_arrival_is_drawn_though_the_episode_has_restarted():
    env = GridWorld()
    params = {"start": torch.tensor([0]), "goal": torch.tensor([1])}
    env.reset(Tasks(params, torch.zeros(1, dtype=torch.long)), 1, torch.Generator().manual_seed(0))
    at_start = env.render(0, 0)
    step = env.step(torch.tensor([[1]]))  # right, onto the goal
    assert bool(step.terminated)
    assert (env.render(0, 0) == at_start).all()
    moved = blue(env.render_end(0, 0)) - blue(at_start)
    assert moved == pytest.approx([0, 1 / 5.2], abs=0.01)


def test_a_trial_is_filmed_whole(remembers):
    films = film(remembers)
    assert [f.stage for f in films] == [0, 1, 2, 3]
    assert {f.unit for f in films} == {"episode"}
    assert [len(f.frames) for f in films] == [16] * 4  # 15 steps and where they led
    for f in films:
        assert (f.frames[0] == films[0].frames[0]).all()  # the corner, nothing visited
        # The trail grows to the very end, but for the words that the agent covers.
        trails = [(frame == rgb("sky")).all(-1).sum() for frame in f.frames]
        assert trails[0] < 0.99 * max(trails) < trails[-1]


def test_of_a_long_trial_the_telling_episodes_are_shown(remembers):
    films = film(remembers, episodes=6)
    assert [f.stage for f in films] == [0, 1, 5]
    assert [f.stage for f in film(remembers, episodes=3)] == [0, 1, 2]
    same = film(remembers, episodes=6)
    assert [f.episode_return for f in same] == [f.episode_return for f in films]


def test_updates_are_filmed_up_to_the_last_state(updates):
    films = film(updates)
    assert [(f.stage, f.unit) for f in films] == [(0, "update"), (1, "update")]
    assert [len(f.frames) for f in films] == [7, 7]
    assert [f.stage for f in film(updates, updates=0)] == [0]


def test_the_picture_of_final_frames_names_its_episodes(remembers, tmp_path, capsys):
    out = tmp_path / "paths.png"
    assert main(["watch", str(remembers), "--episodes", "5", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    films = film(remembers, episodes=5)
    labels = [
        f"episode {n}: return {f.episode_return:.1f}" for n, f in zip((1, 2, 5), films, strict=True)
    ]
    with Image.open(out) as image:
        assert (np.array(image) == side_by_side([f.frames[-1:] for f in films], labels)[0]).all()
        words = image.info["Description"]
    assert words.startswith("rl2 on grid-nav, the test task of seed 0. Episode 1: return ")
    assert "; episode 5: return " in words


@pytest.mark.parametrize(
    ("method", "flags", "hint"),
    [
        ("remembers", ["--updates", "1"], "leave --updates out, try --episodes"),
        ("updates", ["--episodes", "2"], "leave --episodes out, try --updates"),
        ("remembers", ["--episodes", "0"], "--episodes is 0; expected 1 or more"),
        ("updates", ["--updates", "-1"], "--updates is -1; expected 0 or more"),
        ("updates", ["--fps", "0"], "--fps is 0; expected 1 or more"),
    ],
)
def test_the_wrong_number_is_one_line(method, flags, hint, request, tmp_path, capsys):
    run, out = request.getfixturevalue(method), tmp_path / "film.gif"
    assert main(["watch", str(run), *flags, "--out", str(out)]) == 2
    heard = capsys.readouterr()
    assert heard.out == "" and hint in heard.err and len(heard.err.strip().splitlines()) == 1
    assert not out.exists()
