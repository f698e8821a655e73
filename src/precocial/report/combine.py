"""Evaluations of single seeds on the same tasks, put together."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from precocial.report.evaluations import (
    Estimate,
    Evaluation,
    ModelError,
    Recovery,
    Stage,
    estimate,
    mean_interval,
    with_means,
)
from precocial.statistics import bootstrap_intervals, interquartile_mean


def combined(singles: list[Evaluation]) -> list[Evaluation]:
    """Evaluations of single seeds on the same tasks, put together."""
    alike: dict[tuple[Any, ...], list[Evaluation]] = {}
    for e in singles:
        alike.setdefault((e.kind, e.eval_seed, e.lanes, e.num_tasks, e.per_task.shape), []).append(
            e
        )
    combined = []
    for parts in alike.values():
        if len(parts) < 2:
            continue
        scores = np.stack([e.per_task for e in parts])  # (S, N, stages)
        per_task, seed_means = scores.mean(0), np.concatenate([e.seed_means for e in parts])
        num_tasks, sample = parts[0].num_tasks, parts[0].tasks
        stages = [
            replace(s, success=_mean([e.stages[k].success for e in parts]))
            for k, s in enumerate(parts[0].stages)
        ]
        if parts[0].by_episode:
            stages = with_means(stages, per_task, seed_means, num_tasks, sample)
        else:
            ends = bootstrap_intervals(scores, sample)
            stages = [
                Stage(s.stage, *estimate(interquartile_mean(scores[..., k]), ends[k]), s.success)
                for k, s in enumerate(stages)
            ]
        totals = mean_interval(per_task.sum(1), seed_means.sum(1), num_tasks, sample)
        combined.append(
            replace(
                parts[0],
                num_seeds=len(parts),
                stages=stages,
                per_task=per_task,
                seed_means=seed_means,
                success_rate=_mean([e.success_rate for e in parts]),
                trial=totals if all(e.trial for e in parts) else None,
                recovery=_pooled_recovery([e.recovery for e in parts if e.recovery]),
                model_error=_pooled_error([e.model_error for e in parts if e.model_error]),
                reference_errors={
                    name: error
                    for name in parts[0].reference_errors
                    if all(name in e.reference_errors for e in parts)
                    and (error := _pooled_error([e.reference_errors[name] for e in parts]))
                },
                references={k: v for e in parts[::-1] for k, v in e.references.items()},
                reference_curves={k: v for e in parts[::-1] for k, v in e.reference_curves.items()},
                outdated=False,
                files=tuple(path for e in parts for path in e.files),
            )
        )
    return combined


def _pooled_recovery(parts: list[Recovery]) -> Recovery | None:
    """What all seeds know, over seeds."""
    if not parts:
        return None
    start = [k for k in parts[0].start if all(k in part.start for part in parts)]
    rows = [[row for part in parts if (row := part.at(k))] for k in start]
    return Recovery(parts[0].every, start, [_pooled(row) for row in rows])


def _pooled_error(parts: list[ModelError]) -> ModelError | None:
    """The same of model errors; curves where all have one of the same length."""
    if not parts:
        return None
    alike = all(part.transitions == parts[0].transitions for part in parts)
    curves = [[p.unadapted_curve for p in parts], [p.adapted_curve for p in parts]]
    before, after = (np.mean(c, 0).tolist() if alike else [] for c in curves)
    return replace(
        parts[0],
        unadapted=_pooled([p.unadapted for p in parts]),
        adapted=_pooled([p.adapted for p in parts]),
        seeds=[pair for p in parts for pair in p.seeds],
        transitions=parts[0].transitions if alike else [],
        unadapted_curve=before,
        adapted_curve=after,
    )


def _pooled(parts: list[Estimate]) -> Estimate:
    """Mean of single seeds' means, with an interval over seeds and tasks.

    The seeds saw the same tasks, so the chance in drawing these does not average out over seeds.
    There is none where the tasks are all that there are, and single seeds have no interval.
    """
    means = np.array([mean for mean, *_ in parts])
    halves = np.array([(high - low) / 2 for _, low, high in parts])
    between = 0.0
    if len(means) > 1:
        between, halves = 1.96**2 * float(means.var(ddof=1)) / len(means), np.nan_to_num(halves)
    half = math.sqrt(float(np.square(halves).mean()) + between)
    mean = float(means.mean())
    return mean, mean - half, mean + half


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
