"""What the words of the page mean; of all there are those that it uses."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from precocial.report.runs import Group

KNOWN_METHODS = {
    "random": "Actions drawn uniformly.",
    "greedy": "Always the arm that has paid best so far.",
    "UCB1": "The arm of the highest upper confidence bound.",
    "Thompson": "Pulls the best arm of a bandit drawn anew from the exact posterior every time.",
    "Gittins": "The arm of the highest Gittins index for the pulls that are left; close to the "
    "optimum.",
    "best arm": "Knows which arm is best.",
    "PSRL": "Posterior sampling: plans each episode for an MDP drawn from the exact posterior.",
    "value iteration": "Knows the MDP and plans in it.",
    "posterior sampling": "Acts in each episode as if a task drawn from the exact posterior were "
    "the true one.",
    "best known search": "Visits the places where the goal may be in the best order known, and "
    "goes straight to it once it is found.",
    "known goal": "Knows the goal and goes straight to it.",
    "shortest path": "Knows the goal and goes straight to it.",
    "known map": "Knows where the holes are.",
    "known corner": "Knows the corner and goes straight to it.",
    "always one corner": "Goes to the same corner on every task.",
    "planner": "Knows all but the holes, avoids those it fell into; after as many episodes, one "
    "after the other.",
    "one-shot": "Learns all there is from the first choice.",
    "exact belief": "Acts greedily on the exact posterior.",
    "informed": "Is told the state of the world before every episode.",
}
"""What families compare with, see their ``references``."""


def glossary(groups: Sequence[Group]) -> str:
    """``How to read this``, a list of words and meanings."""
    evaluations = [e for g in groups for e in g.evaluations]
    references = {k for e in evaluations for k in (*e.references, *e.reference_curves)}
    references |= {g.algo for g in groups}
    units = {g.unit for g in groups}
    words: dict[str, str] = {}
    if "update" in units:
        words |= {
            "return": "Sum of rewards over an episode, not discounted; for each task the mean over "
            "the first whole episode of all its parallel episodes.",
            "before adapting": "The meta-trained policy on a task it knows nothing about.",
            "after k updates": "The policy after k learning steps, each from fresh episodes of "
            "that task alone.",
            "gain": "Return after the last stage less return before adapting.",
            "interquartile mean": "Mean of the middle half of all (seed, task) returns; a few "
            "lucky or failed ones do not decide it.",
            "95 % interval": "Percentile bootstrap of the interquartile mean: seeds are drawn "
            "again, and tasks once for all of them; with one seed, tasks only. Tasks that are all "
            "there are stay, so that a single seed has no interval. Over three seeds it is too "
            "narrow where seeds differ most.",
        }
    if "episode" in units:
        episodes = [e for e in evaluations if e.by_episode]
        single = bool(episodes) and all(len(e.stages) == 1 for e in episodes)
        words |= _words_of_trials(alone=len(units) == 1, single=single)
    elif any(e.trial for e in evaluations):
        words["whole trial"] = "Sum over all stages of a trial, mean over tasks."
    if any(e.recovery for e in evaluations):
        words["the change"] = (
            "The step of an episode at which the world becomes another without a word; what the "
            "method knew until then is wrong from there."
        )
    if any(e.model_error for e in evaluations):
        words |= {
            "model error": "Root mean square error of the predicted next state, in standard "
            "deviations of the state's change over a step.",
            "unadapted, adapted": "The model as it starts an episode, and as the last transitions "
            "of the episode have changed it.",
        }
    meanings = {
        "oracle": "A policy that is told the task; what adapting could reach at best.",
        "multi-task": "One policy trained on all tasks and blind to which one it faces; what can "
        "be had without adapting.",
        "scratch": "An untrained policy, adapted in the same way.",
        "domain-randomization": "One policy trained on all tasks that forgets everything at the "
        "end of an episode; what can be had without adapting.",
        "belief-oracle": "A policy that is given the exact posterior over tasks instead of a "
        "memory.",
        "optimum": "The best expected return that the family itself knows of, of a whole trial "
        "where stages form one; a mean over tasks.",
    }
    words |= {k: v for k, v in (meanings | KNOWN_METHODS).items() if k in references}
    if any(e.split == "shifted" for e in evaluations):
        words["shifted tasks"] = "Tasks beyond the range that training drew from."
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in words.items())
    return f'<h2>How to read this</h2>\n<div class="card"><dl>{items}</dl></div>'


def _words_of_trials(*, alone: bool, single: bool) -> dict[str, str]:
    """What is meant where a stage is an episode.

    Args:
        alone: And nowhere an update.
        single: And a trial is one episode everywhere.
    """
    words = {
        "trial": "Several episodes on one task without a break. The agent starts it knowing "
        "nothing of the task and remembers what it did and saw; where it learns by a memory, "
        "nothing in its network changes.",
        "episode k": "The k-th episode of a trial: what the agent has learned in k - 1 episodes.",
        "whole trial": "Sum of the returns of all episodes of a trial, so exploring costs what it "
        "costs; mean over tasks.",
    }
    if single:
        words = {
            "an episode": "Its task is new to the agent, which adapts while it acts: what it does "
            "at a step rests on what it has seen until then."
        }
    if alone:
        words["return"] = (
            "Sum of rewards over an episode, not discounted; for each task the mean over its "
            f"parallel {'episodes' if single else 'trials'}."
        )
        if not single:
            words["gain"] = "Mean return of the last episode less that of the first."
        words["95 % interval"] = (
            "Of the mean, over tasks and seeds; with one seed, over tasks only. Bootstrap"
            + (
                "; normal approximation where seeds were evaluated one by one."
                if single
                else " for totals, normal approximation for single episodes."
            )
        )
    else:
        words["mean and interval of an episode"] = (
            "Where a stage is an episode, returns are plain means, since they may be 0 or 1; the "
            "interval is that of the mean."
        )
    return words
