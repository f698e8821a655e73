"""The command line. Parses, wires, calls; no mathematics."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal, TextIO

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from precocial import signals
from precocial.checks import at_least
from precocial.errors import UserError
from precocial.flags import flat, parse

COMMANDS = {
    "train": "train an algorithm on a family of tasks: precocial train maml --env point-nav",
    "transfer": "start from a source, beside scratch: precocial transfer RUN --env CartPole-v1",
    "rank": "which source to begin from, by short probes: precocial rank RUN RUN --env CartPole-v1",
    "import": "a run folder from an SB3 zip: precocial import model.zip --env CartPole-v1",
    "export": "a policy for others: precocial export RUN --to onnx --out policy.onnx",
    "eval": "the adaptation curve on unseen tasks: precocial eval runs/maml-point-nav-0",
    "report": "one HTML page from run folders: precocial report runs/* --out report.html",
    "watch": "an animation of a run adapting to one task: precocial watch RUN --out film.gif",
    "list": "every algorithm and family: precocial list [algos|envs] [--json]",
    "check-env": "what is wrong with your environment: precocial check-env my_module:MyEnv",
}


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    0, 1 problems found, 2 wrong input, 130 Ctrl-C, 143 SIGTERM. Without ``argv`` this process is
    the program, whose standard output is closed to everyone else for good.
    """
    args = sys.argv[1:] if argv is None else argv
    try:
        with results_alone(args, whole_process=argv is None), stopped_by_sigterm():
            return dispatch(args)
    except UserError as error:
        print(f"precocial: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output went away, e.g. `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"precocial: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 2
    except signals.Terminated:
        print("precocial: stopped by SIGTERM", file=sys.stderr)
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print("precocial: stopped by Ctrl-C", file=sys.stderr)
        return 130


_results: TextIO | None = None
"""Where results go while a command runs; None is standard output."""


def say(text: object) -> None:
    """Write a result."""
    print(text, file=_results)


@contextmanager
def results_alone(args: list[str], *, whole_process: bool) -> Iterator[None]:
    """Write results to standard output, and what anyone else prints to standard error.

    Environments print, and so do processes that they start, even when all else has ended. With
    ``whole_process`` that holds for the file descriptor, too, and for the rest of the process.
    """
    global _results
    if {"-h", "--help"} & set(args) or not sys.stdout:  # the help is the result
        yield
        return
    shown = sys.stdout
    if whole_process:
        shown.flush()
        _results = open(os.dup(1), "w", 1, shown.encoding, shown.errors)  # noqa: SIM115
        os.dup2(2, 1)
    else:
        _results = shown
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if whole_process:
            with suppress(BrokenPipeError):
                _results.close()
        _results = None


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Raise ``Terminated`` when asked to stop, so that what is open is saved and closed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signals.stop_by(signal.SIGTERM, signals.Terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def dispatch(args: list[str]) -> int:
    """Find the command and hand over."""
    if not args or args[0] in ("-h", "--help"):
        say("usage: precocial COMMAND ...      precocial COMMAND --help for its flags\n")
        say("\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items()))
        return 0
    if args[0] == "--version":
        import precocial

        say(precocial.__version__)
        return 0
    handlers = {
        "train": train, "transfer": transfer, "rank": rank, "import": bring_in, "export": hand_out,
        "eval": evaluate,
        "report": report, "watch": watch, "list": list_all, "check-env": check_env, "job": job,
    }  # fmt: skip
    if args[0] not in handlers:
        close = get_close_matches(args[0], list(COMMANDS), n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else f"try {', '.join(COMMANDS)}"
        raise UserError(f"unknown command {args[0]!r}; {hint}")
    return handlers[args[0]](args[1:])


# ---- train --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a run goes."""

    env: str = "point-nav"
    """Registered family, Gymnasium id, or module:Class of your own (see check-env)."""
    preset: str = "default"
    """Named settings for this algorithm and family; explicit flags override them."""
    out: Path | None = None
    """Run folder; default runs/ALGO-ENV-SEED."""
    seeds: int = 1
    """Train this many seeds, --seed, --seed + 1, ..., into OUT/seed-S."""
    jobs: int = 1
    """How many seeds to train at once, each in a process of its own."""
    stacked: bool = False
    """Train all seeds in this process as one batched program (plain methods, tensor families)."""
    overwrite: bool = False
    """Replace an existing run folder."""


@dataclass(frozen=True)
class Resume:
    """Continue a run exactly where it stopped."""

    resume: Path
    """Run folder, or a folder of seed-S runs."""
    iterations: int | None = None
    """Go on to this many outer iterations, past the run's end if larger."""
    jobs: int = 1
    """How many runs to train at once."""
    stacked: bool = False
    """Train all of them in this process as one batched program."""


def train(args: list[str]) -> int:
    """``precocial train``."""
    from precocial.runs.folder import create_folder, require_fit
    from precocial.runs.plan import plan, with_overrides
    from precocial.stacking import require_stackable

    if any(a.split("=")[0] == "--resume" for a in args):
        return resume(args[1:] if _is_algo(args[0]) else args)
    if not args or args[0].startswith("-"):
        from precocial.algos import ALGOS

        usage = f"usage: precocial train ALGO --env ENV [flags]; ALGO is one of {', '.join(ALGOS)}"
        if {"-h", "--help"} & set(args):
            print(f"{usage}\nprecocial train ALGO --env ENV --help shows every flag of the pair")
            return 0
        raise UserError(f"no algorithm given; {usage}")
    algo, rest = args[0], args[1:]
    place = Place(
        env=_value_of(rest, "--env", Place.env), preset=_value_of(rest, "--preset", Place.preset)
    )
    base = plan(algo, place.env, place.preset)
    cls = flat(
        "Train", f"Train {algo} on {place.env}. Defaults are those of preset {place.preset}.",
        [("", place), ("", base.run), ("", base.algo_config), ("env_", base.env_config)],
    )  # fmt: skip
    flags = vars(parse(cls, _aliases(rest), f"precocial train {algo}"))
    if not any(a.split("=")[0] == "--iterations" for a in rest) and flags["env_steps"]:
        flags.pop("iterations")  # --env-steps alone ends the run
    where = {k: flags.pop(k) for k in Place.__dataclass_fields__}
    chosen = with_overrides(base, flags)
    for name in ("seeds", "jobs"):
        if where[name] < 1:
            raise UserError(f"--{name} is {where[name]}; expected 1 or more")
    if where["stacked"] and where["jobs"] > 1:
        raise UserError("--stacked trains in one process; leave --jobs out")
    chosen = require_fit(chosen)
    if where["stacked"]:
        require_stackable(chosen)
    folders = []
    for k in range(where["seeds"]):
        one = with_overrides(chosen, {"seed": chosen.run.seed + k})
        folder = where["out"] or one.folder
        if where["seeds"] > 1:
            parent = where["out"] or one.folder.with_name(one.folder.name.rpartition("-")[0])
            folder = parent / f"seed-{one.run.seed}"
        folders.append((one, folder))
    for one, folder in folders:
        if folder.exists() and not where["overwrite"]:
            create_folder(one, folder, overwrite=False)  # explains what to do
    for one, folder in folders:  # all of them first, so that --resume finds every seed
        create_folder(one, folder, overwrite=where["overwrite"])
    out = folders[0][1].parent if where["seeds"] > 1 else folders[0][1]
    _finish([folder for _, folder in folders], out, where["jobs"], stacked=where["stacked"])
    return 0


def _finish(
    folders: list[Path],
    place: Path,
    jobs: int,
    iterations: int | None = None,
    *,
    stacked: bool = False,
) -> None:
    """Train one run, or several each in its own process or all in this one.

    Says how to go on if they are stopped.
    """
    from precocial.runs.jobs import run_all
    from precocial.stacking import run_stacked
    from precocial.training import run

    try:
        if stacked:
            failures = run_stacked(folders, iterations)
        elif len(folders) == 1:
            run(folders[0], iterations)
            failures = {}
        else:
            failures = run_all(folders, jobs=jobs, iterations=iterations)
    except KeyboardInterrupt:
        print(f"saved; continue with precocial train --resume {place}", file=sys.stderr)
        raise
    if failures:
        causes = "; ".join(f"{folder}: {error}" for folder, error in failures.items())
        others = ", the others are done" if len(failures) < len(folders) else ""
        raise UserError(
            f"{len(failures)} of {len(folders)} runs failed{others}: {causes}; "
            f"continue with precocial train --resume {place}"
        )
    say(place)


def resume(args: list[str]) -> int:
    """``precocial train --resume``."""
    from precocial.runs.folder import expand_runs

    flags = parse(Resume, args, "precocial train --resume DIR")
    if flags.stacked and flags.jobs > 1:
        raise UserError("--stacked trains in one process; leave --jobs out")
    for name in ("iterations", "jobs"):
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; expected 1 or more")
    _finish(
        expand_runs([flags.resume]), flags.resume, flags.jobs, flags.iterations,
        stacked=flags.stacked,
    )  # fmt: skip
    return 0


@dataclass(frozen=True)
class OneOfSeveral:
    """One run of those that ``runs.jobs`` trains; it ends with the process that began it."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    iterations: int | None = None
    """Go on to this many outer iterations."""


def job(args: list[str]) -> int:
    """``precocial job``, which users need not know."""
    from precocial.training import run

    def follow() -> None:
        os.read(0, 1)  # returns when the process at the other end is gone, however it went
        os.kill(os.getpid(), signal.SIGTERM)

    flags = parse(OneOfSeveral, args, "precocial job")
    threading.Thread(target=follow, daemon=True).start()
    run(flags.run, flags.iterations, quiet=True)
    return 0


@dataclass(frozen=True)
class TransferPlace:
    """Where a source goes, and what it is measured by."""

    env: str = "CartPole-v1"
    """Where to train: registered family, Gymnasium id, or module:Class."""
    algo: str = ""
    """By what; the algorithm that trained the source by default."""
    preset: str = "default"
    """Named settings of the algorithm and the family; explicit flags override them."""
    out: Path | None = None
    """Folder of OUT/transfer/seed-S and OUT/scratch/seed-S; default runs/transfer-ALGO-ENV."""
    seeds: int = 1
    """Runs on each side, --seed, --seed + 1, ...; of several sources each has one in turn."""
    scratch: bool = True
    """Also train the same without a source, the control."""
    threshold: float | None = None
    """Return whose time to be reached is measured; Gymnasium's own for its ids."""
    jobs: int = 1
    """How many runs to train at once, where they cannot be stacked."""
    dry_run: bool = False
    """Print what becomes of every layer, and stop."""


def transfer(args: list[str]) -> int:
    """``precocial transfer``."""
    from precocial.algos.transfer.config import TransferConfig
    from precocial.runs.plan import plan, with_overrides
    from precocial.transferring.run import judge, own_algo, prepare, start
    from precocial.transferring.source import read_sources

    if not args or args[0].startswith("-"):
        usage = "usage: precocial transfer SOURCE --env ENV [flags]; SOURCE is a run folder, a "
        usage += ".zip of Stable-Baselines3, a .safetensors file or module:callable"
        if {"-h", "--help"} & set(args):
            print(f"{usage}\nprecocial transfer SOURCE --env ENV --help shows every flag")
            return 0
        raise UserError(f"no source given; {usage}")
    rest = args[1:]
    sources = read_sources(args[0], _which_checkpoint(rest))
    place = TransferPlace(
        env=_value_of(rest, "--env", TransferPlace.env),
        preset=_value_of(rest, "--preset", TransferPlace.preset),
        algo=_value_of(rest, "--algo", "") or own_algo(sources[0]),
    )
    base = plan(place.algo, place.env, place.preset)
    parts = [place, TransferConfig(), base.run, base.algo_config]
    cls = flat(
        "Transfer", f"Start {place.algo} on {place.env} from {args[0]}.",
        [("", part) for part in parts] + [("env_", base.env_config)],
    )  # fmt: skip
    flags = vars(parse(cls, _aliases(rest), "precocial transfer SOURCE"))
    given = [a.split("=")[0][2:].replace("-", "_") for a in rest if a.startswith("--")]
    if "iterations" not in given and flags["env_steps"]:
        flags.pop("iterations")
    where = {k: flags.pop(k) for k in TransferPlace.__dataclass_fields__}
    ways = TransferConfig(**{k: flags.pop(k) for k in TransferConfig.__dataclass_fields__})
    for name in ("seeds", "jobs"):
        if where[name] < 1:
            raise UserError(f"--{name} is {where[name]}; expected 1 or more")
    if where["threshold"] is not None and not math.isfinite(where["threshold"]):
        raise UserError(f"--threshold is {where['threshold']}; expected a return, e.g. 475")
    named = [name.removeprefix("no_") for name in given]
    ready = prepare(sources, with_overrides(base, flags), ways, where["seeds"], given=named)
    console = Console(stderr=not where["dry_run"], file=_results if where["dry_run"] else None)
    console.print(_surgery(ready.rows, f"{args[0]} -> {place.algo} on {place.env}"))
    for note in ready.notes:
        console.print(note, markup=False, highlight=False)
    if where["dry_run"]:
        return 0
    name = f"transfer-{place.algo}-{base.folder.name.removeprefix(f'{place.algo}-')}"
    out = where["out"] or Path("runs") / name.rpartition("-")[0]
    try:
        failures = start(ready, out, scratch=where["scratch"], jobs=where["jobs"])
    except KeyboardInterrupt:
        print("saved; go on with the same command", file=sys.stderr)
        raise
    if failures:
        causes = "; ".join(f"{folder}: {error}" for folder, error in failures.items())
        raise UserError(f"{len(failures)} runs failed: {causes}; go on with the same command")
    threshold = where["threshold"]
    _print_transfer(judge(out, _gym_threshold(place.env) if threshold is None else threshold))
    say(out)
    return 0


@dataclass(frozen=True)
class ImportPlace:
    """Where a policy of Stable-Baselines3 comes from and goes to."""

    env: str = ""
    """What it was trained on: registered family, Gymnasium id, or module:Class."""
    vecnormalize: Path | None = None
    """What VecNormalize.save wrote beside it, e.g. vecnormalize.pkl."""
    out: Path | None = None
    """Run folder; default runs/sb3-ENV-0."""
    overwrite: bool = False
    """Replace an existing run folder."""


def bring_in(args: list[str]) -> int:
    """``precocial import``."""
    from precocial.runs.imported import make_run
    from precocial.runs.plan import plan, with_overrides

    if not args or args[0].startswith("-"):
        usage = "usage: precocial import FILE.zip --env ENV [--vecnormalize FILE.pkl] [flags]"
        if {"-h", "--help"} & set(args):
            print(f"{usage}\nprecocial import FILE.zip --env ENV --help shows every flag")
            return 0
        raise UserError(f"no file given; {usage}")
    file, rest = Path(args[0]), args[1:]
    env = _value_of(rest, "--env", "")
    if not env:
        raise UserError(
            "a zip does not say what it was trained on; name it, e.g. --env CartPole-v1"
        )
    base = plan("sb3", env)
    cls = flat(
        "Import", f"A run folder of {file} on {env}.",
        [("", ImportPlace(env=env)), ("env_", base.env_config)],
    )  # fmt: skip
    flags = vars(parse(cls, _aliases(rest), "precocial import FILE.zip"))
    where = {k: flags.pop(k) for k in ImportPlace.__dataclass_fields__}
    out = where["out"] or base.folder
    make_run(
        file, with_overrides(base, flags), out, vecnormalize=where["vecnormalize"],
        overwrite=where["overwrite"],
    )  # fmt: skip
    say(out)
    return 0


@dataclass(frozen=True)
class Export:
    """A run's policy for Stable-Baselines3, ONNX, or whoever reads layers by PyTorch's names."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    to: Literal["sb3", "safetensors", "onnx"]
    """A zip that SB3 loads; layers in a file; a graph (of a memory one step, with its state)."""
    out: Path | None = None
    """File; default RUN/policy.zip, .safetensors or .onnx."""
    learner: Path | None = None
    """A learner that adapted and was saved (Agent.save) instead of the run's starting point."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint."""


def hand_out(args: list[str]) -> int:
    """``precocial export``."""
    flags = parse(Export, args, "precocial export")
    from precocial.exporting.policy import export

    ending = {"sb3": "zip"}.get(flags.to, flags.to)
    out = flags.out or flags.run / f"policy.{ending}"
    say(export(flags.run, flags.to, out, flags.learner, flags.checkpoint))
    return 0


@dataclass(frozen=True)
class RankPlace:
    """Where sources are tried."""

    env: str = "CartPole-v1"
    """Where to train: registered family, Gymnasium id, or module:Class."""
    algo: str = ""
    """By what; the algorithm that trained the first source by default."""
    preset: str = "default"
    """Named settings of the algorithm and the family; explicit flags override them."""
    out: Path | None = None
    """Folder of the probes, OUT/SOURCE/FORM/seed-S; default runs/rank-ALGO-ENV."""
    jobs: int = 1
    """How many probes to train at once, where they cannot be stacked."""


def rank(args: list[str]) -> int:
    """``precocial rank``."""
    from precocial.algos.transfer.config import TransferConfig
    from precocial.runs.plan import plan, with_overrides
    from precocial.transferring.rank import RankConfig, candidates, probe
    from precocial.transferring.run import own_algo
    from precocial.transferring.source import read_sources

    first_flag = next((i for i, a in enumerate(args) if a.startswith("-")), len(args))
    sources, rest = args[:first_flag], args[first_flag:]
    if not sources:
        usage = "usage: precocial rank SOURCE [SOURCE ...] --env ENV [flags]; SOURCE is a run "
        usage += "folder, a .safetensors file or module:callable"
        if {"-h", "--help"} & set(args):
            print(f"{usage}\nprecocial rank SOURCE --env ENV --help shows every flag")
            return 0
        raise UserError(f"no source given; {usage}")
    which = _which_checkpoint(rest)
    place = RankPlace(
        env=_value_of(rest, "--env", RankPlace.env),
        preset=_value_of(rest, "--preset", RankPlace.preset),
        algo=_value_of(rest, "--algo", "") or own_algo(read_sources(sources[0], which)[0]),
    )
    base = plan(place.algo, place.env, place.preset)
    parts = [place, RankConfig(), TransferConfig(), base.run, base.algo_config]
    cls = flat(
        "Rank", f"Which of {', '.join(sources)} {place.algo} on {place.env} should begin from.",
        [("", part) for part in parts] + [("env_", base.env_config)],
    )  # fmt: skip
    flags = vars(parse(cls, _aliases(rest), "precocial rank SOURCE ..."))
    given = [a.split("=")[0][2:].replace("-", "_") for a in rest if a.startswith("--")]
    where = RankPlace(**{k: flags.pop(k) for k in RankPlace.__dataclass_fields__})
    cfg = RankConfig(**{k: flags.pop(k) for k in RankConfig.__dataclass_fields__})
    ways = TransferConfig(**{k: flags.pop(k) for k in TransferConfig.__dataclass_fields__})
    at_least(where, 1, "jobs")
    named = [name.removeprefix("no_") for name in given]
    found, notes = candidates(sources, with_overrides(base, flags), ways, cfg.seeds, given=named)
    for note in notes:
        print(note, file=sys.stderr)
    name = base.folder.name.rpartition("-")[0]
    out = where.out or Path("runs") / f"rank-{name}"
    try:
        result = probe(found, cfg, ways, out, jobs=where.jobs)
    except KeyboardInterrupt:
        print("saved; go on with the same command", file=sys.stderr)
        raise
    _print_ranking(result)
    say(out)
    return 0


def _print_ranking(result: dict[str, Any]) -> None:
    """The order as a table, and the verdict."""
    table = Table(title=f"{result['algorithm']} on {result['env']}, {result['seeds']} seeds")
    for name in ("begin from", "iterations", "untrained", "score", "behind the first", "R2"):
        justify: Literal["left", "right"] = "left" if name == "begin from" else "right"
        table.add_column(name, justify=justify, overflow="fold")

    def figure(x: dict[str, Any]) -> str:
        between = "" if x["ci95"] is None else "\n[{:.3g}, {:.3g}]".format(*x["ci95"])
        return escape(f"{x['mean']:.3g}{between}")

    for k, x in enumerate(result["ranking"]):
        behind = "" if not k else figure(x["behind"]) + ("" if x["apart"] else "\nnot told apart")
        fit = "" if x["feature_fit"] is None else f"{x['feature_fit']:.2f}"
        table.add_row(
            x["name"],
            str(x["iterations"]),
            f"{x['untrained']:.3g}",
            figure(x["score"]),
            behind,
            fit,
        )
    console = Console(file=_results)
    console.print(table)
    for name, error in result["failed"].items():
        console.print(f"{name} failed: {error}", markup=False, highlight=False)
    console.print(
        f"{result['train_steps']:,} steps of training, {result['eval_steps']:,} of evaluation. R2: "
        "how much of the returns its features tell; not ranked by, it cannot see a wrong head.",
        markup=False, highlight=False,
    )  # fmt: skip
    console.print(result["verdict"], markup=False, highlight=False)
    first = result["ranking"][0]
    if result["verdict"].startswith("Begin"):
        new = f" --reinit {' '.join(first['reinit'])}" if first["reinit"] else ""
        words = f"precocial transfer {quote(first['source'])} --env {result['env']}{new} ..."
        console.print(words, markup=False, highlight=False, soft_wrap=True)


def _which_checkpoint(args: list[str]) -> Literal["best", "last"]:
    """The value of ``--checkpoint``."""
    which = _value_of(args, "--checkpoint", "best")
    if which not in ("best", "last"):
        raise UserError(f"--checkpoint is {which!r}; expected best or last")
    return "best" if which == "best" else "last"


def _gym_threshold(env: str) -> float | None:
    """The return from which Gymnasium calls its environment solved; None where it does not say."""
    import gymnasium

    found = gymnasium.registry.get(env)
    return None if found is None else found.reward_threshold


def _surgery(rows: list[Any], title: str) -> Table:
    """What becomes of every layer."""
    table = Table(title=title)
    for name in ("layer", "what", "source", "target", "how"):
        table.add_column(name)
    for row in rows:
        fate = row.fate + (", frozen" if row.frozen else "")
        table.add_row(row.layer, fate, row.source, row.target, row.note)
    return table


def _print_transfer(result: dict[str, Any]) -> None:
    """The measures as a table."""
    from precocial.transferring.measure import ROWS

    table = Table(title=f"{result['algorithm']} on {result['env']}, {result['seeds']} seeds")
    sides = [side for side in ("transfer", "scratch") if side in result]
    for name in ("", *sides, "difference"):
        table.add_column(name, justify="left" if not name else "right")

    def figure(x: dict[str, Any]) -> str:
        between = "" if x["ci95"] is None else " [{:.4g}, {:.4g}]".format(*x["ci95"])
        return f"{x['mean']:.4g}{between}"

    for words, key, difference in ROWS:
        if key not in result["transfer"]:
            continue
        found = figure(result[difference]) if difference in result else ""
        table.add_row(words, *(figure(result[side][key]) for side in sides), found)
    console = Console(file=_results)
    console.print(table)
    if result["threshold"] is not None:
        late = ", ".join(f"{side} {result[side]['censored']}" for side in sides)
        console.print(
            f"threshold {result['threshold']:g}; never reached within {result['budget']:g} steps, "
            f"of all seeds: {late}"
        )
        if "at_most_half_the_time" in result:
            few = f"{result['at_most_half_the_time']} of {result['seeds']}"
            console.print(f"in at most half of scratch's time, seed by seed: {few}")
    if result.get("transfer_ratio") is not None:
        console.print(f"transfer ratio: {result['transfer_ratio']:+.2f} of scratch's area")
    if result["forgetting"]:
        lost = result["forgetting"]
        console.print(
            f"on the source's own task: {lost['source']:.4g} before, {lost['after']:.4g} after"
        )


def _is_algo(word: str) -> bool:
    from precocial.algos import ALGOS

    return word in ALGOS


def _value_of(args: list[str], flag: str, default: str) -> str:
    """The value a flag has in ``args``, needed before the other flags are known."""
    if sum(arg.split("=")[0] == flag for arg in args) > 1:
        raise UserError(f"{flag} was given twice; expected it once")
    for i, arg in enumerate(args):
        if arg == flag and i + 1 < len(args):
            return args[i + 1]
        if arg.startswith(flag + "="):
            return arg.split("=", 1)[1]
    return default


def _aliases(args: list[str]) -> list[str]:
    """``--workers`` and ``--step-timeout`` are the adapter's ``--env-...``."""
    names = {"--workers": "--env-workers", "--step-timeout": "--env-step-timeout"}
    return [
        "=".join([names.get(a.split("=")[0], a.split("=")[0]), *a.split("=")[1:]]) for a in args
    ]


# ---- eval, report, watch ------------------------------------------------------------------


@dataclass(frozen=True)
class Eval:
    """The adaptation curve of a run, or of several seeds of it, on tasks it has not met."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, or a folder of seed-S runs."""
    split: Literal["train", "valid", "test", "shifted"] = "test"
    """Which tasks."""
    tasks: int = 40
    """Number of tasks (N)."""
    lanes: int | None = None
    """Episodes per task and stage (E); default as in training."""
    updates: int | None = None
    """Updates after the first stage; default 3, or the whole trial of a bandit."""
    episodes: int | None = None
    """The same for memory methods: episodes of the trial."""
    adapt_lrs: tuple[float, ...] = ()
    """Rates of update 1, 2, 3, ... instead of the run's own, after the run folder; choose them on
    valid tasks."""
    greedy: bool = False
    """Score the most likely actions instead of samples."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint; best is by return on valid tasks."""
    reference: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """A run to score on the same tasks (oracle, multi-task, scratch); repeatable."""
    seed: int = 0
    """Of the tasks and of all randomness in the evaluation."""
    json: bool = False
    """Print the JSON object and nothing else."""


def evaluate(args: list[str]) -> int:
    """``precocial eval``."""
    flags = parse(Eval, args, "precocial eval")
    if not flags.runs:
        raise UserError("no run folder given; try precocial eval runs/maml-point-nav-0")
    for name, low in (("tasks", 1), ("lanes", 1), ("updates", 0), ("episodes", 1), ("seed", 0)):
        value = getattr(flags, name)
        if value is not None and value < low:
            raise UserError(f"--{name} is {value}; expected {low} or more")
    if flags.updates is not None and flags.episodes is not None:
        raise UserError("--updates and --episodes were both given; expected one of them")
    from precocial.evaluation.table import evaluate as run_evaluation

    result = run_evaluation(
        list(flags.runs), split=flags.split, tasks=flags.tasks, lanes=flags.lanes,
        updates=flags.updates, episodes=flags.episodes,
        adapt_lrs=flags.adapt_lrs, greedy=flags.greedy, which=flags.checkpoint,
        references=list(flags.reference),
        seed=flags.seed,
    )  # fmt: skip
    if flags.json:
        say(json.dumps(result))
    else:
        _print_curve(result)
    return 0


def _print_curve(result: dict[str, Any]) -> None:
    """The evaluation as a table."""
    title = (
        f"{result['algorithm']} on {result['env']}, {result['num_tasks']} {result['split']} "
        f"tasks x {result['lanes']} lanes, {result['runs']} run(s)"
    )
    if "model_error" in result:
        table = _model_table(result, title)
    elif result["stage_unit"] == "episode":
        table = _trial_table(result, title)
    else:
        table = _update_table(result, title)
    console = Console(file=_results)
    console.print(table)
    if "trial_return_mean" in result and "model_error" not in result:
        error = result["trial_stderr"]
        console.print(
            f"whole trial: {result['trial_return_mean']:.3f}"
            + ("" if error is None else f" (standard error over tasks {error:.3f})")
        )
    if "lanes_diverged" in result:
        console.print(f"{result['lanes_diverged']} lanes diverged; their episodes ended early")
    for name, value in result["references"].items():
        listed = result["stage_unit"] == "episode" and name in result["reference_curves"]
        if value is not None and not listed:
            curve = [s["return_mean"] for s in result["reference_curves"].get(name, [])]
            learns = len({*curve}) > 1
            console.print(f"{name}: {value:.2f}" + (f" to {curve[-1]:.2f}" if learns else ""))


def _update_table(result: dict[str, Any], title: str) -> Table:
    """One row per stage."""
    table = Table(title=title)
    for name in ("after updates", "rate", "mean return", "IQM", "95 % interval", "success"):
        table.add_column(name, justify="right")
    rates = ["", *(f"{lr:g}" for lr in result["adapt_lrs"])]
    for row, rate in zip(result["stages"], rates, strict=True):
        success = f"{row['success_rate']:.2f}" if "success_rate" in row else ""
        table.add_row(
            str(row["stage"]), rate, f"{row['return_mean']:.2f}", f"{row['return_iqm']:.2f}",
            _interval(row["ci95"], 2), success,
        )  # fmt: skip
    return table


def _interval(ends: Sequence[float] | None, places: int) -> str:
    """Both ends; nothing where there is no interval."""
    return f"{ends[0]:.{places}f} .. {ends[1]:.{places}f}" if ends else ""


TERMINAL = 80
"""Columns of text that a table has to fit into."""


def _trial_table(result: dict[str, Any], title: str) -> Table:
    """One row per method: mean return of single episodes, as many as fit, and of the trial."""
    from precocial.report.words import few_of

    stages = {result["algorithm"]: result["stages"]} | result["reference_curves"]
    means = {name: [s["return_mean"] for s in rows] for name, rows in stages.items()}
    totals = {name: f"{sum(row):.2f}" for name, row in means.items()}
    num = len(result["stages"])
    frame = 3  # a border and two blanks, of each column
    taken = (
        1 + max(map(len, [*means, "solved by then"])) + max(map(len, [*totals.values(), "trial"]))
    )
    width = max(len(str(num)), *(len(f"{v:.2f}") for row in means.values() for v in row))
    shown = few_of(num, max(3, (TERMINAL - taken - 2 * frame) // (width + frame)))
    table = Table(title=f"{title}\nmean return per episode")
    table.add_column("method", no_wrap=True)
    for k in shown:
        table.add_column(str(k + 1), justify="right", no_wrap=True)
    table.add_column("trial", justify="right", no_wrap=True)
    for name, row in means.items():
        table.add_row(name, *(f"{row[k]:.2f}" for k in shown), totals[name])
    for key, words in (("success_rate", "success rate"), ("solved_by", "solved by then")):
        if key not in result["stages"][0]:
            continue
        if key == "success_rate":
            table.add_section()
        table.add_row(words, *(f"{result['stages'][k][key]:.2f}" for k in shown), "")
    return table


def _model_table(result: dict[str, Any], title: str) -> Table:
    """One row per method: return, and error of its model on what the runs in question met."""
    met = result["model_error"]["by_transitions"]["since"]
    table = Table(
        title=f"{title}\nnext-state error, in deviations of a step's change, after 16 transitions "
        f"since the {'change' if met == 'switch' else 'start'}; of all on what the first met"
    )
    table.add_column("method", no_wrap=True)
    for name in ("return", "95 % interval", "unadapted", "adapted"):
        table.add_column(name, justify="right", no_wrap=True)

    def errors(of: dict[str, Any] | None) -> list[str]:
        values = [of[k] if of else None for k in ("unadapted", "adapted")]
        return ["" if v is None else f"{v:.3f}" for v in values]

    interval = _interval(result.get("trial_ci95"), 1)
    total = sum(row["return_mean"] for row in result["stages"])
    table.add_row(result["algorithm"], f"{total:.1f}", interval, *errors(result["model_error"]))
    for name, rows in result["reference_curves"].items():
        total = sum(row["return_mean"] for row in rows)
        table.add_row(
            name, f"{total:.1f}", "", *errors(result.get("reference_errors", {}).get(name))
        )
    return table


@dataclass(frozen=True)
class Report:
    """One self-contained HTML page from run folders; reads files only."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, or folders of seed-S runs."""
    out: Path = Path("report.html")
    """The page to write."""


def report(args: list[str]) -> int:
    """``precocial report``."""
    flags = parse(Report, args, "precocial report")
    if not flags.runs:
        raise UserError("no run folder given; try precocial report runs/* --out report.html")
    from precocial.report import write_report

    write_report(list(flags.runs), flags.out)
    say(flags.out)
    return 0


@dataclass(frozen=True)
class Watch:
    """Episodes on the same unseen task, before and after adapting, side by side."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    out: Path | None = None
    """FILE.gif or FILE.mp4, or FILE.png for the last frames; without it a window, where there is a
    display."""
    updates: int | None = None
    """Updates to film after the first stage, of a method that updates; default 1."""
    episodes: int | None = None
    """Episodes of the trial, of a memory method; default the whole trial. Of more than 4 it shows
    the first, the second and the last."""
    seed: int = 0
    """Which task, and all randomness."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint."""
    fps: int = 20
    """Frames per second."""


def watch(args: list[str]) -> int:
    """``precocial watch``."""
    flags = parse(Watch, args, "precocial watch")
    for name, low in (("updates", 0), ("episodes", 1), ("fps", 1)):
        value = getattr(flags, name)
        if value is not None and value < low:
            raise UserError(f"--{name} is {value}; expected {low} or more")
    from precocial.runs.folder import expand_runs, read_plan
    from precocial.watching.camera import film
    from precocial.watching.show import check_output, show, stage_label, write

    if flags.out is not None:
        check_output(flags.out)
    run = expand_runs([flags.run])[0]
    films = film(
        run, updates=flags.updates, episodes=flags.episodes, seed=flags.seed,
        which=flags.checkpoint,
    )  # fmt: skip
    labels = [stage_label(f.stage, f.unit, f.episode_return) for f in films]
    frames = [f.frames for f in films]
    if flags.out is None:
        show(frames, labels, flags.fps)
    else:
        plan = read_plan(run)
        task = f"the test task of seed {flags.seed}"
        about = f"{plan.algo} on {plan.env}, {task}. {'; '.join(labels).capitalize()}"
        write(frames, labels, flags.out, flags.fps, about)
        say(flags.out)
    return 0


# ---- list, check-env ----------------------------------------------------------------------


@dataclass(frozen=True)
class ListAll:
    """Every algorithm, variant and family."""

    what: tyro.conf.Positional[Literal["all", "algos", "envs"]] = "all"
    """Only one of the two lists."""
    json: bool = False
    """Print JSON and nothing else."""


def list_all(args: list[str]) -> int:
    """``precocial list``."""
    flags = parse(ListAll, args, "precocial list")
    from precocial.algos import ALGOS, BRANCHES
    from precocial.envs import ENVS, KINDS
    from precocial.presets import PRESETS

    algos = [
        {
            "name": name, "branch": entry.branch, "summary": entry.summary, "paper": entry.paper,
            "action": entry.action, "observation": "flat", "extra": "",
            "presets": {env: list(table) for (algo, env), table in PRESETS.items() if algo == name},
        }
        for name, entry in ALGOS.items()
    ]  # fmt: skip
    envs = [
        {
            "name": name, "kind": f.kind, "summary": f.summary, "paper": f.paper,
            "action": f.action, "observation": f.observation, "extra": f.extra,
        }
        for name, f in ENVS.items()
    ]  # fmt: skip
    chosen: dict[str, list[dict[str, Any]]] = {"algos": algos, "envs": envs}
    if flags.what != "all":
        chosen = {flags.what: chosen[flags.what]}
    if flags.json:
        say(json.dumps(chosen if flags.what == "all" else chosen[flags.what]))
        return 0
    console = Console(file=_results)
    if "algos" in chosen:
        console.print(_listing("algorithms", algos, "branch", BRANCHES))
    if "envs" in chosen:
        console.print(_listing("task families", envs, "kind", KINDS))
    return 0


def _listing(title: str, rows: list[dict[str, Any]], by: str, groups: dict[str, str]) -> Table:
    """A section for each group; what a row is wraps between words, so that 80 columns do."""
    table = Table(title=title)
    narrow = ("name", "action") if by == "branch" else ("name", "action", "observation")
    for name in (narrow[0], "what", *narrow[1:]):
        table.add_column(name, no_wrap=name != "what")
    for group, words in groups.items():
        table.add_section()
        table.add_row("", f"[bold]{words}[/bold]")
        for row in rows:
            if row[by] == group:
                what = f"{row['summary']} ({row['paper']})"
                table.add_row(row["name"], what, *(row[k] for k in narrow[1:]))
    return table


@dataclass(frozen=True)
class CheckEnv:
    """Says what is wrong with an environment; exit 1 if anything is."""

    env: tyro.conf.Positional[str]
    """module:Class, module:factory, Gymnasium id or registered family."""
    horizon: Annotated[int, tyro.conf.arg(help="Time limit in steps where it names none.")] = 0
    budget: float = 60.0
    """Time for playing an environment of your own, in seconds; what does not fit in is named."""


def check_env(args: list[str]) -> int:
    """``precocial check-env``."""
    flags = parse(CheckEnv, args, "precocial check-env")
    at_least(flags, 0, "budget")
    from precocial.envs.own.check import check
    from precocial.envs.own.findings import Pace

    def tell(line: str) -> None:
        print(f"check-env: {line}", file=sys.stderr, flush=True)

    pace = Pace(flags.budget, tell)
    problems = check(flags.env, flags.horizon, pace)
    for problem in problems:
        say(f"{problem.code}: {problem.message}")
    if pace.left_out:
        say(f"left out for lack of time (--budget): {', '.join(pace.left_out)}")
    if not problems:
        say(f"{flags.env}: no problems found" + (" in the rest" if pace.left_out else ""))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
