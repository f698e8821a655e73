"""``precocial rank``: which of several sources to begin from, found out in short probes.

Every source is tried in two forms, as it is and with a new head: where a policy misleads, what was
learned below its head may still help. All are scored untrained. Then all are trained for a little
while beside scratch, the better half for longer, and so on: successive halving (Jamieson, Talwalkar
2016, https://arxiv.org/abs/1502.07943). Scratch stays to the end, as what there is to beat.

A score is the mean return of the best actions after the last round that a candidate was in. What an
untrained head scores is luck, and does not count.

Probes are ordinary run folders, ``OUT/SOURCE/FORM/seed-S``; ``OUT/rank.json`` has every return, so
the same command goes on with what was stopped.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from precocial.algos import ALGOS
from precocial.algos.transfer.begin import begin
from precocial.algos.transfer.config import TransferConfig
from precocial.algos.transfer.surgery import Row
from precocial.checks import at_least
from precocial.evaluation.curve import Curve, adaptation_curve, adaptation_curves, final_returns
from precocial.runs.folder import (
    build_algorithm,
    build_env,
    create_folder,
    draw_tasks,
    load_state,
    require_fit,
)
from precocial.runs.jobs import run_all
from precocial.runs.plan import Plan, plan, to_document, with_overrides
from precocial.runs.rows import read_rows
from precocial.seeding import derive, generator
from precocial.stacking import is_stackable, run_stacked
from precocial.transferring.features import EPISODES, feature_fits
from precocial.transferring.run import like_source, own_algo, ways_of
from precocial.transferring.source import Source, read_sources
from precocial.transferring.verdict import SCRATCH, Round, ranking, scores, verdict
from precocial.types import Algorithm, TaskEnv, UserError

FORMS = ("as it is", "new head")
OWN_EVALUATION = {"eval_every": 0, "eval_first": False}
"""Of probes in their runs: none, they are scored after each round."""
HEADED = ("actor", "q", "q_twin")
"""Networks whose last layer says what to do."""


@dataclasses.dataclass(frozen=True)
class RankConfig:
    """How much is tried."""

    seeds: int = 3
    """Probes of each candidate, --seed, --seed + 1, ...; of several runs of a source in turn.
    Scratch has twice as many, since all are measured by it."""
    budget: int = 40_000
    """Environment steps of training in all; every candidate has one iteration in any case."""
    episodes: int = 2
    """Valid tasks, or episodes of a single task, in an evaluation of a probe."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        at_least(self, 1, "seeds", "budget", "episodes")


class Candidate(NamedTuple):
    """A source in one of its forms, or scratch."""

    name: str
    source: str
    """As it was named; "" for scratch."""
    place: Path
    """Below OUT."""
    plans: list[Plan]
    """Of each seed."""
    sources: list[Source]
    """Of each seed; none for scratch."""


def candidates(
    texts: Sequence[str], base: Plan, cfg: TransferConfig, seeds: int, *, given: Sequence[str]
) -> tuple[list[Candidate], list[str]]:
    """All forms that can begin the target, scratch last; and what is to be said of the others.

    Raises:
        UserError: a source that can in no form, or two that are the same.
    """
    _require_budgeted(base)
    found: list[Candidate] = []
    notes: list[str] = []
    first: Plan | None = None
    for text, label in zip(texts, _labels(texts), strict=True):
        sources = read_sources(text, cfg.checkpoint)
        its = require_fit(with_overrides(like_source(base, sources[0], given), OWN_EVALUATION))
        first = first or its
        refused: list[UserError] = []
        known: list[list[Row]] = []
        with closing(build_env(its)) as env:
            heads = heads_of(build_algorithm(its, env), sources[0])
            for form in FORMS if heads else FORMS[:1]:
                reinit = cfg.reinit + (heads if form == "new head" else ())
                ways = ways_of(its, sources[0], dataclasses.replace(cfg, reinit=reinit), env)
                try:
                    begun = [begin(build_algorithm(its, env), ways, s) for s in sources[:seeds]]
                except UserError as error:
                    refused.append(error)
                    notes.append(f"{label}, {form}, is left out: {error}")
                    continue
                if begun[0] in known:
                    notes.append(f"{label}, {form}, is left out: it is the same as it is")
                    continue
                known.append(begun[0])
                plans = [dataclasses.replace(p, transfer=ways) for p in _of_seeds(its, seeds)]
                each = [sources[k % len(sources)] for k in range(seeds)]
                place = Path(label) / form.replace(" ", "-")
                found.append(Candidate(f"{label}, {form}", text, place, plans, each))
        if len(refused) == (2 if heads else 1):
            raise refused[0]
    assert first is not None
    return [*found, Candidate(SCRATCH, "", Path(SCRATCH), _of_seeds(first, 2 * seeds), [])], notes


def _require_budgeted(p: Plan) -> None:
    """Refuse what would end probes at another time than their round's.

    Raises:
        UserError: nothing is trained, or --env-steps or --stop-at is given.
    """
    if not ALGOS[p.algo].trains:
        raise UserError(f"{p.algo} is evaluated untrained; expected --algo that is trained, as ppo")
    for name, value in (("--env-steps", p.run.env_steps), ("--stop-at", p.run.stop_at)):
        if value:
            raise UserError(f"{name} is {value}; --budget says how long probes are trained")


def _decides(p: Plan) -> dict[str, Any]:
    """What decides a probe: not the commit, the machine, or how a file was at the time."""
    passing = ("precocial", "machine", "source")
    return {k: v for k, v in to_document(p).items() if k not in passing}


def _of_seeds(p: Plan, seeds: int) -> list[Plan]:
    return [with_overrides(p, {"seed": p.run.seed + k}) for k in range(seeds)]


def heads_of(algorithm: Any, source: Source) -> tuple[str, ...]:
    """Last layers of what the algorithm and the source have in common and that choose actions."""
    nets = algorithm.networks()
    return tuple(
        f"{net}.{sum(k.startswith('weight_') for k in nets[net]) - 1}"
        for net in HEADED
        if net in source["nets"] and "weight_0" in nets.get(net, {})
    )


def _labels(texts: Sequence[str]) -> list[str]:
    """Short names that tell the sources apart and can be folders: the ends of their paths."""
    if len({os.path.abspath(t) for t in texts}) < len(texts):
        raise UserError("a source was given twice; expected each once")
    whole = [os.path.normpath(t) for t in texts]
    whole = [os.path.abspath(t) if t.startswith(".") else t for t in whole]
    parts = [[w for w in re.split(r"[/\\]", t) if w] or [t] for t in whole]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["-".join(p[-depth:]).removesuffix(".safetensors") for p in parts]
        names = [re.sub(r"[^\w.-]+", "-", name) for name in names]
        if len({*names, SCRATCH, ""}) == len(names) + 2:
            return names
    return [f"source-{k}" for k in range(1, len(parts) + 1)]


def sizes_of(forms: int) -> list[int]:
    """How many sources' forms take part in each round."""
    sizes = [forms]
    while sizes[-1] > 2:
        sizes.append(-(-sizes[-1] // 2))
    return sizes


def allotment(sizes: Sequence[int], steps: int, seeds: int, budget: int) -> list[int]:
    """Iterations of training at the end of each round, doubling; fewer rounds where money is short.

    Args:
        sizes: Forms in each round; scratch is there, too, with twice the probes.
        steps: Environment steps of an iteration of one probe.
        seeds: Probes of each.
        budget: Environment steps of all.
    """
    for num in range(len(sizes), 0, -1):
        added = [1, *(2**r for r in range(num - 1))]
        cost = seeds * steps * sum((n + 2) * k for n, k in zip(sizes, added, strict=False))
        if cost <= budget or num == 1:
            return [max(1, budget // cost) * 2**r for r in range(num)]
    raise AssertionError


class Probes:
    """The probes of all candidates in ``OUT``.

    Args:
        found: Candidates, scratch last.
        cfg: How much is tried.
        out: Folder of the runs and of ``rank.json``.
        jobs: Runs at a time, where they cannot be stacked.
        quiet: No progress output.
        judge_teachers: Let no source teach that scores below scratch.
    """

    def __init__(
        self, found: Sequence[Candidate], cfg: RankConfig, out: Path, *, jobs: int, quiet: bool,
        judge_teachers: bool,
    ) -> None:  # fmt: skip
        self.found, self.cfg, self.out = {c.name: c for c in found}, cfg, out
        self.jobs, self.quiet, self.judge_teachers = jobs, quiet, judge_teachers
        self.rounds: list[Round] = []
        self.failed: dict[str, str] = {}
        self.features: dict[str, float] = {}
        settings = dataclasses.asdict(cfg) | {
            c.name: [_decides(c.plans[0]), *(s["sha256"] for s in c.sources)] for c in found
        }
        self.settings = json.loads(json.dumps(settings))

    def run(self) -> dict[str, Any]:
        """All rounds that are missing; what ``rank.json`` then holds."""
        self.take_up()
        everyone = list(self.found.values())
        if not self.rounds:
            returns, steps = self.score(everyone)
            self.features, more = self.fits()
            self.end_round(Round(0, returns, 0, steps + more))
        if len(self.rounds) == 1:  # how long an iteration is, is known when there was one
            self.train([c for c in everyone if not self.begun(c)], 1)
        plan = allotment(
            sizes_of(len(everyone) - 1), self.iteration_steps(), self.cfg.seeds, self.cfg.budget
        )
        while len(self.rounds) <= len(plan):
            iterations = plan[len(self.rounds) - 1]
            alive = self.train(self.alive(), iterations)
            returns, steps_taken = self.score(alive)
            trained = sum(self.steps_of(c, k)[1] for c in everyone for k in range(len(c.plans)))
            self.end_round(Round(iterations, returns, trained, steps_taken))
        return self.document()

    def alive(self) -> list[Candidate]:
        """Who takes part in the next round: all, or the better half of the last, and scratch."""
        names = [name for name in self.rounds[-1].returns if name not in (SCRATCH, *self.failed)]
        if len(self.rounds) > 1:
            names.sort(key=lambda name: -scores(self.rounds, name).mean())
            names = names[: -(-len(names) // 2)]
        return [self.found[name] for name in (*names, SCRATCH)]

    def train(self, some: Sequence[Candidate], iterations: int) -> list[Candidate]:
        """Let them have so many iterations; those that did not fail."""
        groups: dict[Any, list[Path]] = {}
        for c in some:
            for k, p in enumerate(c.plans):
                folder = self.folder(c, k)
                if not folder.exists():
                    create_folder(p, folder, overwrite=False, source=self.teaching(c, k))
                groups.setdefault(p.algo_config, []).append(folder)
        failures: dict[Path, str] = {}
        for folders in groups.values():
            if is_stackable(some[0].plans[0]):
                failures |= run_stacked(folders, iterations, quiet=self.quiet)
            else:
                failures |= run_all(
                    folders, jobs=self.jobs, iterations=iterations, quiet=self.quiet
                )
        for folder, error in failures.items():
            name = next(c.name for c in some if folder.is_relative_to(self.out / c.place))
            if name == SCRATCH:
                raise UserError(f"scratch failed, which all are measured by: {error}")
            self.failed[name] = error
        return [c for c in some if c.name not in self.failed]

    def begun(self, c: Candidate) -> bool:
        """Whether each probe has had an iteration."""
        return all(self.steps_of(c, k)[0] for k in range(len(c.plans)))

    def folder(self, c: Candidate, k: int) -> Path:
        """Of the probe of seed k."""
        return self.out / c.place / f"seed-{c.plans[k].run.seed}"

    def teaching(self, c: Candidate, k: int) -> Source | None:
        """The source of seed k, and whether it is to teach."""
        if not c.sources:
            return None
        ours, scratch = (np.mean(self.rounds[0].returns[name][k]) for name in (c.name, SCRATCH))
        return c.sources[k] | {"teaches": bool(ours >= scratch) or not self.judge_teachers}

    def iteration_steps(self) -> int:
        """Environment steps of the first iteration of scratch; others may have more or fewer.

        Raises:
            UserError: the probe was removed.
        """
        folder = self.folder(self.found[SCRATCH], 0)
        rows = read_rows(folder / "metrics.jsonl")
        steps = [int(row["env_steps"]) for row in rows if row["iteration"] == 0]
        if not steps:
            raise UserError(f"{folder} is not there any more; remove {self.out} and rank again")
        return steps[0]

    def steps_of(self, c: Candidate, k: int) -> tuple[int, int]:
        """Iterations and environment steps of the probe of seed k so far."""
        path = self.folder(c, k) / "metrics.jsonl"
        rows = read_rows(path) if path.is_file() else []
        return (int(rows[-1]["iteration"]) + 1, int(rows[-1]["env_steps"])) if rows else (0, 0)

    def score(self, some: Sequence[Candidate]) -> tuple[dict[str, list[list[float]]], int]:
        """Returns of each episode of each seed, by name, and the steps it took."""
        groups: dict[Any, list[tuple[Candidate, int]]] = {}
        for c in some:
            for k, p in enumerate(c.plans):
                groups.setdefault(p.algo_config, []).append((c, k))
        returns: dict[str, list[list[float]]] = {c.name: [] for c in some}
        steps = 0.0
        for pairs in groups.values():
            with closing(build_env(pairs[0][0].plans[0])) as env:
                curves = self.curves(pairs, env)
            for (c, _), curve in zip(pairs, curves, strict=True):
                returns[c.name].append(curve.returns.tolist())
                steps += curve.env_steps
        return returns, round(steps)

    def curves(self, pairs: Sequence[tuple[Candidate, int]], env: TaskEnv) -> list[Curve]:
        """Of probes of one setting; ``returns`` are (N,), those that count."""
        plans = [c.plans[k] for c, k in pairs]
        members: list[Any] = [self.member(c, k, env) for c, k in pairs]
        tasks = [
            draw_tasks(p, env, self.cfg.episodes, "valid", generator(p.run.seed, "valid tasks"))
            for p in plans
        ]
        one, seeds = members[0], [derive(p.run.seed, "valid") for p in plans]
        how: dict[str, Any] = {
            "stages": one.num_stages, "lanes": 1 if one.is_trial else plans[0].algo_config.lanes,
            "device": plans[0].run.device,
        }  # fmt: skip
        if is_stackable(plans[0]):
            curves = adaptation_curves(members, env, tasks, seeds=seeds, **how)
        else:
            curves = [
                adaptation_curve(m, env, its, seed=seed, **how)
                for m, its, seed in zip(members, tasks, seeds, strict=True)
            ]
        return [curve._replace(returns=final_returns(one, curve)) for curve in curves]

    def member(self, c: Candidate, k: int, env: TaskEnv) -> Algorithm:
        """The probe of seed k as it is now; untrained before the first round."""
        p = c.plans[k]
        algorithm = build_algorithm(p, env)
        if self.rounds:
            load_state(self.folder(c, k), algorithm, "last", p.run.device)
        elif p.transfer is not None:
            begin(algorithm, p.transfer, c.sources[k])
        return algorithm

    def take_up(self) -> None:
        """What ``rank.json`` holds of an earlier call.

        Raises:
            UserError: the folder holds something else.
        """
        path = self.out / "rank.json"
        if not path.is_file():
            own = "rank.json.partial"  # of an earlier call that was killed while it wrote
            if self.out.exists() and any(path.name != own for path in self.out.iterdir()):
                raise UserError(f"{self.out} is there and holds no ranking; choose another --out")
            return
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            settings, self.rounds = document["settings"], [Round(**r) for r in document["rounds"]]
            self.failed, self.features = document["failed"], document["features"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is unreadable; remove {self.out}") from error
        if settings != self.settings:
            raise UserError(
                f"{self.out} ranks other sources, or with other settings; choose another --out, "
                "or remove it"
            )

    def end_round(self, its: Round) -> None:
        """Keep it."""
        self.rounds.append(its)
        self.out.mkdir(parents=True, exist_ok=True)
        partial = self.out / "rank.json.partial"
        partial.write_text(json.dumps(self.document(), indent=1) + "\n", encoding="utf-8")
        partial.replace(self.out / "rank.json")

    def document(self) -> dict[str, Any]:
        """What is known so far, as ``rank.json`` has it."""
        p, order = self.found[SCRATCH].plans[0], ranking(self.rounds, self.failed)
        return {
            "algorithm": p.algo, "env": p.env, "seeds": self.cfg.seeds,
            "verdict": verdict(order),
            "ranking": [x | self.about(x["name"]) for x in order],
            "train_steps": self.rounds[-1].train_steps,
            "eval_steps": sum(r.eval_steps for r in self.rounds),
            "failed": self.failed, "features": self.features, "settings": self.settings,
            "rounds": [r._asdict() for r in self.rounds],
        }  # fmt: skip

    def about(self, name: str) -> dict[str, Any]:
        """What a candidate is, and what its features tell."""
        c = self.found[name]
        ways = c.plans[0].transfer
        return {
            "source": c.source, "reinit": list(ways.reinit) if ways else [],
            "feature_fit": self.features.get(name),
        }  # fmt: skip

    def fits(self) -> tuple[dict[str, float], int]:
        """``feature_fits`` of the probes of the first seed, and the steps it took."""
        p = self.found[SCRATCH].plans[0]
        with closing(build_env(p)) as env:
            members = {c.name: self.member(c, 0, env) for c in self.found.values()}
            tasks = draw_tasks(p, env, EPISODES, "valid", generator(p.run.seed, "valid tasks"))
            rng = generator(p.run.seed, "features", device=p.run.device)
            return feature_fits(members, env, tasks, members[SCRATCH], rng)


def rank(
    sources: Sequence[str | Path],
    env: str,
    algo: str | None = None,
    *,
    preset: str = "default",
    out: Path | str,
    seeds: int = RankConfig.seeds,
    budget: int = RankConfig.budget,
    episodes: int = RankConfig.episodes,
    jobs: int = 1,
    quiet: bool = False,
    ways: TransferConfig | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Which of the sources a run should begin from (``OUT/rank.json``).

    Args:
        sources: Run folders (or folders of ``seed-S`` runs), ``.safetensors`` files,
            ``module:callable``.
        env: Where to train.
        algo: By what; the first source's own by default.
        preset: Named settings of algorithm and env.
        out: Folder of the probes.
        seeds: Probes of each candidate.
        budget: Environment steps of training in all.
        episodes: Valid tasks, or episodes of a single task, in an evaluation of a probe.
        jobs: Runs at a time, where they cannot be stacked.
        quiet: No progress output.
        ways: What to take from every source, and what holds the runs to it.
        overrides: Any setting, as for ``train``.

    Raises:
        UserError: a source does not fit, or ``out`` holds something else.
    """
    ways, cfg = ways or TransferConfig(), RankConfig(seeds, budget, episodes)
    texts = [str(source) for source in sources]
    if algo is None:
        algo = own_algo(read_sources(texts[0], ways.checkpoint)[0])
    base = plan(algo, env, preset, **overrides)
    found, _ = candidates(texts, base, ways, cfg.seeds, given=list(overrides))
    return probe(found, cfg, ways, Path(out), jobs=jobs, quiet=quiet)


def probe(
    found: Sequence[Candidate], cfg: RankConfig, ways: TransferConfig, out: Path, *, jobs: int,
    quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Rank what ``candidates`` found; see ``rank``."""
    judge_teachers = ways.kickstart is None
    return Probes(found, cfg, out, jobs=jobs, quiet=quiet, judge_teachers=judge_teachers).run()
