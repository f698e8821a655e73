"""How well a model predicts, task by task, and the same over seeds."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from precocial.statistics import TaskSample, as_json, bootstrap_interval


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
