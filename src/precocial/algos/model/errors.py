"""How well a model predicts, task by task, and the same over seeds."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from precocial.algos.model.acting import clipped
from precocial.algos.model.adapters import Adapter
from precocial.ops.returns import episode_index, time_in_episode
from precocial.statistics import TaskSample, as_json, bootstrap_interval
from precocial.types import EnvSpec, Rollout

SETTLED = 16
"""Transitions after which a model counts as adapted, when its error is measured; the same for every
method, so that they compare."""


class ModelErrors(NamedTuple):
    """Next-state error, in standard deviations of the state's change over a step."""

    unadapted: np.ndarray
    """(N,): root mean square over state, lanes and steps, by the model as an episode begins;
    NaN where no transition counts."""
    adapted: np.ndarray
    """(N,): of the very same steps, by the model as it had adapted until then."""
    since: Literal["start", "switch"]
    """What transitions are counted from: the episode's start, or the change of the world in it."""
    by_transitions: np.ndarray
    """(2, A): unadapted and adapted error after 0, 1, ... transitions; NaN where none was so."""

    @property
    def key(self) -> str:
        """Where ``eval`` puts the run's own."""
        return "model_error"

    @property
    def reference_key(self) -> str:
        """Where it puts those of references, on what the run met."""
        return "reference_errors"

    @staticmethod
    def summarise(errors: list[list[ModelErrors]], tasks: TaskSample) -> dict[str, Any]:
        """Next-state error before and after adapting, and what adapting takes off it.

        Means over the tasks on which every error is known, with bootstrap intervals over models,
        rollouts and tasks; None where there is nothing to count or nothing can be said.

        Args:
            errors: Of each model a list, on one rollout after the other, the same for all models;
                or of each on its own one alone.
            tasks: Of the evaluation; the errors are those of the first of them.
        """
        every = [error for of_model in errors for error in of_model]
        table = np.stack([(e.unadapted, e.adapted, e.unadapted - e.adapted) for e in every], 1)
        known = np.isfinite(table).all((0, 1))
        counted = tasks.select(slice(len(known))).select(known)
        table = table[..., known].reshape(3, len(errors), len(errors[0]), -1)
        out: dict[str, Any] = {}
        for name, values in zip(("unadapted", "adapted", "drop"), table, strict=True):
            some = bool(values.size)
            out[name] = float(values.mean()) if some else None
            interval = bootstrap_interval(values, counted, trim=False) if some else None
            out[f"{name}_ci95"] = as_json(interval)
            out[f"{name}_seeds"] = [float(x) for x in values.mean(-1).ravel()] if some else []
        curves = np.stack([e.by_transitions for e in every])  # (models * rollouts, 2, A)
        known = np.isfinite(curves).all((0, 1))
        unadapted, adapted = curves[..., known].mean(0)
        return out | {
            "by_transitions": {
                "since": every[0].since,
                "transitions": [int(age) for age in np.flatnonzero(known)],
                "unadapted": [float(x) for x in unadapted],
                "adapted": [float(x) for x in adapted],
            }
        }


@torch.no_grad()
def model_errors(
    fresh: Adapter, adapting: Adapter, rollout: Rollout, spec: EnvSpec, state_dim: int
) -> ModelErrors:
    """How well a model predicts what happened on each task, whoever acted.

    Counted are transitions of a lane's first episode after at least 16 others; where the world
    changed, after at least 16 of the new one.

    Args:
        fresh: The model on N*E lanes, as an episode begins; it never looks.
        adapting: The same, which looks at every transition.
        rollout: What was met.
        spec: Of the environment that was acted in: it says what the actions mean.
        state_dim: The first so many columns of an observation are predicted.
    """
    (num, lanes), steps = rollout.reward.shape[:2], rollout.reward.shape[2]
    # (N, E, T, ...) -> (N*E, T, ...)
    obs, next_obs = rollout.obs.flatten(0, 1), rollout.next_obs.flatten(0, 1)
    action = clipped(rollout.action, spec).flatten(0, 1)
    ended = (rollout.terminated | rollout.truncated).flatten(0, 1)
    scale = (next_obs - obs)[..., :state_dim].flatten(0, 1).std(0, correction=0)
    moves = scale > 1e-6  # what never changes has no unit
    errors = []
    for t in range(steps):
        now = obs[:, t], action[:, t]
        for model in (fresh, adapting):
            predicted = model.predict(*(x.unsqueeze(1) for x in now)).squeeze(1)
            wrong = (predicted - next_obs[:, t])[:, :state_dim][:, moves] / scale[moves]
            errors.append(wrong.square().mean(-1))
        adapting.observe(*now, next_obs[:, t], ended[:, t])
    error = torch.stack(errors, -1).unflatten(-1, (steps, 2))  # (N*E, T, 2)
    first = episode_index(ended) == 0
    if "info/diverged" in rollout.extra:
        first &= ~rollout.extra["info/diverged"].flatten(0, 1).bool()
    seen, asked = time_in_episode(ended), first
    since: Literal["start", "switch"] = "start"
    if "info/switched" in rollout.extra:
        since, asked = "switch", rollout.extra["info/switched"].flatten(0, 1).bool() & first
        seen = torch.where(asked, time_in_episode(ended | opens(asked)), seen)
    weight = (asked & (seen >= SETTLED)).to(error).unsqueeze(-1)
    total, count = (x.unflatten(0, (num, lanes)).sum((1, 2)) for x in (error * weight, weight))
    curve = [error[asked & (seen == age)].mean(0) for age in range(2 * SETTLED + 1)]
    unadapted, adapted = (total / count).sqrt().cpu().double().numpy().T
    by_age = torch.stack(curve, 1).sqrt().cpu().double().numpy()
    return ModelErrors(unadapted, adapted, since, by_age)


def opens(on: Bool[Tensor, "b t"]) -> Bool[Tensor, "b t"]:
    """True at the step before a stretch of ``on`` begins."""
    return torch.cat([~on[:, :-1] & on[:, 1:], torch.zeros_like(on[:, :1])], 1)
