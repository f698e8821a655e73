"""Drawings, and animations made of them."""

import subprocess

import numpy as np
import pytest
import torch
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from precocial.envs.picture import PALETTE, Picture
from precocial.errors import UserError
from precocial.watch import check_output, show, side_by_side, stage_label, write_animation


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
    one, *_ = side_by_side([clip(1)], ["after"])
    two, *_ = side_by_side([clip(1)], ["after 1 update: return"])
    assert two.shape[1] == one.shape[1] and two.shape[0] > one.shape[0]


def test_frames_of_different_sizes_fit():
    frames = side_by_side([clip(1, 64), clip(1, 96)], ["a", "b"])
    assert frames[0].shape[1] >= 64 + 96


def test_labels():
    assert stage_label(0, "update", -41.23) == "before adapting: return -41.2"
    assert stage_label(1, "update", -10.9) == "after 1 update: return -10.9"
    assert stage_label(2, "episode", 3.0) == "after 2 episodes: return 3.0"


def test_gif_loops_and_keeps_its_colours(tmp_path):
    out = write_animation([clip(3), clip(6)], ["a", "b"], tmp_path / "new" / "film.gif", fps=20)
    with Image.open(out) as image:
        assert image.n_frames == 6 and image.info["loop"] == 0
        assert image.info["duration"] == 50
        image.seek(5)
        assert image.info["duration"] == 1200
        colours = np.array(image.convert("RGB")).reshape(-1, 3).astype(int)
    for name in ("blue", "paper"):
        assert (colours == rgb(name)).all(-1).any()


def test_mp4_plays(tmp_path):
    out = write_animation([clip(3), clip(6)], ["a", "b"], tmp_path / "film.MP4", fps=10)
    raw = [get_ffmpeg_exe(), "-i", str(out), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    video = subprocess.run(raw, capture_output=True, check=True).stdout
    shape = side_by_side([clip(1), clip(1)], ["a", "b"])[0].shape
    frames = np.frombuffer(video, np.uint8).reshape(-1, *shape)
    assert len(frames) == 6 + 12  # and the last held for 1.2 s
    assert (frames[0] != frames[-1]).any()


@pytest.mark.parametrize("name", ["film.webm", "film", "gif"])
def test_other_files_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"expected a file ending in \.gif or \.mp4"):
        check_output(tmp_path / name)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_animation([clip(1)], ["a"], tmp_path / "file" / "film.gif")


def test_no_display_is_one_line(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(UserError, match=r"try --out FILE\.gif"):
        show([clip(1)], ["a"])


@pytest.mark.parametrize("stages", [[], [[]], [clip(1), clip(1)]])
def test_wrong_stages_are_refused(stages):
    with pytest.raises(ValueError, match="as many labels"):
        side_by_side(stages, ["a"])
