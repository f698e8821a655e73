"""``precocial transfer``: runs that begin from a source, the same from scratch, and the measures.

Initialising is not resuming. Networks and the normaliser carry over; optimisers, schedules and
counters begin anew. Each run keeps the source in its folder, so it goes on when the source is gone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from precocial.algos.transfer.begin import begin
from precocial.algos.transfer.config import TransferConfig
from precocial.algos.transfer.surgery import Row
from precocial.evaluation.curve import adaptation_curve
from precocial.ops.params import depth
from precocial.runs import checkpoint
from precocial.runs.folder import (
    SOURCE,
    build_algorithm,
    build_env,
    create_folder,
    draw_tasks,
    load_algorithm,
    read_plan,
    require_fit,
)
from precocial.runs.jobs import run_all
from precocial.runs.plan import Plan, plan, with_overrides
from precocial.runs.rows import read_rows
from precocial.seeding import derive, generator
from precocial.stacking import is_stackable, run_stacked
from precocial.training import run
from precocial.transferring.measure import curve_of, measure
from precocial.transferring.source import Source, digest, read_sources
from precocial.types import TaskEnv, UserError

OWN_WAYS: dict[str, dict[str, Any]] = {"ppo": {"kickstart": 0.5, "critic_warmup": 2048}}
"""Where nothing was said, of a source whose policy is wanted whole: of what was tried on poles of
other lengths, good on all (docs/algorithms/transfer.md)."""

OWN_SETTINGS: dict[str, dict[str, Any]] = {
    "dqn": {"epsilon": 0.3}, "sac": {"learning_starts": 1000},
}  # fmt: skip
"""Settings of both sides where nothing was said: the control explores as much as the transfer."""


class Prepared(NamedTuple):
    """What is about to be run."""

    plans: list[tuple[Plan, Source]]
    """Of each seed, with the source that it begins from."""
    rows: list[Row]
    """What becomes of each layer."""
    notes: list[str]


def like_source(p: Plan, source: Source, given: Sequence[str]) -> Plan:
    """The plan with the source's sizes and what suits a transfer, but for what was ``given``."""
    p = with_overrides(p, {k: v for k, v in OWN_SETTINGS.get(p.algo, {}).items() if k not in given})
    known = p.algo_config.__dataclass_fields__
    found: dict[str, Any] = {}
    net = next((layers for layers in source["nets"].values() if "weight_0" in layers), None)
    if net is not None:
        hidden = range(depth(net) - 1)
        found["hidden"] = tuple(net[f"weight_{i}"].shape[1] for i in hidden)
    if source.get("dueling") is not None:
        found["dueling"] = source["dueling"]
    if source.get("activation"):
        found["activation"] = source["activation"]
    if "normaliser" in source["nets"]:
        found["normalize_obs"] = bool(float(source["nets"]["normaliser"]["count"]) > 0)
    found = {k: v for k, v in found.items() if k in known and k not in given}
    return with_overrides(p, found)


def prepare(
    sources: Sequence[Source], base: Plan, cfg: TransferConfig, seeds: int, *, given: Sequence[str]
) -> Prepared:
    """Plans of the runs, the plan of the surgery, and what is to be said of them.

    Raises:
        UserError: the source does not fit, in one line; nothing was written.
    """
    if base.run.stop_at is not None:
        raise UserError(
            f"--stop-at is {base.run.stop_at}; both sides are measured over the same steps, leave "
            "it out"
        )
    base = like_source(base, sources[0], given)
    base = require_fit(with_overrides(base, {"eval_first": True}))
    notes = []
    with closing(build_env(base)) as env:
        ways = ways_of(base, sources[0], cfg, env)
        begun = [begin(build_algorithm(base, env), ways, s) for s in sources[:seeds]]
        one = [
            (with_overrides(base, {"seed": base.run.seed + k}), sources[k % len(sources)])
            for k in range(seeds)
        ]
        if ways.kickstart and cfg.kickstart is None:
            scores = [_scores(p, source, ways, env) for p, source in one]
            good = [ours >= scratch for ours, scratch in scores]
            ours, scratch = (sum(x) / len(one) for x in zip(*scores, strict=True))
            note = f"before training the source scores {ours:.4g}, an untrained net {scratch:.4g}"
            if not all(good):
                whom = f"{good.count(False)} of {len(good)} seeds: below" if any(good) else "below"
                note += f"; no teacher for {whom} what is untrained"
            notes.append(note)
            one = [(p, s | {"teaches": ok}) for (p, s), ok in zip(one, good, strict=True)]
    return Prepared([(dataclasses.replace(p, transfer=ways), s) for p, s in one], begun[0], notes)


def ways_of(p: Plan, source: Source, cfg: TransferConfig, env: TaskEnv) -> TransferConfig:
    """The ways with what the algorithm has of its own where nothing was said."""
    own = OWN_WAYS.get(p.algo, {}) if _can_teach(source, env, cfg) else {}
    said = {k: v for k in ("kickstart", "critic_warmup") if (v := getattr(cfg, k)) is not None}
    return dataclasses.replace(cfg, **{"kickstart": 0.0, "critic_warmup": 0} | own | said)


def _can_teach(source: Source, env: TaskEnv, cfg: TransferConfig) -> bool:
    """Whether the source's policy has the same actions, and is wanted whole."""
    same = (source.get("action_kind"), source.get("action_dim")) in (
        (env.spec.action_kind, env.spec.action_dim), (None, None),
    )  # fmt: skip
    parts = cfg.reinit or cfg.only_layers or cfg.features_from is not None
    return same and not parts and "actor" in source["nets"]


def _scores(p: Plan, source: Source, cfg: TransferConfig, env: TaskEnv) -> tuple[float, float]:
    """Mean return on valid tasks before any training: from the source, and from scratch."""
    found = []
    tasks = draw_tasks(p, env, p.run.eval_tasks, "valid", generator(p.run.seed, "valid tasks"))
    for begun in (True, False):
        algorithm = build_algorithm(p, env)
        if begun:
            begin(algorithm, cfg, source)
        curve = adaptation_curve(
            algorithm, env, tasks, stages=1, lanes=p.algo_config.lanes,
            seed=derive(p.run.seed, "valid"), device=p.run.device,
        )  # fmt: skip
        found.append(float(curve.returns[:, 0].mean()))
    return found[0], found[1]


def start(
    prepared: Prepared, out: Path, *, scratch: bool, jobs: int, quiet: bool = False
) -> dict[Path, str]:
    """Make the folders that are missing, and train all to their ends; failures by folder."""
    groups: list[list[Path]] = []
    made: list[tuple[Path, Plan, Source | None]] = []
    for side in ("transfer", "scratch")[: 1 + scratch]:
        folders = []
        for p, source in prepared.plans:
            folder = out / side / f"seed-{p.run.seed}"
            mine = source if side == "transfer" else None
            p_side = p if mine is not None else dataclasses.replace(p, transfer=None)
            require_same(folder, p_side, mine)
            made.append((folder, p_side, mine))
            folders.append(folder)
        groups.append(folders)
    for folder, p, mine in made:
        if not folder.exists():
            create_folder(p, folder, overwrite=False, source=mine)
    failures: dict[Path, str] = {}
    for folders in groups:
        failures |= train(folders, prepared.plans[0][0], jobs=jobs, quiet=quiet)
    return failures


def require_same(folder: Path, p: Plan, source: Source | None) -> None:
    """Refuse a folder that holds something else.

    Raises:
        UserError: another run, or one that began from another source.
    """
    if not folder.exists():
        return
    same = read_plan(folder) == p
    if same and source is not None:
        same = checkpoint.load(folder / SOURCE)["sha256"] == source["sha256"]
    if not same:
        raise UserError(
            f"{folder} is a run with other settings or another source; choose another --out, or "
            "remove it"
        )


def train(folders: Sequence[Path], p: Plan, *, jobs: int, quiet: bool) -> dict[Path, str]:
    """All seeds of one side: as one program where that is possible, else in processes."""
    if len(folders) == 1:
        run(folders[0], quiet=quiet)
        return {}
    if is_stackable(p):
        return run_stacked(folders, quiet=quiet)
    return run_all(folders, jobs=jobs, quiet=quiet)


def judge(out: Path, threshold: float | None) -> dict[str, Any]:
    """Measure what lies in ``OUT/transfer`` and ``OUT/scratch``; kept in ``OUT/transfer.json``."""
    sides: dict[str, list[Path]] = {
        side: sorted((out / side).glob("seed-*"), key=lambda f: int(f.name.partition("-")[2]))
        for side in ("transfer", "scratch")
    }
    curves = {
        side: [curve_of(read_rows(folder / "metrics.jsonl")) for folder in folders]
        for side, folders in sides.items()
    }
    sources = [checkpoint.load(folder / SOURCE) for folder in sides["transfer"]]
    steps = [int(s["env_steps"]) for s in sources]
    p = read_plan(sides["transfer"][0])
    result: dict[str, Any] = {
        "algorithm": p.algo, "env": p.env, "kickstart": p.transfer.kickstart if p.transfer else 0,
        "teachers": sum(s.get("teaches", True) for s in sources),
        "source": [s["place"] for s in sources], "source_sha256": [s["sha256"] for s in sources],
        "source_env_steps": steps,
    }  # fmt: skip
    result |= measure(curves["transfer"], curves["scratch"], steps, threshold)
    result["forgetting"] = forgetting(sides["transfer"], sources)
    (out / "transfer.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def forgetting(folders: Sequence[Path], sources: Sequence[Source]) -> dict[str, Any] | None:
    """Return on the source's own task: of the source, and of what it became.

    None where the source is no run that is still there as it was, or the networks no longer fit its
    task.
    """
    before: list[float] = []
    after: list[float] = []
    for folder, source in zip(folders, sources, strict=True):
        ways = read_plan(folder).transfer
        place, which = Path(source["place"]), ways.checkpoint if ways else "best"
        path = place / "checkpoint" / f"{which}.safetensors"
        if not (path.is_file() and digest(path) == source["sha256"]):
            return None
        try:
            p, env, theirs, _ = load_algorithm(place, which)
        except UserError:  # its environment is not there any more, for one
            return None
        with closing(env):
            mine = load_algorithm(folder)
            mine[1].close()
            ours, spec = mine[2], mine[1].spec
            if any(
                getattr(spec, name) != getattr(env.spec, name)
                for name in ("obs_dim", "action_kind", "action_dim")
            ):
                return None
            tasks = draw_tasks(p, env, p.run.eval_tasks, "test", generator(0, "forgetting"))
            for algorithm, scores in ((theirs, before), (ours, after)):
                curve = adaptation_curve(
                    algorithm, env, tasks, stages=1, lanes=p.algo_config.lanes,
                    seed=derive(0, "forgetting"), device=p.run.device,
                )  # fmt: skip
                scores.append(float(curve.returns[:, 0].mean()))
    mean = sum(before) / len(before), sum(after) / len(after)
    return {"source": mean[0], "after": mean[1], "lost": mean[0] - mean[1]}


def transfer(
    source: str | Path,
    env: str,
    algo: str | None = None,
    *,
    preset: str = "default",
    seeds: int = 1,
    out: Path | str,
    scratch: bool = True,
    threshold: float | None = None,
    jobs: int = 1,
    quiet: bool = False,
    ways: TransferConfig | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Train from a source and from scratch, and return the measures (``OUT/transfer.json``).

    Args:
        source: Run folder (or a folder of ``seed-S`` runs), ``.safetensors`` file or
            ``module:callable``.
        env: Where to train.
        algo: By what; the source's own by default.
        preset: Named settings of algorithm and env.
        seeds: Number of runs on each side; seed S begins from source S, in turn.
        out: Folder of both sides.
        scratch: Also the same training without a source.
        threshold: Return whose time to be reached is measured.
        jobs: Runs at a time, where they cannot be stacked.
        quiet: No progress output.
        ways: What to take from the source, and what holds the run to it.
        overrides: Any setting, as for ``train``.

    Raises:
        UserError: the source does not fit, or a run failed.
    """
    cfg = ways or TransferConfig()
    sources = read_sources(str(source), cfg.checkpoint)
    base = plan(algo or own_algo(sources[0]), env, preset, **overrides)
    prepared = prepare(sources, base, cfg, seeds, given=list(overrides))
    failures = start(prepared, Path(out), scratch=scratch, jobs=jobs, quiet=quiet)
    if failures:
        raise UserError("; ".join(f"{folder}: {error}" for folder, error in failures.items()))
    return judge(Path(out), threshold)


def own_algo(source: Source) -> str:
    """The algorithm that trained the source.

    Raises:
        UserError: it is no run.
    """
    if not source["algo"]:
        raise UserError(f"source {source['place']} is no run folder; say --algo, e.g. --algo ppo")
    return str(source["algo"])
