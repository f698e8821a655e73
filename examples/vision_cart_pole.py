"""Balance a pole that is only seen: on features of a network that was trained on photographs.

    cd examples
    pip install "precocial[vision]"
    precocial train ppo --env vision_cart_pole:Pretrained
    python vision_cart_pole.py --steps 40000      # the three beside each other

Each environment is an ordinary ``gymnasium.Env``, CartPole-v1 with its pictures for observations.
There is a single task, so ``sample_tasks`` is left out.
"""

from __future__ import annotations

import argparse
import functools
import time
from typing import Any

import gymnasium
import numpy as np
import torch
from PIL import Image

import precocial
from precocial.bridges.backbone import SIDE, Backbone

RAW = 24
"""Pixels a side of the pictures that are read as they are."""
REACHES = (0.3, 2.4)
"""Metres from the middle: where play is at first, and where it may go."""
SETTINGS: dict[str, Any] = {
    "lanes": 8, "rollout_steps": 0, "rounds": 1, "epochs": 4, "minibatch_size": 64, "lr": 5e-4,
    "activation": "relu",
}  # fmt: skip
"""Whole episodes: an environment of one's own begins anew with every iteration."""


@functools.cache
def backbone(trained: bool) -> Backbone:
    """One for all copies of an environment."""
    return Backbone() if trained else Backbone(torch.Generator().manual_seed(0))


class Seen(gymnasium.Env):
    """CartPole-v1 by what ``features`` makes of its pictures.

    Observation: the features of the latest picture less their mean, and by how much each has
    changed since the one before, which is how motion shows; both over one deviation for all columns
    together. (Each over its own would make the loudest what hardly ever varies.) Action, reward,
    start and end: CartPole-v1's, but for the time limit of 200 steps.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012
    max_episode_steps = 200

    def __init__(self, render_mode: str | None = None) -> None:
        self.env = gymnasium.make(
            "CartPole-v1", render_mode="rgb_array", max_episode_steps=self.max_episode_steps
        )
        self.mean, self.spread, self.spread_of_changes = scale(type(self))
        size = 2 * len(self.mean)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = self.env.action_space
        self.render_mode = render_mode

    @staticmethod
    def features(picture: np.ndarray) -> np.ndarray:
        """Numbers (F,) of a picture (H, W, 3), bytes."""
        raise NotImplementedError

    def render(self) -> np.ndarray:
        """What CartPole draws, (400, 600, 3)."""
        return self.env.render()

    def look(self) -> np.ndarray:
        """Features of what is drawn now."""
        return self.features(self.render())

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Nothing has moved yet."""
        super().reset(seed=seed)
        _, info = self.env.reset(seed=int(self.np_random.integers(2**31 - 1)))
        self.latest = self.look()
        return self.observe(self.latest), info

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One picture on."""
        _, reward, terminated, truncated, info = self.env.step(action)
        before, self.latest = self.latest, self.look()
        return self.observe(before), float(reward), terminated, truncated, info

    def observe(self, before: np.ndarray) -> np.ndarray:
        """The latest features and their changes."""
        place = (self.latest - self.mean) / self.spread
        return np.concatenate([place, (self.latest - before) / self.spread_of_changes])

    def close(self) -> None:
        """Its window, too."""
        self.env.close()


@functools.cache
def scale(kind: type[Seen]) -> tuple[np.ndarray, np.float32, np.float32]:
    """Of 200 pictures of random play: mean of each feature, deviation of all, and of changes."""
    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    rng, rows, changes = np.random.default_rng(0), [], []
    while len(rows) < 200:
        env.reset(seed=len(rows))
        ended = False
        rows.append(kind.features(env.render()))
        while not ended:
            ended = env.step(int(rng.integers(2)))[2]
            rows.append(kind.features(env.render()))
            changes.append(rows[-1] - rows[-2])
    env.close()
    mean = np.mean(rows, 0)
    return mean, np.std(rows - mean), np.std(changes)


def shrunk(picture: np.ndarray, side: int) -> np.ndarray:
    """Averages of what falls into each pixel, (side, side, 3)."""
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BOX))


class Pretrained(Seen):
    """On 1280 features of a network that was trained on photographs."""

    @staticmethod
    def features(picture: np.ndarray) -> np.ndarray:
        """Channels of the last layer, averaged over the picture."""
        return backbone(trained=True)(shrunk(picture, SIDE)[None])[0].numpy()


class Untrained(Seen):
    """On the same network's with random weights."""

    @staticmethod
    def features(picture: np.ndarray) -> np.ndarray:
        """Channels of the last layer, averaged over the picture."""
        return backbone(trained=False)(shrunk(picture, SIDE)[None])[0].numpy()


class Pixels(Seen):
    """On 576 pixels, grey, 0 to 1."""

    @staticmethod
    def features(picture: np.ndarray) -> np.ndarray:
        """All of them in a row."""
        return (shrunk(picture, RAW).mean(-1) / 255).astype(np.float32).ravel()


# ---- what the features know, and what they cost ----------------------------------------------


def r_squared(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Share of the variance of each column of y that ridge regression on x explains, held out.

    Its penalty is, for each column, that with the least error when each training picture is left
    out in turn (lambda I, among twelve powers of ten, x with a deviation of 1 in all).
    """
    (x, y), (unseen, truth) = train, test
    mean, middle = x.mean(0), y.mean(0)
    spread = (x - mean).std()
    x, unseen, y = (x - mean) / spread, (unseen - mean) / spread, y - middle
    inverses = [np.linalg.inv(x @ x.T + p * np.eye(len(x))) for p in 10.0 ** np.arange(-6, 6)]
    duals = np.array([inverse @ y for inverse in inverses])  # (penalty, picture, column)
    errors = np.array([d / np.diag(i)[:, None] for d, i in zip(duals, inverses, strict=True)])
    best = np.square(errors).sum(1).argmin(0)
    dual = np.stack([duals[p, :, column] for column, p in enumerate(best)], -1)
    off = truth - middle - unseen @ (x.T @ dual)
    return 1 - np.square(off).sum(0) / np.square(truth - truth.mean(0)).sum(0)


def probe(kind: type[Seen], reach: float) -> tuple[np.ndarray, float]:
    """R2 of the cart's place and of the pole's angle; CPU ms a frame, drawing it included.

    600 pictures, 200 of them held out: the cart within ``reach`` metres of the middle, the pole at
    any angle short of the end.
    """
    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    env.reset(seed=0)
    places = np.random.default_rng(0).uniform(-1, 1, (600, 2)) * (reach, 0.2095)  # metres, radians
    rows = []
    start = time.process_time()
    for place, angle in places:
        env.unwrapped.state = (place, 0.0, angle, 0.0)
        rows.append(kind.features(env.render()))
    each = 1e3 * (time.process_time() - start) / len(rows)
    env.close()
    x = np.array(rows, np.float64)
    return r_squared((x[:400], places[:400]), (x[400:], places[400:])), each


def main() -> None:
    kinds = {kind.__name__: kind for kind in (Pretrained, Untrained, Pixels)}
    parser = argparse.ArgumentParser(description="CartPole by its pictures.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(kinds)}; default all")
    parser.add_argument("--steps", type=int, default=40_000, help="training steps of each; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if unknown := set(args.names) - kinds.keys():
        parser.error(f"there is no {', '.join(unknown)}; expected {', '.join(kinds)}")
    names = args.names or list(kinds)
    print("features    |x| up to    R2 of x    of angle    CPU ms a frame")
    for name in names:
        for reach in REACHES:
            (place, angle), each = probe(kinds[name], reach)
            row = f"{name:10}  {reach:7.1f} m  {place:9.2f}  {angle:10.2f}  {each:16.1f}"
            print(row, flush=True)
    if not args.steps:
        return
    print(f"\nfeatures    return after {args.steps} steps    CPU seconds")
    for name in names:
        start = time.process_time()
        run = precocial.train(
            "ppo", f"vision_cart_pole:{name}", env_steps=args.steps, seed=args.seed, eval_every=0,
            out=f"runs/vision-{name.lower()}-{args.seed}", quiet=True, **SETTINGS,
        )  # fmt: skip
        seconds = time.process_time() - start
        result = precocial.evaluate(run, tasks=1, lanes=20)["stages"][0]["return_mean"]
        print(f"{name:10}  {result:24.1f}  {seconds:14.0f}", flush=True)


if __name__ == "__main__":
    main()
