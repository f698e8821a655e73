"""What an environment draws as what is observed of it, and how pictures change."""

from __future__ import annotations

import functools
from collections import deque
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import UInt8
from PIL import Image

from precocial.envs.own.layout import is_picture, upright
from precocial.envs.own.workers import Factory, build
from precocial.envs.picture import as_pixels
from precocial.errors import UserError


class Rendered(gymnasium.ObservationWrapper):
    """Observe what ``render`` draws.

    Args:
        env: One that draws ``rgb_array``.
        pixels: Height and width; a picture that is not square is squeezed.
    """

    def __init__(self, env: gymnasium.Env, pixels: int) -> None:
        super().__init__(env)
        if env.render_mode != "rgb_array":
            raise UserError(
                f"--env-pixels: {type(env.unwrapped).__name__} cannot draw itself; list "
                "'rgb_array' in metadata['render_modes'] and take render_mode in its constructor"
            )
        self.pixels = pixels
        self.observation_space = spaces.Box(0, 255, (pixels, pixels, 3), np.uint8)

    def observation(self, observation: Any) -> UInt8[np.ndarray, "h w 3"]:
        """Averages of what falls into each pixel."""
        drawn = as_pixels(self.env.render(), f"{type(self.env.unwrapped).__name__}.render()")
        image = Image.fromarray(drawn).resize((self.pixels, self.pixels), Image.Resampling.BOX)
        return np.asarray(image)


class Moving(gymnasium.Wrapper):
    """Observe a picture, and by how much it has changed since each of those before it.

    The first channels are the latest picture, the next ones 128 and what it has more than the one
    before, and so on. Two frames as they are hold as much, but what differs between them is small
    beside what they have in common, and a network finds it late.

    Args:
        env: One that observes a picture alone.
        frames: Pictures seen at a time, the latest among them.
    """

    def __init__(self, env: gymnasium.Env, frames: int) -> None:
        super().__init__(env)
        space = env.observation_space
        if not is_picture(space) or len(space.shape or ()) != 3:
            raise UserError(
                f"--env-frames is {frames}, and {type(env.unwrapped).__name__} observes {space}, "
                "no picture alone; leave it out, or see what it renders with --env-pixels 64"
            )
        self.latest: deque[UInt8[np.ndarray, "h w c"]] = deque(maxlen=frames)
        height, width, channels = upright(space, space.sample()).shape
        self.observation_space = spaces.Box(0, 255, (height, width, channels * frames), np.uint8)

    def reset(self, **kwargs: Any) -> tuple[UInt8[np.ndarray, "h w c"], dict[str, Any]]:
        """Nothing has moved."""
        obs, info = self.env.reset(**kwargs)
        self.latest.extend([upright(self.env.observation_space, obs)] * (self.latest.maxlen or 1))
        return self.seen(), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One picture more."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.latest.append(upright(self.env.observation_space, obs))
        return self.seen(), reward, terminated, truncated, info

    def seen(self) -> UInt8[np.ndarray, "h w c"]:
        """The latest, and changes."""
        *before, now = (picture.astype(np.int16) for picture in self.latest)
        changes = [(128 + now - old).clip(0, 255) for old in reversed(before)]
        return np.concatenate([now, *changes], -1).astype(np.uint8)


def pictured(factory: Factory, pixels: int, frames: int) -> Factory:
    """Builds what ``factory`` does, to be seen by its pictures; itself where nothing is asked."""
    if not pixels and frames == 1:
        return factory
    return functools.partial(_build, factory, pixels, frames)


def _build(factory: Factory, pixels: int, frames: int) -> gymnasium.Env:
    env = build(factory)
    if pixels:
        env = Rendered(env, pixels)
    return Moving(env, frames) if frames > 1 else env
