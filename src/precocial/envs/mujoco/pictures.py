"""Pictures of a robot: by OpenGL, or its side view drawn without."""

from __future__ import annotations

import functools
import os
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image, ImageDraw, ImageFont

from precocial.envs.mujoco.state import FULL, Array, quiet

WIDTH, HEIGHT = 480, 320  # multiples of 16, as video encoders want them
FINE = 3  # drawn this much larger, then reduced: smooth edges
METRE = 150 * FINE  # fine pixels per metre
GROUND = 250 * FINE  # fine pixels from the top
SKY, HAZE = (166, 202, 230), (242, 246, 249)
SOIL, DARK_SOIL, SHADE, LINE = (214, 207, 192), (200, 192, 175), (172, 163, 145), (120, 112, 98)
INK = (44, 52, 64)
LINE_WIDTH = 2 * FINE
LIMBS = ((58, 76, 102), (226, 125, 62), (38, 150, 136), (200, 70, 92), (120, 94, 170))


class Camera:
    """Pictures of one model, its camera following the robot."""

    def __init__(self, model: Any) -> None:
        self.model, self.data = model, mujoco.MjData(model)
        self.gl = open_gl(model)

    def picture(self, state: Float64[Array, " s"], caption: str) -> UInt8[Array, "h w 3"]:
        """One state, HEIGHT x WIDTH pixels."""
        with quiet():
            mujoco.mj_setState(self.model, self.data, state, FULL)
            mujoco.mj_forward(self.model, self.data)
        if self.gl is None:
            image = side_view(self.model, self.data)
        else:
            self.gl.update_scene(self.data, camera=0 if self.model.ncam else -1)
            image = Image.fromarray(self.gl.render())
        ImageDraw.Draw(image).text(
            (12, 10), caption, INK, ImageFont.load_default(16), stroke_width=2, stroke_fill=HAZE
        )
        return np.array(image)

    def close(self) -> None:
        """Give the OpenGL context back."""
        if self.gl is not None:
            self.gl.close()


def open_gl(model: Any) -> Any:
    """A ``mujoco.Renderer``, or None where nobody has said that OpenGL works.

    Asking is not safe: a missing driver can abort the process instead of raising.
    """
    if not (os.environ.get("MUJOCO_GL") or os.environ.get("DISPLAY")):
        return None
    try:
        return mujoco.Renderer(model, HEIGHT, WIDTH)
    except Exception:  # each backend has an error of its own
        return None


def side_view(model: Any, data: Any) -> Image.Image:
    """The robot's spheres and capsules on the x-z plane, above the ground that it can touch."""
    level = ground_level(model, data)
    image = backdrop(GROUND if level is None else HEIGHT * FINE).copy()
    draw = ImageDraw.Draw(image)
    centre = data.subtree_com[1, 0]

    def pixel(point: Float64[Array, "3"]) -> tuple[float, float]:
        height = point[2] - (level or 0.0)
        return (point[0] - centre) * METRE + WIDTH * FINE / 2, GROUND - height * METRE

    if level is None:
        draw_ground(draw, centre)
        middle, reach = WIDTH * FINE / 2, METRE / 2
        draw.ellipse((middle - reach, GROUND + 3 * FINE, middle + reach, GROUND + 13 * FINE), SHADE)
    else:
        for geom in touched(model):
            top = [pixel(point) for point in surface(model, data, geom)]
            below = float(HEIGHT * FINE)
            outline = [(top[0][0], below), *top, (top[-1][0], below)]
            draw.polygon(outline, SOIL)
            draw.line(outline, LINE, LINE_WIDTH)
        draw_metres(draw, centre)
    # What is far is drawn first; the camera stands at negative y.
    for geom in np.argsort(-data.geom_xpos[:, 1].round(3), kind="stable"):
        kind, size = model.geom_type[geom], model.geom_size[geom]
        if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
            half = data.geom_xmat[geom].reshape(3, 3)[:, 2] * size[1]
        elif kind == mujoco.mjtGeom.mjGEOM_SPHERE:
            half = np.zeros(3)
        else:
            continue
        ends = [pixel(data.geom_xpos[geom] - half), pixel(data.geom_xpos[geom] + half)]
        colour = LIMBS[limb(model, int(model.geom_bodyid[geom])) % len(LIMBS)]
        draw_capsule(draw, ends, size[0] * METRE, colour)
    return image.reduce(FINE)


def draw_capsule(
    draw: ImageDraw.ImageDraw, ends: list[tuple[float, float]], radius: float,
    colour: tuple[int, ...],
) -> None:  # fmt: skip
    """A limb with a dark rim; ends and radius in fine pixels."""
    dark = tuple(c * 2 // 3 for c in colour)
    for r, fill in ((radius + FINE, dark), (radius - FINE, colour)):
        draw.line(ends, fill, round(2 * r))
        for x, y in ends:
            draw.ellipse((x - r, y - r, x + r, y + r), fill)


def touched(model: Any) -> list[int]:
    """The geoms that a robot can stand on."""
    return [int(geom) for geom in np.flatnonzero(model.geom_conaffinity)]


def surface(model: Any, data: Any, geom: int) -> Float64[Array, "k 3"]:
    """The upper edge of a box or a height field at y = 0, from left to right, in metres."""
    size, field = model.geom_size[geom], model.geom_dataid[geom]
    x, z = np.array([-size[0], size[0]]), np.full(2, size[2])
    if field >= 0:
        size, columns = model.hfield_size[field], model.hfield_ncol[field]
        row = model.hfield_data[model.hfield_adr[field] :][:columns]
        x, z = np.linspace(-size[0], size[0], columns), size[2] * row.astype(np.float64)
    return data.geom_xpos[geom] + np.stack([x, 0 * x, z], 1)


def ground_level(model: Any, data: Any) -> float | None:
    """Height in metres of the boxes and fields below the robot; None where it stands on a plane."""
    ground = touched(model)
    if any(model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_PLANE for geom in ground):
        return None
    fixed = [geom for geom in ground if not model.body_dofnum[model.geom_bodyid[geom]]]
    edges = [surface(model, data, geom) for geom in fixed]
    centre = data.subtree_com[1, 0]
    heights = [np.interp(centre, e[:, 0], e[:, 2]) for e in edges if e[0, 0] <= centre <= e[-1, 0]]
    return float(max(heights, default=0.0))


def draw_ground(draw: ImageDraw.ImageDraw, centre: float) -> None:
    """Tiles of half a metre, the ground line, and the metres run so far."""
    reach = WIDTH * FINE / 2 / METRE
    for tile in range(int(np.floor(2 * (centre - reach))), int(np.ceil(2 * (centre + reach)))):
        x = (tile / 2 - centre) * METRE + WIDTH * FINE / 2
        if tile % 2:
            draw.rectangle((x, GROUND, x + METRE / 2, GROUND + 16 * FINE), DARK_SOIL)
        else:
            draw.line((x, GROUND, x, GROUND + 24 * FINE), LINE, LINE_WIDTH)
    draw_metres(draw, centre)
    draw.line((0, GROUND, WIDTH * FINE, GROUND), LINE, LINE_WIDTH)


def draw_metres(draw: ImageDraw.ImageDraw, centre: float) -> None:
    """The metres run so far, below the ground."""
    reach, font = WIDTH * FINE / 2 / METRE, ImageFont.load_default(13 * FINE)
    for metre in range(int(np.floor(centre - reach)), int(np.ceil(centre + reach)) + 1):
        x = (metre - centre) * METRE + WIDTH * FINE / 2
        text = f"{metre} m" if metre else "start"
        draw.text((x, GROUND + 28 * FINE), text, INK, font, anchor="mt")


@functools.cache
def backdrop(ground: int) -> Image.Image:
    """A hazy sky, and from the fine pixel row ``ground`` down bare soil."""
    column = np.linspace(SKY, HAZE, ground).astype(np.uint8)
    soil = np.tile(np.array(SOIL, np.uint8), (HEIGHT * FINE - ground, 1))
    column = np.concatenate([column, soil])
    return Image.fromarray(np.ascontiguousarray(column[:, None].repeat(WIDTH * FINE, 1)))


def limb(model: Any, body: int) -> int:
    """0 for the trunk, 1 and up for the limbs that hang on it; gives parts their colour."""
    trunk = model.body_rootid[body]
    while body != trunk and model.body_parentid[body] != trunk:
        body = int(model.body_parentid[body])
    if body == trunk:
        return 0
    siblings = np.flatnonzero(model.body_parentid == trunk)
    return 1 + int(np.searchsorted(siblings, body))
