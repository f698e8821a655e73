"""Bias and spread of every meta-gradient against exact ones, over episodes and tasks.

    python benchmarks/estimators.py --out benchmarks/results/estimators.json --page PAGE.html

Three small MDPs (4 states, 3 actions, horizon 5, rate 1), whose expected return under a policy is a
product of matrices, so that the gradient of J(theta + alpha grad J(theta)) is exact. What is
estimated is the inner step, from E sampled episodes with the true value as a baseline; the return
after it is exact, or, for E-MAML, its gradient and the credit of what was sampled. Printed for each
estimator and E: the norm of the mean's error over that of the exact gradient, with the standard
error of that mean, and the root mean square of an estimate's own deviation. With M tasks a batch
both the noise of a bias and the spread are 1 / sqrt(M) of these.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from plotly.colors import DEFAULT_PLOTLY_COLORS
from plotly.subplots import make_subplots
from torch import Tensor

from precocial.ops.losses import dice_loss, likelihood_ratio_loss, policy_gradient_loss

STATES, ACTIONS, HORIZON, RATE = 4, 3, 5, 1.0
NAMES = (
    "first order", "log-likelihood", "likelihood-ratio", "dice, no baseline", "dice",
    "loaded-dice", "e-maml",
)  # fmt: skip


class MDP:
    """Random transitions and rewards; the start is state 0."""

    def __init__(self, seed: int) -> None:
        g = torch.Generator().manual_seed(seed)
        chance = torch.rand(STATES, ACTIONS, STATES, generator=g) ** 3
        self.chance = chance / chance.sum(-1, keepdim=True)
        self.reward = torch.randn(STATES, ACTIONS, generator=g)

    def values(self, theta: Tensor) -> Tensor:
        """Expected reward to go from each state, with HORIZON, ..., 1 steps left, (..., T, S)."""
        policy = theta.softmax(-1)
        value, out = torch.zeros(theta.shape[:-1]), []
        for _ in range(HORIZON):
            following = torch.einsum("saz,...z->...sa", self.chance, value)
            value = (policy * (self.reward + following)).sum(-1)
            out.append(value)
        return torch.stack(out[::-1], -2)

    def gain(self, theta: Tensor) -> Tensor:
        """Expected return."""
        return self.values(theta)[..., 0, 0]

    def after(self, theta: Tensor) -> Tensor:
        """Expected return after an exact inner step."""
        [g] = torch.autograd.grad(self.gain(theta), theta, create_graph=True)
        return self.gain(theta + RATE * g)

    def episodes(self, theta: Tensor, shape: tuple[int, int], rng: torch.Generator):
        """States and actions, each (N, E, T)."""
        policy = theta.detach().softmax(-1)
        state, states, actions = torch.zeros(shape, dtype=torch.long), [], []
        for _ in range(HORIZON):
            action = draw(policy[state], rng)
            states.append(state)
            actions.append(action)
            state = draw(self.chance[state, action], rng)
        return torch.stack(states, -1), torch.stack(actions, -1)


def draw(chance: Tensor, rng: torch.Generator) -> Tensor:
    """From categorical distributions."""
    flat = torch.multinomial(chance.flatten(0, -2), 1, generator=rng)
    return flat.view(chance.shape[:-1])


def estimates(name: str, mdp: MDP, theta: Tensor, shape: tuple[int, int], rng) -> Tensor:
    """Meta-gradients of N independent tasks of E episodes each, (N, S A)."""
    n = shape[0]
    states, actions = mdp.episodes(theta, shape, rng)
    reward = mdp.reward[states, actions]
    value = mdp.values(theta.detach())[torch.arange(HORIZON), states]
    to_go = reward.flip(-1).cumsum(-1).flip(-1)
    first = torch.zeros_like(reward)
    first[..., 0] = 1
    # A leaf for every task, so that one backward pass gives each its own gradient.
    start = theta.detach().expand(n, -1, -1).clone().requires_grad_()
    lp = start.log_softmax(-1)[torch.arange(n)[:, None, None], states, actions]
    flat = (x.flatten(1) for x in (lp, lp.detach(), to_go - value))
    now, then, advantage = flat
    if name == "likelihood-ratio":
        loss = likelihood_ratio_loss(now, then, advantage)
    elif "dice" in name:
        baseline = value * (name != "dice, no baseline")
        one = torch.ones(n, 1, 1)
        loss = dice_loss(
            lp, lp.detach(), reward, baseline, first, 1.0, one, all_orders=name == "loaded-dice"
        )
    else:
        loss = policy_gradient_loss(now, advantage)
    # Losses are means over steps, the objective is a sum over the steps of an episode.
    [g] = torch.autograd.grad(-HORIZON * loss.sum(), start, create_graph=name != "first order")
    phi = start + RATE * g
    gains = mdp.gain(phi)
    if name == "e-maml":
        # What was sampled decides phi: its chance is part of the objective (Stadie et al. 2018).
        credit = (gains - gains.mean()).detach() * lp.flatten(1).sum(1)
        gains = gains + credit * n / (n - 1)
    [meta] = torch.autograd.grad(gains.sum(), start)
    return meta.flatten(1)


def measure(name: str, lanes: int, tasks: int) -> dict[str, float]:
    """Relative bias, its noise and the spread, means over the MDPs."""
    rows = []
    for seed in range(3):
        mdp, rng = MDP(seed), torch.Generator().manual_seed(1000 + seed)
        theta = torch.randn(STATES, ACTIONS, generator=rng).mul_(0.5).requires_grad_()
        [exact] = torch.autograd.grad(mdp.after(theta), theta)
        found = torch.cat([
            estimates(name, mdp, theta, (100, lanes), rng) for _ in range(tasks // 100)
        ])  # fmt: skip
        size, spread = exact.norm(), found.std(0).norm()
        bias = (found.mean(0) - exact.flatten()).norm()
        rows.append([float(x / size) for x in (bias, spread / tasks**0.5, spread)])
    mean = torch.tensor(rows).mean(0).tolist()
    return dict(zip(("bias", "noise", "spread"), mean, strict=True))


def main() -> None:
    """Measure, print, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", type=int, default=20_000, help="samples of each meta-gradient")
    parser.add_argument("--episodes", type=int, nargs="+", default=[5, 20, 100])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", type=Path, help="where to draw it, bias and spread over E")
    args = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    found: dict[str, dict[int, dict[str, float]]] = {}
    print(f"{'':18}" + "".join(f"  E {e:<4} bias (noise)  spread" for e in args.episodes))
    for name in NAMES:
        found[name] = {e: measure(name, e, args.tasks) for e in args.episodes}
        cells = "".join(
            f"  {v['bias']:11.3f} ({v['noise']:.3f})  {v['spread']:6.2f}"
            for v in found[name].values()
        )
        print(f"{name:18}{cells}", flush=True)
    if args.out:
        args.out.write_text(json.dumps({"tasks": args.tasks, "estimators": found}, indent=1) + "\n")
    if args.page:
        draw_page(found, args.page)


def draw_page(found: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    """Bias, with its noise as a bar, and spread."""
    fig = make_subplots(1, 2, subplot_titles=("bias / exact gradient", "spread / exact gradient"))
    for i, (name, by_lanes) in enumerate(found.items()):
        x, rows = list(by_lanes), list(by_lanes.values())
        line = {"color": DEFAULT_PLOTLY_COLORS[i]}
        noise = {"type": "data", "array": [r["noise"] for r in rows]}
        fig.add_scatter(
            x=x, y=[r["bias"] for r in rows], error_y=noise, name=name, line=line, row=1, col=1
        )
        fig.add_scatter(
            x=x, y=[r["spread"] for r in rows], name=name, line=line, showlegend=False,
            row=1, col=2,
        )  # fmt: skip
    ticks = next(iter(found.values()))
    fig.update_xaxes(type="log", title="episodes of the inner step (E)", tickvals=list(ticks))
    fig.update_yaxes(type="log", dtick=1)
    fig.update_layout(template="plotly_white", width=960, height=420, margin={"t": 40})
    fig.write_html(path, config={"displayModeBar": False})


if __name__ == "__main__":
    main()
