"""The same task while an agent adapts, side by side: an animation, a still or a window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from precocial.envs.picture import PALETTE, font
from precocial.errors import UserError

SUFFIXES = (".gif", ".mp4", ".png")
HOLD_S = 1.2
"""The end stays on screen for this long before the animation starts over."""

_GAP = 14
_TITLE = 20
_SMALLEST = 64
"""Longer side of the largest frame, in pixels."""

Frame = UInt8[np.ndarray, "h w 3"]


def stage_label(stage: int, unit: str, episode_return: float) -> str:
    """The title of a panel, e.g. ``after 1 update: return -10.9``, ``episode 2: return 0.8``."""
    if unit == "episode":
        return f"episode {stage + 1}: return {episode_return:.1f}"
    when = f"after {stage} {unit}{'s' if stage > 1 else ''}" if stage else "before adapting"
    return f"{when}: return {episode_return:.1f}"


def check_output(out: Path) -> None:
    """Refuse a file that cannot be written, before anything is rolled out.

    Raises:
        UserError: another suffix than ``.gif``, ``.mp4`` or ``.png``.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"--out is {str(out)!r}; expected a file ending in .gif, .mp4 or .png, "
            f"try --out {out.stem or 'film'}.gif"
        )


def write(
    stages: Sequence[Sequence[np.ndarray]],
    labels: Sequence[str],
    out: Path,
    fps: int = 25,
    about: str = "",
) -> Path:
    """Write one panel per stage, side by side, to ``out``.

    Args:
        stages: Frames (h, w, 3) of each stage; a shorter one holds its last frame.
        labels: The title above each panel.
        out: ``.gif`` (loops for ever), ``.mp4``, or ``.png`` for the last frame of every stage.
        fps: Frames per second; a GIF rounds its inverse to 10 ms.
        about: Kept in a GIF or PNG; ``precocial report`` puts it below the picture.

    Raises:
        UserError: another suffix, or ``out`` cannot be written.
    """
    check_output(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix.lower() == ".png":
            _write_png(side_by_side([frames[-1:] for frames in stages], labels)[0], out, about)
        elif out.suffix.lower() == ".gif":
            _write_gif(side_by_side(stages, labels), out, fps, about)
        else:
            _write_mp4(side_by_side(stages, labels), out, fps)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {out} ({reason}); try another --out") from error
    return out


def show(stages: Sequence[Sequence[np.ndarray]], labels: Sequence[str], fps: int = 25) -> None:
    """Play the panels in a window, over and over, until it is closed.

    Raises:
        UserError: there is no display.
    """
    window = _window()
    import tkinter

    from PIL import ImageTk

    frames = side_by_side(stages, labels)
    window.title("precocial watch")
    pictures = [ImageTk.PhotoImage(Image.fromarray(frame), master=window) for frame in frames]
    panel = tkinter.Label(window, image=pictures[0], borderwidth=0)
    panel.pack()

    def turn(index: int) -> None:
        panel.configure(image=pictures[index])
        last = index == len(pictures) - 1
        window.after(round(1000 * (HOLD_S if last else 1 / fps)), turn, 0 if last else index + 1)

    turn(0)
    window.mainloop()


def side_by_side(
    stages: Sequence[Sequence[np.ndarray]], labels: Sequence[str]
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The frames of all stages in one picture each, a title above every panel.

    Small frames are shown larger by a whole factor, all by the same.
    """
    if not stages or len(stages) != len(labels) or not all(stages):
        raise ValueError("expected as many labels as stages, and at least one frame in each")
    largest = max(max(frame.shape[:2]) for frames in stages for frame in frames)
    factor = -(-_SMALLEST // largest)
    stages = [[frame.repeat(factor, 0).repeat(factor, 1) for frame in part] for part in stages]
    tallest = max(frame.shape[0] for frames in stages for frame in frames)
    widths = [
        max(*(frame.shape[1] for frame in frames), *map(_width, label.split()), 1)
        for frames, label in zip(stages, labels, strict=True)
    ]
    background = _background(widths, tallest, labels)
    top = background.shape[0] - tallest - _GAP
    lefts = np.cumsum([_GAP, *(width + _GAP for width in widths[:-1])])
    pictures = []
    for k in range(max(len(frames) for frames in stages)):
        picture = background.copy()
        for left, width, frames in zip(lefts, widths, stages, strict=True):
            frame = frames[min(k, len(frames) - 1)]
            start = left + (width - frame.shape[1]) // 2
            picture[top : top + frame.shape[0], start : start + frame.shape[1]] = frame
        pictures.append(picture)
    return pictures


def _background(
    widths: list[int], tallest: int, labels: Sequence[str]
) -> UInt8[np.ndarray, "h w 3"]:
    """White, with the titles; both sides even, as video codecs want."""
    lines = [_wrapped(label, width) for label, width in zip(labels, widths, strict=True)]
    title = round(1.4 * _TITLE) * max(len(line) for line in lines) + _GAP
    size = (sum(widths) + _GAP * (len(widths) + 1), tallest + title + _GAP)
    image = Image.new("RGB", (size[0] + size[0] % 2, size[1] + size[1] % 2), "white")
    canvas = ImageDraw.Draw(image)
    left = _GAP
    for width, words in zip(widths, lines, strict=True):
        canvas.multiline_text(
            (left + width / 2, image.height - tallest - 2 * _GAP), "\n".join(words),
            fill=PALETTE["ink"], font=font(_TITLE), anchor="md", align="center", spacing=4,
        )  # fmt: skip
        left += width + _GAP
    return np.asarray(image, dtype=np.uint8)


def _width(words: str) -> int:
    """Of a part of a title, in pixels."""
    return math.ceil(font(_TITLE).getlength(words))


def _wrapped(label: str, width: int) -> list[str]:
    """The words of a title, on as many lines as fit a panel's width."""
    lines: list[str] = []
    for word in label.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _width(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines or [""]


def _write_png(frame: UInt8[np.ndarray, "h w 3"], out: Path, about: str) -> None:
    notes = PngInfo()
    notes.add_text("Description", about)
    Image.fromarray(frame).save(out, pnginfo=notes, optimize=True)


def _write_gif(frames: list[UInt8[np.ndarray, "h w 3"]], out: Path, fps: int, about: str) -> None:
    """One palette for all frames: the commonest colours as they are, and a spread of the rest."""
    sample = np.concatenate(frames[:: max(1, len(frames) // 8)] + frames[-1:])
    codes, counts = np.unique(_codes(sample), return_counts=True)
    exact = codes[np.argsort(-counts)[:128]]
    place = np.zeros(1 << 24, np.uint8)  # of a colour in the palette, from 1 on; 0: it has none
    place[exact] = np.arange(1, len(exact) + 1)
    palette = Image.new("P", (1, 1))
    spread = Image.fromarray(sample).quantize(128, method=Image.Quantize.MEDIANCUT).getpalette()
    colours = np.stack([exact >> 16, exact >> 8 & 255, exact & 255], 1)
    palette.putpalette([*colours.ravel().tolist(), *(spread or [])])
    images = []
    for frame in frames:
        # Pillow takes a neighbour of a palette colour for the colour itself, so we look those up.
        near = np.array(Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE))
        places = place[_codes(frame)]
        image = Image.fromarray(np.where(places, places - 1, near))
        image.putpalette(palette.getpalette() or [])
        images.append(image)
    wait = max(20, 10 * round(100 / fps))  # browsers slow anything below 20 ms down to 100
    images[0].save(
        out, save_all=True, append_images=images[1:], loop=0, optimize=True,
        duration=[wait] * (len(images) - 1) + [round(1000 * HOLD_S)], comment=about.encode(),
    )  # fmt: skip


def _codes(frame: UInt8[np.ndarray, "h w 3"]) -> Int32[np.ndarray, "h w"]:
    """Each colour as one number."""
    red, green, blue = frame.astype(np.int32).transpose(2, 0, 1)
    return red << 16 | green << 8 | blue


def _write_mp4(frames: list[UInt8[np.ndarray, "h w 3"]], out: Path, fps: int) -> None:
    from imageio_ffmpeg import write_frames

    height, width = frames[0].shape[:2]
    video = write_frames(str(out), (width, height), fps=fps, quality=8, macro_block_size=2)
    video.send(None)
    for frame in frames + [frames[-1]] * round(HOLD_S * fps):
        video.send(np.ascontiguousarray(frame))
    video.close()


def _window() -> Any:
    """An empty window."""
    hint = "try --out FILE.gif"
    try:
        import tkinter
    except ImportError as error:
        raise UserError(f"no window: this Python has no tkinter; {hint}") from error
    try:
        return tkinter.Tk()
    except tkinter.TclError as error:
        raise UserError(f"no display to open a window on; {hint}") from error
