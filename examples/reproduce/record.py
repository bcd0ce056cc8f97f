"""What every script of this folder shares: its options, and the JSON file of a result.

A result consists of parts (a curve, a row of a table). Each part keeps its own training and its own `part.json` in
`RUNS/NAME/PART`, and `NAME.json` is put together from the parts that are there. A part says by which command, version,
machine, seed and protocol it was made, what it cost, and its values with their standard errors:

    {"name": ..., "title": ..., "parts": {PART: {
        "command", "version", "commit", "finished", "machine", "threads", "seed", "data", "protocol",
        "passes", "passes_published", "samples", "cpu_seconds", "wall_seconds",
        "values": {NAME: {"value": ..., "error": ...}}, "curves": {NAME: [...]}}}}
"""

import argparse
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from pyro_vae.errors import PyroVaeError
from pyro_vae.runs.directory import version

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import machine  # noqa: E402

RESULTS = ROOT / "docs" / "results"


def options(description: str | None, name: str) -> argparse.ArgumentParser:
    """The options that all scripts have.

    Args:
        description: the docstring of the script.
        name: of the result.
    """
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=form)
    parser.add_argument("--quick", action="store_true", help="packaged digits, small networks, a short training")
    parser.add_argument("--data_root", type=Path, help="folder of mnist.npz, static_mnist.npz, frey_faces.npz")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts, in this order")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduce") / name, help="folder of the trainings")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    return parser


def chosen(options: argparse.Namespace, parts: Iterable[str]) -> list[str]:
    """The parts to compute, all where none are named; ends the script where options contradict each other.

    Args:
        options: as parsed.
        parts: the names of all parts.
    """
    names = options.only or list(parts)
    if unknown := [name for name in names if name not in parts]:
        raise SystemExit(f"--only: expected {', '.join(parts)}; got {', '.join(unknown)}")
    if options.quick and options.out.resolve() == RESULTS:
        raise SystemExit("--quick tests that the script runs and is no result: give another folder by --out")
    if not options.quick and options.data_root is None:
        raise SystemExit("the full protocol needs the data: give their folder by --data_root, or --quick")
    return names


def provenance() -> dict[str, Any]:
    """By what a part was made: command, version, commit, machine and number of threads."""
    return {
        "command": shlex.join(["python", *_relative(sys.argv)]),
        "version": version(),
        "commit": machine.commit(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.cpu_model(),
        "threads": torch.get_num_threads(),
    }


def _relative(words: list[str]) -> list[str]:
    """The command without folders of this machine."""
    hidden = (before == "--data_root" or Path(word).is_absolute() for before, word in pairwise(words))
    named = ("FOLDER" if hide else word for hide, word in zip(hidden, words[1:], strict=True))
    return [os.path.relpath(words[0], ROOT), *named]


@contextmanager
def timed(cost: dict[str, float]) -> Iterator[None]:
    """Add the CPU seconds of this process and its children, and the seconds that passed, to `cost`.

    They are added also where the block is left by an error, e.g. because a signal came.
    """
    began, start = time.monotonic(), _cpu_seconds()
    try:
        yield
    finally:
        for name, spent in (("cpu_seconds", _cpu_seconds() - start), ("wall_seconds", time.monotonic() - began)):
            cost[name] = round(cost.get(name, 0.0) + spent, 3)


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def read(path: Path) -> dict[str, Any]:
    """A JSON file; empty where there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file: at any moment it is whole, the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = json.dumps(content, indent=1, allow_nan=False)
    draft.write_text(re.sub(r"\[[^][{}]*\]", lambda numbers: " ".join(numbers[0].split()), text) + "\n")
    draft.replace(path)


def collect(options: argparse.Namespace, name: str, title: str, parts: Iterable[str]) -> dict[str, Any]:
    """The result from the parts that have values; saves it as `NAME.json` in the folder `--out`.

    A part that was computed on another machine, or under another `--runs`, stays as the file has it.
    """
    before = read(options.out / f"{name}.json").get("parts", {})
    found = {part: read(options.runs / part / "part.json") for part in parts}
    made = {part: here if here.get("values") else before.get(part) for part, here in found.items()}
    result = {"name": name, "title": title, "parts": {part: values for part, values in made.items() if values}}
    save(options.out / f"{name}.json", result)
    return result


def run(options: argparse.Namespace, name: str, title: str, parts: dict[str, Callable[[Path], None]]) -> dict[str, Any]:
    """Compute the parts that were asked for, one after the other; the result is saved after each.

    Args:
        options: as parsed.
        name: of the result.
        title: what it is, for the page.
        parts: for each name a function of the part's folder that computes it, and writes `part.json` there.
    """
    for part in chosen(options, parts):
        print(part, flush=True)
        parts[part](options.runs / part)
        collect(options, name, title, parts)
    return collect(options, name, title, parts)


def script(main: Callable[[argparse.Namespace], Any], parser: argparse.ArgumentParser) -> None:
    """Run a script; an error or a signal ends it with one line that says what to do, and with an exit code."""
    try:
        main(parser.parse_args())
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has enough, as in `--list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python flushes at its end, and fails
    except PyroVaeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
