"""Measure training and log p(x) beside peers, round by round, and write the tables of docs/performance.md.

    make bench                                          # everything: hours
    python benchmarks/run.py --quick                    # one small round of everything, into benchmarks/.quick/
    python benchmarks/run.py --only training 'first-*'  # some suites
    python benchmarks/run.py --only 'evidence/ours*'    # some systems of a suite
    python benchmarks/run.py --list
    python benchmarks/run.py --render                   # the page again, from the raw results of all machines

In each round every system runs once, in a process of its own, in turn; the order is rotated from round to round. Ratios
are taken within a round. Every run is saved when it ends: after an interruption the same command goes on.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import environments
import machine
import page
from results import Run, Store, value
from systems import Case, Scale, Suite, cases, suites

HERE = Path(__file__).parent
ROOT = HERE.parent


class RunError(Exception):
    """A run gave no number; the message says why."""


def main(argv: list[str] | None = None) -> None:
    """Measure what is asked for and missing, then write the page."""
    args = _parser().parse_args(argv)
    scale = _scale(args)
    chosen = suites(scale)
    if args.list:
        print("\n".join(f"{name}/{system}" for name, suite in chosen.items() for system in suite.systems))
        return
    folder = HERE / ".quick" if args.quick else None
    results = (folder or HERE) / "results"
    if not args.render:
        measure(Store(results / f"{machine.slug()}.json"), chosen, scale, args)
    docs = folder or ROOT / "docs"
    stores = [Store(path) for path in sorted(results.glob("*.json"))]
    page.write(docs / "performance.md", docs / "pictures", stores, suites)
    print(f"wrote {docs / 'performance.md'}", file=sys.stderr)


def _scale(args: Namespace) -> Scale:
    from pyro_vae.compiling.backends import onednn_is_better  # torch, which the list of suites needs not

    if args.quick:
        return Scale(args.threads, num=6000, epochs=1, images=20, few=True, onednn=onednn_is_better())
    return Scale(args.threads, num=args.num, images=args.images, onednn=onednn_is_better())


def _parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="SUITE[/SYSTEM]", help="patterns; see --list")
    parser.add_argument("--rounds", type=int, help="default: 5; with --quick 1")
    parser.add_argument("--threads", type=int, default=machine.cores(), help="default: all cores")
    parser.add_argument("--num", type=int, default=Scale.num, help="images in an epoch")
    parser.add_argument("--images", type=int, default=Scale.images, help="images of a run of log p(x)")
    parser.add_argument("--quick", action="store_true", help="one round of little work: whether it all runs")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results of the suites chosen")
    parser.add_argument("--time-limit", type=float, default=900, help="seconds for one run")
    parser.add_argument("--list", action="store_true", help="name all suites and systems")
    parser.add_argument("--render", action="store_true", help="write the page from the results there are")
    return parser


def measure(store: Store, chosen: dict[str, Suite], scale: Scale, args: Namespace) -> None:
    """Run, suite by suite and round by round, all that is asked for and not in the store."""
    conditions = {**machine.describe(), "scale": vars(scale)}
    rounds = args.rounds or (1 if args.quick else 5)
    plan = {name: _missing(store, name, suite, scale, rounds, args) for name, suite in chosen.items()}
    total = sum(len(todo) for todo in plan.values())
    for name, todo in plan.items():
        if todo:
            _open(store, name, conditions, args)
    _prepare({case.environment for todo in plan.values() for _, case in todo})
    started, count = time.perf_counter(), 0
    for name, todo in plan.items():
        hopeless: set[tuple[str, str]] = set()
        for turn, case in todo:
            count += 1
            if (case.system, case.setting) not in hopeless:
                run = execute(case, turn, scale, args.time_limit)
                store.add(name, run)
                hopeless |= {(case.system, case.setting)} if "failed" in run else set()
                _tell(run, chosen[name].kind, case, turn, rounds, count, total, started)


def _missing(
    store: Store, name: str, suite: Suite, scale: Scale, rounds: int, args: Namespace
) -> list[tuple[int, Case]]:
    """The runs of a suite still to be made, with their rounds, in order."""
    return [
        (turn, case)
        for turn in range(rounds)
        for case in cases(name, suite, scale, turn)
        if any(fnmatch(name, p) or fnmatch(f"{name}/{case.system}", p) for p in args.only)
        and (args.fresh or not store.done(name, case.system, case.setting, turn))
    ]


def _open(store: Store, name: str, conditions: dict[str, Any], args: Namespace) -> None:
    try:
        store.open(name, conditions, args.fresh)
    except ValueError as error:
        raise SystemExit(str(error)) from error


def _prepare(needed: set[str]) -> None:
    """Make the peers' environments before anything is timed; one that can't be made is told again by its runs."""
    for environment in sorted(needed):
        with suppress(environments.UnavailableError):
            environments.python(environment)


def execute(case: Case, turn: int, scale: Scale, limit: float) -> Run:
    """One run in a process of its own, as a record for the store."""
    others, start = machine.Others(), time.perf_counter()
    try:
        outcome = {"result": _result(case, scale, limit)}
    except (RunError, environments.UnavailableError) as error:
        outcome = {"failed": str(error)}
    return {
        "system": case.system,
        "setting": case.setting,
        "round": turn,
        "command": " ".join(case.command),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "seconds": round(time.perf_counter() - start, 1),
        "others": others.cores(),
        **outcome,
    }


def _result(case: Case, scale: Scale, limit: float) -> dict[str, Any]:
    """The line that a run prints. For a warm cache it runs twice in a new cache, and the second counts."""
    command = _command(case)
    with _inductor_cache(case.cache) as cache:
        if case.cache == "warm":
            _line(command, cache, scale, limit)
        return _line(command, cache, scale, limit)


def _command(case: Case) -> list[str]:
    return [sys.executable, str(HERE / "beside.py"), *_alone(case)] if case.busy else _alone(case)


def _alone(case: Case) -> list[str]:
    python = str(environments.python(case.environment))
    if case.processes:
        launcher = [python, "-m", "torch.distributed.run", "--standalone"]
        return [
            *launcher,
            f"--nproc-per-node={case.processes}",
            "--",  # torchrun reads options after the script too
            str(HERE / case.command[0]),
            *case.command[1:],
        ]
    return [python, str(HERE / case.command[0]), *case.command[1:]]


@contextmanager
def _inductor_cache(kind: str) -> Iterator[Path]:
    """The folder of TorchInductor's cache: a lasting one, or a new one."""
    if kind == "kept":
        yield HERE / ".cache" / "inductor"
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _line(command: list[str], cache: Path, scale: Scale, limit: float) -> dict[str, Any]:
    """Run a command and read the last line of its output.

    Raises:
        RunError: if it fails, takes too long, or prints no result.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
        "OMP_NUM_THREADS": str(scale.threads),
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
        try:
            output, errors = process.communicate(timeout=limit)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise RunError(f"it took more than {limit:.0f} s") from error
            raise
    if process.returncode != 0:
        raise RunError((errors.strip().splitlines() or [f"exit code {process.returncode}"])[-1][:300])
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise RunError("it printed no result")
    found = json.loads(lines[-1])
    if "unsupported" in found:
        raise RunError(found["unsupported"])
    return found


def _tell(run: Run, kind: str, case: Case, turn: int, rounds: int, count: int, total: int, started: float) -> None:
    """A line of progress."""
    number = value(run, kind)
    unit = "s" if kind == "first step" else "images/s"
    outcome = f"failed: {run['failed']}" if number is None else f"{number:,.1f} {unit}"
    left = (time.perf_counter() - started) / count * (total - count) / 60
    where = f"{case.suite} {case.setting}".strip()
    print(
        f"[{count} of {total}, about {left:.0f} min left] round {turn + 1} of {rounds}  {where}  {case.system}: "
        f"{outcome}  ({run['seconds']:.0f} s)",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    main()
