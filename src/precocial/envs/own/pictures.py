"""What an environment draws as what is observed of it, and frames that follow each other."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation
from jaxtyping import UInt8
from PIL import Image

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


def pictured(factory: Factory, pixels: int, frames: int) -> Factory:
    """Builds what ``factory`` does, to be seen by its pictures; itself where nothing is asked."""
    if not pixels and frames == 1:
        return factory
    return functools.partial(_build, factory, pixels, frames)


def _build(factory: Factory, pixels: int, frames: int) -> gymnasium.Env:
    env = build(factory)
    if pixels:
        env = Rendered(env, pixels)
    return FrameStackObservation(env, frames) if frames > 1 else env
